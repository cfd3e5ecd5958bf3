"""This process's resident memory, as the kernel counts it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


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
