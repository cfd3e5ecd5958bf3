"""Crash marker, OOM-kill detection, Ctrl-C.

Whether a process that died without a word was killed for memory.

Linux counts such kills, for a cgroup and for the whole system. macOS counts none: there the guard's last sample
decides, and without any sample (a kill within the first second, as a first step that is too large brings it) memory
is taken to be the reason, since a needless step down costs less than a run that is killed again and again.

`in_flight.json`: what a process is at. There while one trains, gone at every clean end; found at a resume, the
process before died uncleanly. (The run folder's lock says that no live process owns it.)

Ctrl-C once: finish the update, save, stop. Twice: stop now. SIGTERM counts like the first.
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
    """How many processes were killed for memory until now: file → count, this process's cgroup before the system.
    Empty where the system doesn't count."""
    counts = {}
    for file in (*_cgroup_counter_files(), SYSTEM_COUNTERS):
        if (count := _read_kill_count(file)) is not None:
            counts[file] = count
    return counts


def boot_id() -> str:
    """Differs from boot to boot; empty where the system has no such name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return sysctl_text("kern.bootsessionuuid") or ""


def oom_kill_reason(counts: Mapping[str, int], boot: str, sample: Mapping[str, Any] | None) -> str | None:
    """Why a death is put down to memory, or None. `counts`, `boot` and `sample` are what the dead process noted:
    `kill_counts()`, `boot_id()`, and the guard's last sample (`used` and `limit` in bytes, `critical`)."""
    same_boot = boot == boot_id()
    if counts:
        return _kill_counter_reason(counts) if same_boot else None
    if sample is None:
        return "this system doesn't say why, and it died at once" if same_boot else None
    if sample["used"] > NEAR_LIMIT_SHARE * sample["limit"]:
        return f"{sample['used'] / sample['limit']:.0%} of the limit was in use just before"
    return "memory pressure was critical just before" if sample["critical"] else None


def _kill_counter_reason(before: Mapping[str, int]) -> str | None:
    """By the dead process's own cgroup where that is still there, else by the whole system."""
    for file, count in before.items():
        now = _read_kill_count(file)
        if now is not None and now >= count:
            where = "system" if file == SYSTEM_COUNTERS else "cgroup"
            return f"the kernel killed for memory in this {where}" if now > count else None
    return None


def _cgroup_counter_files() -> list[str]:
    """The file that counts for this process's memory cgroup (version 1 or 2), if there is one."""
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
    """What a process that died was at; `memory` is what memory had taught it, `why` the evidence that it was killed
    for memory (None: none)."""

    phase: int
    method: str
    memory: MemoryState
    why: str | None


class CrashMarker:
    """The file of this process; the guard's thread may hand it samples."""

    def __init__(self, run: Path) -> None:
        self._file = run / CRASH_MARKER_FILE
        self._lock = threading.Lock()
        self._content: dict[str, Any] | None = None
        self._sample: dict[str, Any] | None = None
        self._written = 0.0
        self._machine = {"pid": os.getpid(), "boot": boot_id(), "kills": oom_kill_counts()}

    def crash(self) -> CrashReport | None:
        """What the process before died at, if it died. Call it before the first `write`."""
        try:
            tree = json.loads(self._file.read_text(encoding="utf-8"))
            why = oom_kill_reason(tree["kills"], tree["boot"], tree["sample"])
            memory = MemoryState.from_json(tree["memory"])
            return CrashReport(tree["phase"], tree["method"], memory, why)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, phase: int, update: int, method: str, length: int, planned: int, memory: MemoryState) -> None:
        """Say what is begun; atomic and synced. `length` in tokens, `planned` in bytes (0: not planned)."""
        with self._lock:
            self._content = {"phase": phase, "update": update, "method": method, "length": length, "planned": planned}
            self._content["memory"] = asdict(memory)
            self._put()

    def renew(self, update: int | None = None, sample: Mapping[str, Any] | None = None) -> None:
        """Note the update in progress or the guard's sample; written every few seconds at most."""
        with self._lock:
            if self._content is None:
                return
            if update is not None:
                self._content["update"] = update
            if sample is not None:
                self._sample = dict(sample)
            if time.monotonic() - self._written >= WRITE_INTERVAL_SECONDS:
                with suppress(InputError, RunError):  # a full disk is the next checkpoint's to say
                    self._put()

    def __enter__(self) -> CrashMarker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Every end that this code sees is a clean one; what stands for a kill in tests isn't an `Exception`."""
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
    """While entered (in the main thread), signals set `requested`; a second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self.requested = False
        self._told = told
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
            self._told("stopping after this update, then saving; Ctrl-C again stops at once without saving")
