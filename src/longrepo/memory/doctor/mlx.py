"""MLX: whether it computes with 4-bit weights here, and whether it has Metal."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from longrepo.memory.doctor.finding import Finding

ERROR = 0.15  # relative, of a normal random matrix in 4 affine bits, groups of 64
OTHERWISE = "pip install -U mlx mlx-lm, or use --engine torch"


def four_bit(device: str, dtype: str) -> Finding:
    """Quantise and multiply a small matrix, forwards and backwards, on MLX's default device."""
    import mlx.core as mx

    kind = getattr(mx, dtype)
    try:
        weight = mx.random.normal((64, 128), key=mx.random.key(0)).astype(kind)
        rows = mx.random.normal((4, 128), key=mx.random.key(1)).astype(kind)
        packed, scales, biases = mx.quantize(weight, group_size=64, bits=4)
        whole = mx.dequantize(packed, scales, biases, group_size=64, bits=4)

        def product(x: mx.array) -> mx.array:
            return mx.quantized_matmul(x, packed, scales, biases, transpose=True, group_size=64, bits=4)

        ones = mx.ones((4, 64), kind)
        (found,), (gradient,) = mx.vjp(product, [rows], [ones])
        error = _relative(whole, weight)
        wrong = max(_relative(found, rows @ whole.T), _relative(gradient, ones @ whole))
    except (RuntimeError, ValueError, TypeError) as reason:
        first = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
        return Finding("problem", "4-bit", f"MLX's 4-bit weights don't work on {device} ({first[:120]})", OTHERWISE)
    if error > ERROR or wrong > 0.05:
        what = f"MLX's 4-bit weights compute wrongly on {device}: off by {max(error, wrong):.0%}"
        return Finding("problem", "4-bit", what, OTHERWISE)
    return Finding("ok", "4-bit", f"MLX computes with affine 4 bits on {device}, forwards and backwards")


def metal() -> Finding:
    """The GPU, or that there is none."""
    import mlx.core as mx

    version = metadata.version("mlx")
    if not mx.metal.is_available():
        what = f"mlx {version} has no Metal here: it computes on the CPU, correct and slow"
        return Finding("note", "metal", what, "use --engine torch on this machine, or a Mac with Apple Silicon")
    return Finding("ok", "metal", f"mlx {version} on {mx.device_info().get('device_name', 'the GPU')}")


def _relative(found: Any, expected: Any) -> float:
    import mlx.core as mx

    one, other = found.astype(mx.float32), expected.astype(mx.float32)
    off: Any = mx.linalg.norm(one - other) / mx.linalg.norm(other)
    return float(off.item())
