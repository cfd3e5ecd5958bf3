"""Whether a process that died without a word was killed for memory.

Linux counts such kills, for a cgroup and for the whole system. macOS counts none: there the guard's last sample
decides, and without any sample (a kill within the first second, as a first step that is too large brings it) memory
is taken to be the reason, since a needless step down costs less than a run that is killed again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrepo.memory.pressure import sysctl_text

SYSTEM = "/proc/vmstat"
NEAR = 0.9  # of the limit
_KEY = "oom_kill"


def kill_counts() -> dict[str, int]:
    """How many processes were killed for memory until now: file → count, this process's cgroup before the system.
    Empty where the system doesn't count."""
    counts = {}
    for file in (*_cgroup_files(), SYSTEM):
        if (count := _count(file)) is not None:
            counts[file] = count
    return counts


def boot_id() -> str:
    """Differs from boot to boot; empty where the system has no such name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return sysctl_text("kern.bootsessionuuid") or ""


def killed_for_memory(counts: Mapping[str, int], boot: str, sample: Mapping[str, Any] | None) -> str | None:
    """Why a death is put down to memory, or None. `counts`, `boot` and `sample` are what the dead process noted:
    `kill_counts()`, `boot_id()`, and the guard's last sample (`used` and `limit` in bytes, `critical`)."""
    same_boot = boot == boot_id()
    if counts:
        return _counted(counts) if same_boot else None
    if sample is None:
        return "this system doesn't say why, and it died at once" if same_boot else None
    if sample["used"] > NEAR * sample["limit"]:
        return f"{sample['used'] / sample['limit']:.0%} of the limit was in use just before"
    return "memory pressure was critical just before" if sample["critical"] else None


def _counted(before: Mapping[str, int]) -> str | None:
    """By the dead process's own cgroup where that is still there, else by the whole system."""
    for file, count in before.items():
        now = _count(file)
        if now is not None and now >= count:
            where = "system" if file == SYSTEM else "cgroup"
            return f"the kernel killed for memory in this {where}" if now > count else None
    return None


def _cgroup_files() -> list[str]:
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


def _count(file: str) -> int | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(count) for key, _, count in (line.partition(" ") for line in lines) if key == _KEY), None)
