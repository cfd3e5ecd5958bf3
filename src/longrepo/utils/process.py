"""This process's resident memory as the kernel counts it, and how much freed memory its C library holds back."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from pathlib import Path

_MMAP_THRESHOLD, _THRESHOLD_BYTES = -3, 128 * 1024  # mallopt's parameter, and glibc's initial value


def peak_resident() -> int:
    """Return peak resident bytes since `reset_peak_resident` (Linux) or since the process started (elsewhere)."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_resident() -> None:
    """Reset the peak if the kernel allows it; otherwise do nothing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def return_freed_memory() -> bool:
    """Make the C library return each freed block of 128 KiB or more at once; return False if it isn't glibc.

    By default glibc raises this threshold to the size of the blocks it has seen freed, up to 32 MiB, and keeps smaller
    ones. That is faster, but blocks of many sizes leave gaps, which take up to twice the planned memory
    (`benchmarks/memory/process_accuracy.py`). Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES))
