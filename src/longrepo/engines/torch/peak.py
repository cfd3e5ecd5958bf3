"""The highest memory use since a reset, as the device's allocator counts it, or the process's on a CPU."""

from __future__ import annotations

import torch

from longrepo.engines import process


class PeakMemory:
    """Bytes. Metal keeps no peak of its own: there it is the most seen at the moments it was read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen = 0

    def read(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if self._device.type == "mps":
            self._seen = max(self._seen, torch.mps.driver_allocated_memory())
            return self._seen
        return process.peak_resident()

    def reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "mps":
            self._seen = 0
        else:
            process.reset_peak_resident()
