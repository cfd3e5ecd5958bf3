"""Where MLX computes and in which precision, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from longrepo.errors import InputError


@dataclass(frozen=True)
class Placement:
    """`device`: `metal` or `cpu`. `dtype`: of the base's unquantised weights and of what is computed."""

    device: str
    dtype: mx.Dtype
    choices: tuple[tuple[str, str], ...]

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).rpartition(".")[2]


def place(device: str, precision: str) -> Placement:
    """Resolve `auto|mps|cpu` and `auto|bfloat16|float32`, and compute there from now on. Raises InputError where the
    machine lacks it."""
    metal = mx.metal.is_available()
    if device == "cuda" or (device == "mps" and not metal):
        usable = "mps, cpu" if metal else "cpu"
        raise InputError(f"--device {device}: MLX can't compute there on this machine; usable here: {usable}")
    chosen, why = ("metal", "as asked") if device == "mps" else ("cpu", "as asked")
    if device == "auto":
        chosen, why = ("metal", "the fastest device found") if metal else ("cpu", "no Metal device found")
    mx.set_default_device(mx.Device(mx.DeviceType.gpu if chosen == "metal" else mx.DeviceType.cpu))
    dtype, why_dtype = _dtype(chosen, precision)
    name = str(dtype).rpartition(".")[2]
    return Placement(chosen, dtype, ((f"device: {chosen}", why), (f"precision: {name}", why_dtype)))


def _dtype(device: str, wanted: str) -> tuple[mx.Dtype, str]:
    if wanted != "auto":
        return {"bfloat16": mx.bfloat16, "float32": mx.float32}[wanted], "as set in training.precision"
    if device == "cpu":
        return mx.float32, "MLX has no fast bfloat16 on a CPU"
    return mx.bfloat16, "the device has it: half the activations' memory, float32 range"
