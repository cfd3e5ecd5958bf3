"""A command in a process of its own, measured: wall time, processor time, what else the machine did, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

POLL = 0.1  # seconds between two looks at the memory
QUIET = 0.3  # cores that others may keep busy when a measurement begins


@dataclass
class Measured:
    """One run. `cores`: kept busy by it on average; `others`: by everything else meanwhile (what the hypervisor took
    included), and `load` the one-minute load average before it began: they say how far `seconds` can be trusted.

    Memory, in bytes, where asked for: the largest sum over all processes of the run at one moment, of what is theirs
    (`pss`: pages that n processes share count 1/n each; on systems without it what is theirs alone) and of what is
    resident (`rss`: shared pages count n times); `largest`: the high-water mark of the largest process.
    """

    seconds: float
    cores: float
    others: float
    load: float
    pss: int | None = None
    rss: int | None = None
    largest: int | None = None
    processes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Without what wasn't measured."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
    memory: bool = False,
    one_core: bool = False,
    patience: float = 0,
) -> Measured:
    """Run a command once the machine is quiet, or after `patience` seconds; its output is added to `log`.

    Raises SystemExit where it fails.
    """
    wait_until_quiet(patience)
    load, before = os.getloadavg()[0], _busy()
    with log.open("a") as out:
        out.write(f"\n== {' '.join(map(str, command))}\n")
        out.flush()
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], env=dict(environment), cwd=cwd, stdout=out, stderr=out,
            preexec_fn=_on_one_core if one_core else None,
        )  # fmt: skip
        watch = MemoryWatch(process.pid) if memory else None
        _, status, used = os.wait4(process.pid, 0)  # `used` is of it and of all that it waited for
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    own = used.ru_utime + used.ru_stime
    measured = Measured(seconds, own / seconds, max(0.0, (_busy() - before - own) / seconds), load)
    if watch:
        watch.stop()
        measured.pss, measured.rss, measured.processes = watch.pss, watch.rss, watch.processes
        measured.largest = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if process.returncode:
        raise SystemExit(f"status {process.returncode}, see the end of {log}: {' '.join(map(str, command))}")
    return measured


def wait_until_quiet(patience: float) -> None:
    """Until less than QUIET cores were busy for a second, or so many seconds have gone."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = _busy()
        time.sleep(1)
        if _busy() - before < QUIET:
            return


class MemoryWatch:
    """Looks at a process and all its descendants ten times a second until it is stopped."""

    def __init__(self, pid: int) -> None:
        self.pss = self.rss = self.processes = 0
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No look after this."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(POLL):
            pss = rss = count = 0
            try:
                for one in [self._root, *self._root.children(recursive=True)]:
                    try:
                        found = one.memory_full_info()
                    except psutil.Error:  # it has ended
                        continue
                    pss += getattr(found, "pss", found.uss)
                    rss += found.rss
                    count += 1
            except psutil.Error:
                continue
            self.pss, self.rss = max(self.pss, pss), max(self.rss, rss)
            self.processes = max(self.processes, count)


def _busy() -> float:
    """Processor seconds of the whole machine that were not idle."""
    times = psutil.cpu_times()._asdict()
    return sum(times.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def _on_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
