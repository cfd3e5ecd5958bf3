"""The libraries: which there are, whether 4-bit weights work on the device, and which fast paths it has."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator
from importlib import metadata, util
from typing import Any

from longrepo.memory.doctor.finding import Finding

REQUIRED = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
OPTIONAL = ("mlx", "mlx-lm")
KERNELS_FROM_MACOS = 26  # bitsandbytes asks for its Metal kernels only there
NF4_ERROR = 0.15  # relative, of a normal random matrix in NF4: 0.09 to 0.1


def libraries() -> Iterator[Finding]:
    """The engines' libraries against what this package asks for."""
    from packaging.requirements import Requirement

    wanted = {r.name: r for r in map(Requirement, metadata.requires("longrepo") or ()) if not r.marker}
    found = {name: version for name in (*REQUIRED, *OPTIONAL) if (version := _version(name))}
    for name in REQUIRED:
        if name not in found:
            yield Finding("problem", "engines", f"{name} is not installed", f"pip install '{wanted[name]}'")
        elif name in wanted and not wanted[name].specifier.contains(found[name].partition("+")[0], prereleases=True):
            yield Finding("problem", "engines", f"{name} {found[name]} is too old", f"pip install '{wanted[name]}'")
    yield Finding("ok", "engines", ", ".join(f"{name} {version}" for name, version in found.items()))
    if sys.platform == "darwin" and "mlx" not in found:
        yield Finding("note", "engines", "mlx is not installed: only the torch engine can run", "pip install mlx")


def four_bit(device: str, dtype: str, double: bool) -> Finding:
    """Quantise, de-quantise and multiply a small matrix, forwards and backwards, on the device."""
    import torch

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that only inference would use
    kind: torch.dtype = getattr(torch, dtype)
    try:
        from bitsandbytes import functional
        from bitsandbytes.autograd._functions import matmul_4bit

        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(64, 128, generator=generator).to(device, kind)
        rows = torch.randn(4, 128, generator=generator).to(device, kind).requires_grad_()
        packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
        back = functional.dequantize_4bit(packed, state).to(weight.dtype)
        product = matmul_4bit(rows, packed.t(), state)
        product.float().sum().backward()
        error = _relative(back, weight)
        wrong = max(
            _relative(product.detach(), rows.detach() @ back.t()), _relative(rows.grad, back.sum(0).expand(4, -1))
        )
    except Exception as reason:  # a missing library, kernel or operation: each raises its own kind
        first = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
        what = f"4-bit weights don't work on {device} ({first[:120]})"
        return Finding("problem", "4-bit", what, "pip install -U bitsandbytes, or --set model.quantization=none")
    if error > NF4_ERROR or wrong > 0.05:
        what = f"4-bit weights compute wrongly on {device}: off by {max(error, wrong):.0%}"
        return Finding("problem", "4-bit", what, "pip install -U bitsandbytes, or --set model.quantization=none")
    return Finding("ok", "4-bit", f"bitsandbytes computes NF4 on {device}, forwards and backwards")


def kernels(device: str) -> Iterator[Finding]:
    """Which fast paths the device has, and what those that are missing cost."""
    if device == "mps":
        yield _metal_kernels()
        yield Finding(
            "note",
            "attention",
            "Metal's fused attention has no backward pass: scores of a whole sequence would be kept",
            "nothing to do: with memory.step=auto long sequences are computed in chunks",
        )
        return
    yield Finding("ok", "attention", f"fused, forwards and backwards, on {device}")
    if device == "cpu":
        yield _processor()


def _metal_kernels() -> Finding:
    release = int(platform.mac_ver()[0].partition(".")[0] or 0)
    if release < KERNELS_FROM_MACOS:
        what = f"no Metal kernels for 4-bit weights before macOS {KERNELS_FROM_MACOS}: slower, the same results"
        return Finding("note", "kernels", what, f"update macOS to {KERNELS_FROM_MACOS} or later")
    if not util.find_spec("kernels"):
        what = "the package `kernels` is missing: 4-bit weights are unpacked by plain torch, slower, the same results"
        return Finding("note", "kernels", what, "pip install kernels")
    return Finding("ok", "kernels", "Metal kernels for 4-bit weights can be loaded from the hub")


def _processor() -> Finding:
    import torch

    vectors = torch.backends.cpu.get_cpu_capability()
    units = {"AVX512-BF16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
    there = [name for name, found in units.items() if found]
    what = f"vectors: {vectors}; bfloat16 units: {' and '.join(there) or 'none, bfloat16 is emulated'}"
    if vectors in ("DEFAULT", "NO AVX"):
        return Finding("note", "kernels", f"{what}: training is several times slower", "use a newer processor or a GPU")
    return Finding("ok", "kernels", f"{what}; the package `kernels` would serve inference only")


def _relative(found: Any, expected: Any) -> float:
    return float((found - expected).float().norm() / expected.float().norm())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
