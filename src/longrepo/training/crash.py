"""Notice how a training process ended: killed for lack of memory, crashed, or stopped by Ctrl-C.

Linux counts the processes it kills for memory, by cgroup and for the whole system. macOS doesn't: there the guard's
last sample decides, and without a sample (a kill within the first second, by a first step that is too large) memory is
assumed, since a needless step down costs less than a run that is killed again and again.

`in_flight.json`, the crash marker, says what a process is doing. It exists while one trains and is removed at every
clean end: if a resume finds it, the previous process crashed. (The run folder's lock shows that no live process owns
it.)
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from longrepo.errors import InputError, RunError
from longrepo.memory.budget import sysctl_text
from longrepo.training.state import MemoryState
from longrepo.utils.files import write_text_file

SYSTEM_COUNTERS = "/proc/vmstat"
NEAR_LIMIT_SHARE = 0.9  # of the limit
_OOM_KILL_KEY = "oom_kill"


def oom_kill_counts() -> dict[str, int]:
    """Count the processes killed for memory so far: file → count, this process's cgroup before the system. Empty if the
    system doesn't count them."""
    counts = {}
    for file in (*_cgroup_counter_files(), SYSTEM_COUNTERS):
        if (count := _read_kill_count(file)) is not None:
            counts[file] = count
    return counts


def boot_id() -> str:
    """Return an id that differs from boot to boot; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return sysctl_text("kern.bootsessionuuid") or ""


def oom_kill_reason(counts: Mapping[str, int], boot: str, sample: Mapping[str, Any] | None) -> str | None:
    """Say why lack of memory is taken for the cause of a crash, or None. `counts`, `boot` and `sample` were written by
    the crashed process: `oom_kill_counts()`, `boot_id()`, and the guard's last sample (`used` and `limit` in bytes,
    `critical`)."""
    same_boot = boot == boot_id()
    if counts:
        return _kill_counter_reason(counts) if same_boot else None
    if sample is None:
        return "this system doesn't say why, and it died at once" if same_boot else None
    if sample["used"] > NEAR_LIMIT_SHARE * sample["limit"]:
        return f"{sample['used'] / sample['limit']:.0%} of the limit was in use just before"
    return "memory pressure was critical just before" if sample["critical"] else None


def _kill_counter_reason(before: Mapping[str, int]) -> str | None:
    """By the crashed process's own cgroup if it still exists, else by the whole system."""
    for file, count in before.items():
        now = _read_kill_count(file)
        if now is not None and now >= count:
            where = "system" if file == SYSTEM_COUNTERS else "cgroup"
            return f"the kernel killed for memory in this {where}" if now > count else None
    return None


def _cgroup_counter_files() -> list[str]:
    """The kill counter of this process's memory cgroup (version 1 or 2), if there is one."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.oom_control"
        elif not controllers:
            root, name = Path("/sys/fs/cgroup"), "memory.events"
        else:
            continue
        for folder in (root / path.lstrip("/"), root):  # a container sees its own cgroup as the root
            if (folder / name).exists():
                return [str(folder / name)]
    return []


def _read_kill_count(file: str) -> int | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(count) for key, _, count in (line.partition(" ") for line in lines) if key == _OOM_KILL_KEY), None)


CRASH_MARKER_FILE = "in_flight.json"
WRITE_INTERVAL_SECONDS = 5.0  # seconds between two writes that only renew the update and the sample


@dataclass(frozen=True)
class CrashReport:
    """What a crashed process was doing; `memory`: its memory state; `why`: the evidence that it was killed for memory,
    if any."""

    phase: int
    method: str
    memory: MemoryState
    why: str | None


class CrashMarker:
    """This process's `in_flight.json`; the guard's thread may pass it samples."""

    def __init__(self, run: Path) -> None:
        self._file = run / CRASH_MARKER_FILE
        self._lock = threading.Lock()
        self._content: dict[str, Any] | None = None
        self._sample: dict[str, Any] | None = None
        self._written = 0.0
        self._machine = {"pid": os.getpid(), "boot": boot_id(), "kills": oom_kill_counts()}

    def crash(self) -> CrashReport | None:
        """Report the previous process's crash, if it crashed. Call it before the first `write`."""
        try:
            tree = json.loads(self._file.read_text(encoding="utf-8"))
            why = oom_kill_reason(tree["kills"], tree["boot"], tree["sample"])
            memory = MemoryState.from_json(tree["memory"])
            return CrashReport(tree["phase"], tree["method"], memory, why)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, phase: int, update: int, method: str, length: int, planned: int, memory: MemoryState) -> None:
        """Write what is starting, atomically and synced. `length` in tokens, `planned` in bytes (0: not planned)."""
        with self._lock:
            self._content = {"phase": phase, "update": update, "method": method, "length": length, "planned": planned}
            self._content["memory"] = asdict(memory)
            self._put()

    def renew(self, update: int | None = None, sample: Mapping[str, Any] | None = None) -> None:
        """Record the update in progress or the guard's sample; written every few seconds at most."""
        with self._lock:
            if self._content is None:
                return
            if update is not None:
                self._content["update"] = update
            if sample is not None:
                self._sample = dict(sample)
            if time.monotonic() - self._written >= WRITE_INTERVAL_SECONDS:
                with suppress(InputError, RunError):  # the next checkpoint reports a full disk
                    self._put()

    def __enter__(self) -> CrashMarker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the marker: every end that this code sees is a clean one. (Tests simulate a kill by what isn't an
        `Exception`.)"""
        if kind is None or issubclass(kind, Exception | KeyboardInterrupt):
            with self._lock:
                self._content = None
                self._file.unlink(missing_ok=True)

    def _put(self) -> None:
        write_text_file(
            self._file, json.dumps({**self._machine, **(self._content or {}), "sample": self._sample}) + "\n"
        )
        self._written = time.monotonic()


INTERRUPTED_STATUS = 130


class Interrupt:
    """Handles Ctrl-C in the main thread: once, the update is finished and saved; twice, KeyboardInterrupt is raised.
    SIGTERM counts like the first."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.requested = False
        self._report = report
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = True
            self._report("stopping after this update, then saving; Ctrl-C again stops at once without saving")
