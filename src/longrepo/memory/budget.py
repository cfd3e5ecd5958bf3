"""The memory a run may use: the smaller of what was set and what the machine can give now (RAM, cgroup, Metal, CUDA).

What this process already holds counts as available to it, so that the figure means the same before a model is loaded
and in the middle of a step: on a CPU its resident memory (of the machine's free memory only what no file backs: the
kernel counts pages of files as free), on a GPU what the allocator has reserved.

The sensors read how short of memory the machine and this process are. They are read once a second, so they are cheap.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

GIB = 2**30
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Budget:
    """The `bytes` a run may use, where the figure comes from, and whether a person set it (then it is a limit)."""

    bytes: int
    reason: str
    limit: bool


@dataclass(frozen=True)
class AvailableMemory:
    """The `bytes` this process may hold in all, now. `enforced`: a limit sets it (`limit` bytes), above which the
    process is killed or refused memory; otherwise other programs' use does, which ends when they do."""

    bytes: int
    source: str
    enforced: bool
    limit: int


@dataclass(frozen=True)
class CgroupNames:
    """Names of a memory cgroup's files and of the counters in its `memory.stat`."""

    version: int
    limit: str
    usage: str
    inactive: bytes
    active: bytes
    mapped: bytes


_V1 = CgroupNames(
    1,
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    b"total_inactive_file",
    b"total_active_file",
    b"total_mapped_file",
)
_V2 = CgroupNames(2, "memory.max", "memory.current", b"inactive_file", b"active_file", b"file_mapped")
_UNLIMITED = 2**62  # version 1 writes the largest multiple of a page below 2**63 for "no limit"


def find_budget(device: str, set_gb: float | None) -> Budget:
    """The budget on `mps`, `metal` (MLX's), `cuda` or `cpu`. `set_gb` is `memory.budget_gb`, in GiB."""
    room = available_memory(device)
    if set_gb is None:
        return Budget(room.bytes, room.source, limit=False)
    wanted = int(set_gb * GIB)
    if wanted <= room.bytes:
        return Budget(wanted, "memory.budget_gb", limit=True)
    return Budget(room.bytes, f"{room.source}, less than memory.budget_gb ({set_gb:g} GiB)", limit=True)


def available_bytes(device: str) -> int:
    """Bytes this process may hold in all on `mps`, `metal`, `cuda` or `cpu`, read now (under a millisecond)."""
    return available_memory(device).bytes


def available_memory(device: str) -> AvailableMemory:
    """Like `available_bytes`, with the source of the figure."""
    if device in ("mps", "metal"):
        return _metal_available(*(_torch_metal_memory() if device == "mps" else _mlx_metal_memory()))
    if device == "cuda":
        return _cuda_available()
    held = process_memory()
    memory = psutil.virtual_memory()
    free = AvailableMemory(
        min(memory.total, memory.available + held.anonymous), "free memory", enforced=False, limit=memory.total
    )
    cgroup = cgroup_available(held.resident)
    return cgroup if cgroup is not None and cgroup.bytes < free.bytes else free


class ProcessMemory(NamedTuple):
    """Bytes of this process in memory: all, and those that no file backs."""

    resident: int
    anonymous: int


def process_memory() -> ProcessMemory:
    """What this process holds. If the kernel doesn't tell the two apart cheaply (macOS), both are all of it."""
    if sys.platform == "linux":
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_bytes().split())
        return ProcessMemory(resident * mmap.PAGESIZE, (resident - shared) * mmap.PAGESIZE)
    resident = psutil.Process().memory_info().rss
    return ProcessMemory(resident, resident)


def cgroup_available(held: int) -> AvailableMemory | None:
    """What a process that holds `held` bytes may hold under the tightest limit of its memory cgroup and its ancestors;
    None without a limit. Pages of files that no process maps count as free: the kernel drops them first."""
    found: AvailableMemory | None = None
    for folder, names, limit, usage in limited_cgroups():
        left = max(0, limit - max(0, usage - _reclaimable(folder, names)))
        if found is None or left + held < found.bytes:
            found = AvailableMemory(min(limit, left + held), "left in this cgroup", enforced=True, limit=limit)
    return found


def limited_cgroups() -> Iterator[tuple[Path, CgroupNames, int, int]]:
    """Those of this process's memory cgroups that have a limit: folder, names of files, limit and usage in bytes."""
    for folder, names in memory_cgroups():
        limit, usage = _read_number(folder / names.limit), _read_number(folder / names.usage)
        if limit is not None and usage is not None and limit < _UNLIMITED:
            yield folder, names, limit, usage


def memory_cgroups() -> Iterator[tuple[Path, CgroupNames]]:
    """This process's memory cgroup and its ancestors, from the innermost on, as folders that exist. In a container the
    path may name folders that are only visible outside: they are skipped, the container's own is the topmost."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, names = CGROUPS / "memory", _V1
        elif not controllers:
            top, names = CGROUPS, _V2
        else:
            continue
        folder = top if ".." in path else top / path.strip("/")
        for one in (folder, *folder.parents):
            if (one / names.usage).exists() or one == top:
                yield one, names
            if one == top:
                break


def _reclaimable(folder: Path, names: CgroupNames) -> int:
    counters = {}
    try:
        for line in (folder / "memory.stat").read_bytes().splitlines():
            name, _, value = line.partition(b" ")
            counters[name] = int(value)
    except (OSError, ValueError):
        return 0
    return max(0, sum(counters.get(name, 0) for name in (names.inactive, names.active)) - counters.get(names.mapped, 0))


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_bytes())
    except (OSError, ValueError):  # no such file, or `max`: no limit
        return None


def _torch_metal_memory() -> tuple[int, int]:
    """Bytes that macOS recommends for the GPU, and that the allocator holds."""
    import torch

    return torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory()


def _mlx_metal_memory() -> tuple[int, int]:
    import mlx.core as mx

    limit = int(mx.device_info()["max_recommended_working_set_size"])
    return limit, mx.get_active_memory() + mx.get_cache_memory()


def _metal_available(limit: int, held: int) -> AvailableMemory:
    free = psutil.virtual_memory().available + held
    if free < limit:
        return AvailableMemory(free, "free memory, less than macOS gives the GPU", enforced=False, limit=limit)
    return AvailableMemory(limit, "what macOS recommends for the GPU", enforced=True, limit=limit)


def _cuda_available() -> AvailableMemory:
    import torch

    free, total = torch.cuda.mem_get_info()
    limit = int(torch.cuda.get_per_process_memory_fraction() * total)
    left = free + torch.cuda.memory_reserved()
    if left < limit or limit == total:
        return AvailableMemory(left, "free on the GPU", enforced=False, limit=limit)
    return AvailableMemory(limit, "this process's share of the GPU", enforced=True, limit=limit)


MAC_WARNING, MAC_CRITICAL = 2, 4
SOME_STALLED, ALL_STALLED = 40.0, 10.0  # % of the last ten seconds; systemd-oomd's default is to kill at 60 % of "all"
CGROUP_FULL = 0.95  # of a cgroup's limit in use, with its page cache
_PRESSURE = Path("/proc/pressure/memory")
_AVERAGE = re.compile(rb"^(some|full) avg10=([\d.]+)", re.MULTILINE)


@dataclass(frozen=True)
class MemoryPressure:
    """`some` and `full`: % of the last ten seconds in which some or all of the machine's tasks waited for memory
    (Linux). `level`: 1 normal, 2 warning, 4 critical (macOS). `cgroup`: share of this process's tightest cgroup limit
    that is in use, 0 without a limit."""

    some: float = 0.0
    full: float = 0.0
    level: int = 1
    cgroup: float = 0.0

    @property
    def high(self) -> bool:
        """Whether work suffers because of other programs. A cgroup at its own limit makes its tasks wait, too: then
        it isn't others who have to end."""
        stalled = self.some >= SOME_STALLED or self.full >= ALL_STALLED
        return (stalled and self.cgroup < CGROUP_FULL) or self.level >= MAC_CRITICAL

    def __str__(self) -> str:
        if self.level > 1:
            return "macOS says critical" if self.level >= MAC_CRITICAL else "macOS warns"
        return f"programs waited for memory {max(self.some, self.full):.0f} % of the last ten seconds"


@dataclass(frozen=True)
class MemorySample:
    """One reading. Bytes; `swap` is the whole machine's."""

    resident: int
    anonymous: int
    swap: int
    pressure: MemoryPressure


class MemorySensors(Protocol):
    """What the guard reads: memory available, and samples."""

    def sample(self) -> MemorySample: ...

    def room(self) -> AvailableMemory: ...


class MachineSensors:
    """This machine's, for a process that computes on `mps`, `metal`, `cuda` or `cpu`."""

    def __init__(self, device: str) -> None:
        self._device = device

    def room(self) -> AvailableMemory:
        return available_memory(self._device)

    def sample(self) -> MemorySample:
        held = process_memory()
        return MemorySample(held.resident, held.anonymous, swap_used(), read_pressure())


def read_pressure() -> MemoryPressure:
    """The current pressure. What the system doesn't report counts as none."""
    if sys.platform == "darwin":
        return MemoryPressure(level=sysctl_int("kern.memorystatus_vm_pressure_level") or 1)
    shares = {b"some": 0.0, b"full": 0.0}
    with suppress(OSError):  # a kernel without pressure information
        shares |= {kind: float(share) for kind, share in _AVERAGE.findall(_PRESSURE.read_bytes())}
    used = max((usage / limit for _, _, limit, usage in limited_cgroups() if limit), default=0.0)
    return MemoryPressure(shares[b"some"], shares[b"full"], cgroup=used)


def swap_used() -> int:
    """Bytes in swap, of the whole machine."""
    if sys.platform != "linux":
        return psutil.swap_memory().used
    found = dict(line.split(b":", 1) for line in Path("/proc/meminfo").read_bytes().splitlines())
    return (int(found[b"SwapTotal"].split()[0]) - int(found[b"SwapFree"].split()[0])) * 1024


def sysctl_int(name: str) -> int | None:
    """An integer of macOS's `sysctl`, without starting a process; None if there is none of that name."""
    value = _sysctl(name, 8)
    return int.from_bytes(value, sys.byteorder) if value else None


def sysctl_text(name: str) -> str | None:
    """A text of macOS's `sysctl`, such as `machdep.cpu.brand_string`."""
    value = _sysctl(name, 256)
    return value.rstrip(b"\0").decode("utf-8", "replace") if value else None


@cache
def _sysctlbyname() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), "sysctlbyname", None)


def _sysctl(name: str, most: int) -> bytes | None:
    ask = _sysctlbyname()
    if ask is None:
        return None
    buffer, size = ctypes.create_string_buffer(most), ctypes.c_size_t(most)
    failed = ask(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed else buffer.raw[: size.value]
