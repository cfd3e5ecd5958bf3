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
    """Have the C library return freed blocks of 128 KiB or more to the system, those it keeps now and all that follow.
    Return whether it can be told to (glibc).

    By default it keeps blocks of up to 32 MiB as soon as one was freed, and a step's blocks of many sizes leave gaps:
    faster, and up to twice what was planned (`benchmarks/memory/process_accuracy.py`). Source: mallopt(3),
    M_MMAP_THRESHOLD; malloc_trim(3). Any thread may call it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    if not library.mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES):
        return False
    library.malloc_trim(0)
    return True


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def freed_bytes() -> int:
    """Bytes of freed blocks that the C library keeps for reuse; 0 if it doesn't tell (glibc does, since 2.33)."""
    if platform.libc_ver()[0] != "glibc" or (read := getattr(ctypes.CDLL(None), "mallinfo2", None)) is None:
        return 0
    read.restype = _MallocInfo
    return int(read().fordblks)
