"""Select MLX's device and precision, each with its reason, and set Metal's limits from the memory plan.

The limits are how much a run may allocate, keep for reuse, and wire so that it isn't paged out.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from longrepo.engines.base import Placement
from longrepo.errors import InputError


def mlx_dtype(placement: Placement) -> mx.Dtype:
    """Return the dtype of unquantized base weights and of activations."""
    dtype: mx.Dtype = getattr(mx, placement.dtype_name)
    return dtype


def mlx_dtype_name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def select_mlx_device(device: str, precision: str) -> Placement:
    """Resolve `auto|mps|cpu` and `auto|bfloat16|float32`, and make the device MLX's default. Raises InputError if the
    machine lacks it."""
    metal = mx.metal.is_available()
    if device == "cuda" or (device == "mps" and not metal):
        usable = "mps, cpu" if metal else "cpu"
        raise InputError(f"--device {device}: MLX can't compute there on this machine; usable here: {usable}")
    chosen, why = ("metal", "as asked") if device == "mps" else ("cpu", "as asked")
    if device == "auto":
        chosen, why = ("metal", "the fastest device found") if metal else ("cpu", "no Metal device found")
    mx.set_default_device(mx.Device(mx.DeviceType.gpu if chosen == "metal" else mx.DeviceType.cpu))
    dtype, why_dtype = _select_dtype(chosen, precision)
    name = mlx_dtype_name(dtype)
    return Placement(chosen, name, ((f"device: {chosen}", why), (f"precision: {name}", why_dtype)))


def _select_dtype(device: str, wanted: str) -> tuple[mx.Dtype, str]:
    if wanted != "auto":
        return {"bfloat16": mx.bfloat16, "float32": mx.float32}[wanted], "as set in training.precision"
    if device == "cpu":
        return mx.float32, "MLX has no fast bfloat16 on a CPU"
    return mx.bfloat16, "the device has it: half the activations' memory, float32 range"


MIB, GIB = 2**20, 2**30
LIMIT_SLACK = 1.05  # times the plan; above its memory limit MLX waits for running work and doesn't fail
MIN_CACHE = 64 * MIB


def set_memory_limits(device: str, planned: int, budget: int) -> tuple[tuple[str, str], ...]:
    """Set MLX's limits for a run that is planned to need `planned` of `budget` bytes; return (limit, reason) pairs."""
    if device != "metal":
        mx.set_cache_limit(MIN_CACHE)
        reason = "freed buffers kept for reuse count as the process's memory; other limits exist only on Metal"
        return ((f"MLX's cache limit: {MIN_CACHE / GIB:.2f} GiB", reason),)
    working_set = int(mx.device_info()["max_recommended_working_set_size"])
    memory = min(budget, int(planned * LIMIT_SLACK))
    cache = max(MIN_CACHE, budget - memory)
    wired = min(planned, working_set)
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)
    mx.set_wired_limit(wired)
    return (
        (f"MLX's memory limit: {memory / GIB:.2f} GiB", "the plan plus 5 %, within the budget; above it MLX waits"),
        (f"MLX's cache limit: {cache / GIB:.2f} GiB", "for freed buffers kept for reuse: the rest of the budget"),
        (
            f"MLX's wired limit: {wired / GIB:.2f} GiB",
            "the plan, so that it isn't paged out"
            + ("" if wired == planned else f", as far as macOS recommends ({working_set / GIB:.2f} GiB)"),
        ),
    )


def to_float(array: mx.array) -> float:
    """Evaluate an array of one element and return its value."""
    mx.eval(array)
    value: Any = array.item()
    return float(value)
