"""Select torch's device and precision, each with its reason, and read the peak memory use."""

from __future__ import annotations

import torch

from longrepo.engines.base import Placement
from longrepo.errors import InputError
from longrepo.utils import process


def torch_device(placement: Placement) -> torch.device:
    return torch.device(placement.kind)


def torch_dtype(placement: Placement) -> torch.dtype:
    """Return the dtype of unquantized base weights and of matrix products; LoRA weights, losses and norms are
    float32."""
    dtype: torch.dtype = getattr(torch, placement.dtype_name)
    return dtype


def torch_dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def select_torch_device(device: str, precision: str) -> Placement:
    """Resolve `auto|mps|cuda|cpu` and `auto|bfloat16|float32`. Raises InputError if the machine lacks the device."""
    chosen, why_device = _select_device(device)
    dtype, why_dtype = _select_dtype(chosen, precision)
    name = torch_dtype_name(dtype)
    return Placement(chosen, name, ((f"device: {chosen}", why_device), (f"precision: {name}", why_dtype)))


def _select_device(wanted: str) -> tuple[str, str]:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        chosen = next(name for name, usable in available.items() if usable)
        return chosen, "no CUDA or Metal device found" if chosen == "cpu" else "the fastest device found"
    if not available[wanted]:
        names = ", ".join(name for name, usable in available.items() if usable)
        raise InputError(f"--device {wanted}: this machine or this torch build has none; usable here: {names}")
    return wanted, "as asked"


def _select_dtype(device: str, wanted: str) -> tuple[torch.dtype, str]:
    if wanted != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wanted], "as set in training.precision"
    if device == "cpu":
        # Even with matrix units for bfloat16: kernels are compiled for each new length and kept. On two cores with AMX
        # bfloat16 made the demo no faster, and its memory grew from 2.4 to 4.3 GiB (float32: 1.0 to 1.7).
        return torch.float32, "on a CPU the fastest for sequences of many lengths"
    if device == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float32, "this GPU has no bfloat16"
    if device == "mps" and not _mps_has_bfloat16():
        return torch.float32, "bfloat16 on Metal needs macOS 14 or later"
    return torch.bfloat16, "the device has it: half the activations' memory, float32 range"


def _mps_has_bfloat16() -> bool:
    try:
        torch.ones(1, dtype=torch.bfloat16, device="mps")
    except (TypeError, RuntimeError):
        return False
    return True


class PeakMemory:
    """The peak memory in bytes since a reset, as the device's allocator counts it, or the process's on a CPU.

    Metal keeps no peak; there it is the highest value that `read` has seen."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._highest = 0

    def read(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if self._device.type == "mps":
            self._highest = max(self._highest, torch.mps.driver_allocated_memory())
            return self._highest
        return process.peak_resident()

    def reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "mps":
            self._highest = 0
        else:
            process.reset_peak_resident()
