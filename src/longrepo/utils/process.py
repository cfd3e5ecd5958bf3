"""This process's resident memory, as the kernel counts it, and what its C library keeps of it."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from pathlib import Path

_MMAP_THRESHOLD, _THRESHOLD_BYTES = -3, 128 * 1024  # mallopt's parameter, and glibc's value at a process's start


def peak_resident() -> int:
    """Bytes at the highest since `reset_peak_resident` (on Linux), or since the process began (elsewhere)."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_resident() -> None:
    """Begin a new peak where the kernel allows it; elsewhere the old one stands."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def return_freed_memory() -> bool:
    """Have the C library give each freed block of 128 KiB or more back at once; whether it can be told to (glibc).

    By itself it keeps those of up to 32 MiB as soon as it has seen one freed, and a step's blocks of many sizes leave
    gaps: faster, and up to twice what was planned (`benchmarks/memory/process_accuracy.py`). Source: mallopt(3),
    M_MMAP_THRESHOLD.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES))
