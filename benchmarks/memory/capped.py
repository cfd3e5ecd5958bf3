"""A command inside a memory cgroup of a given size: what it needed, and whether the kernel killed it.

    python benchmarks/memory/capped.py GIB COMMAND...

Needs the right to make cgroups (root, or a delegated subtree named by LONGREPO_CGROUP). Works with cgroup v1 and v2.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
EVERY = 0.2  # seconds between two samples


@dataclass(frozen=True)
class Result:
    """Bytes and seconds. `killed`: the kernel killed it for memory. `peak_anonymous` is sampled five times a second,
    so a last jump before the kill escapes it; `peak_usage` is the kernel's own, page cache included."""

    returncode: int
    killed: bool
    peak_anonymous: int
    peak_usage: int
    seconds: float


class MemoryCgroup:
    """One memory cgroup: made here, its processes ended and itself removed by `remove`."""

    def __init__(self, name: str = "") -> None:
        """Exits with one line where the system doesn't let this process make one."""
        parent = Path(os.environ.get("LONGREPO_CGROUP") or "/sys/fs/cgroup")
        self.v2 = (parent / "cgroup.controllers").exists()
        if not self.v2 and (parent / "memory").is_dir():
            parent = parent / "memory"
        self.folder = parent / (name or f"longrepo-{os.getpid()}-{time.monotonic_ns()}")
        self._limit, self._usage, self._kills = (
            ("memory.max", "memory.peak", "memory.events")
            if self.v2
            else ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
        )
        try:
            if self.v2:
                (parent / "cgroup.subtree_control").write_text("+memory")
            self.folder.mkdir()
            (self.folder / self._limit).read_text()
        except OSError as error:
            with suppress(OSError):
                self.folder.rmdir()
            sys.exit(
                f"error: {parent}: no memory cgroup can be made here ({error.strerror}); run this as root on Linux, "
                "or set LONGREPO_CGROUP to a cgroup folder that is yours"
            )

    def limit(self, size: int) -> None:
        """Set in bytes. Raises OSError (EBUSY, v1) where more than that is in use and can't be given back."""
        (self.folder / self._limit).write_text(str(size))
        swap = self.folder / ("memory.swap.max" if self.v2 else "memory.memsw.limit_in_bytes")
        if swap.exists():
            swap.write_text("0" if self.v2 else str(size))

    def within(self, command: Sequence[str | Path]) -> list[str]:
        """A command that enters this cgroup before it becomes `command`."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", enter, str(self.folder / "cgroup.procs"), *map(str, command)]

    def anonymous(self) -> int:
        """Bytes of anonymous memory that its processes hold now."""
        return sum(_anonymous(pid) for pid in self._pids())

    def peak_usage(self) -> int:
        file = self.folder / self._usage
        return int(file.read_text()) if file.exists() else 0  # memory.peak came with Linux 5.19

    def kills(self) -> int:
        """How many of its processes the kernel killed for memory."""
        for line in (self.folder / self._kills).read_text().splitlines():
            key, _, count = line.partition(" ")
            if key == "oom_kill":
                return int(count)
        return 0

    def remove(self) -> None:
        """End what still runs in it, then delete it."""
        for _ in range(100):
            for pid in self._pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.1)
        print(f"{self.folder}: still in use, not removed", file=sys.stderr)

    def _pids(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "cgroup.procs").read_text().split()]


@contextmanager
def memory_cgroup(limit_bytes: int | None = None) -> Iterator[MemoryCgroup]:
    """A cgroup for the time of a block, of `limit_bytes`, or without a limit."""
    group = MemoryCgroup()
    try:
        if limit_bytes is not None:
            group.limit(limit_bytes)
        yield group
    finally:
        group.remove()


def run_capped(
    command: Sequence[str | Path],
    limit_bytes: int | None,
    *,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run a command within `limit_bytes`; its output goes to `log`, or where this process's goes.

    `environment` adds to this process's. The cgroup and all in it are gone afterwards, also after Ctrl-C.
    """
    with memory_cgroup(limit_bytes) as group, open(log or os.devnull, "wb") as file:
        began, anonymous = time.monotonic(), 0
        child = subprocess.Popen(
            group.within(command),
            stdout=file if log else None,
            stderr=subprocess.STDOUT if log else None,
            env={**os.environ, **(environment or {})},
        )
        while child.poll() is None:
            anonymous = max(anonymous, group.anonymous())
            time.sleep(EVERY)
        seconds = time.monotonic() - began
        return Result(child.returncode, group.kills() > 0, anonymous, group.peak_usage(), seconds)


def clean_up_when_terminated() -> None:
    """Let SIGTERM end this process as Ctrl-C does: with its cgroups removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _anonymous(pid: int) -> int:
    with suppress(OSError):  # it may have ended since it was listed
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    clean_up_when_terminated()
    result = run_capped(sys.argv[2:], int(float(sys.argv[1]) * GIB))
    print(
        f"{'killed by the kernel for memory' if result.killed else f'status {result.returncode}'} "
        f"after {result.seconds:.1f} s; anonymous memory {result.peak_anonymous / GIB:.2f} GiB, "
        f"cgroup {result.peak_usage / GIB:.2f} GiB (page cache included)"
    )
    return 1 if result.killed else max(result.returncode, 0)


if __name__ == "__main__":
    sys.exit(main())
