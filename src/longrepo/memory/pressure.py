"""How the machine and this process are off for memory: read once a second, so each reading is cheap."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import psutil

from longrepo.memory.budget import Room, find_room, limited_cgroups, own_memory

MAC_WARNING, MAC_CRITICAL = 2, 4
SOME_STALLED, ALL_STALLED = 40.0, 10.0  # % of the last ten seconds; systemd-oomd's default is to kill at 60 % of "all"
CGROUP_FULL = 0.95  # of a cgroup's limit in use, with its page cache
_PRESSURE = Path("/proc/pressure/memory")
_AVERAGE = re.compile(rb"^(some|full) avg10=([\d.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Pressure:
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
class Sample:
    """One reading. Bytes; `swap` is the whole machine's."""

    resident: int
    anonymous: int
    swap: int
    pressure: Pressure


class Sensors(Protocol):
    """What the guard reads."""

    def sample(self) -> Sample: ...

    def room(self) -> Room: ...


class MachineSensors:
    """This machine's, for a process that computes on `mps`, `metal`, `cuda` or `cpu`."""

    def __init__(self, device: str) -> None:
        self._device = device

    def room(self) -> Room:
        return find_room(self._device)

    def sample(self) -> Sample:
        held = own_memory()
        return Sample(held.resident, held.anonymous, swap_used(), read_pressure())


def read_pressure() -> Pressure:
    """Of now. What the system doesn't tell reads as no pressure."""
    if sys.platform == "darwin":
        return Pressure(level=sysctl_int("kern.memorystatus_vm_pressure_level") or 1)
    shares = {b"some": 0.0, b"full": 0.0}
    with suppress(OSError):  # a kernel without pressure information
        shares |= {kind: float(share) for kind, share in _AVERAGE.findall(_PRESSURE.read_bytes())}
    used = max((usage / limit for _, _, limit, usage in limited_cgroups() if limit), default=0.0)
    return Pressure(shares[b"some"], shares[b"full"], cgroup=used)


def swap_used() -> int:
    """Bytes in swap, of the whole machine."""
    if sys.platform != "linux":
        return psutil.swap_memory().used
    found = dict(line.split(b":", 1) for line in Path("/proc/meminfo").read_bytes().splitlines())
    return (int(found[b"SwapTotal"].split()[0]) - int(found[b"SwapFree"].split()[0])) * 1024


def sysctl_int(name: str) -> int | None:
    """An integer of macOS's `sysctl`, without starting a process; None where there is none of that name."""
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
