"""Single checks of `longrepo doctor`, each giving a finding.

The machine: chip, memory and its real limits, cores, disk, git. The libraries: which are installed, whether 4-bit
weights work on the device, and which fast paths it has. MLX: whether 4-bit weights and Metal work here.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

import psutil

from longrepo.memory.budget import GIB, find_budget, limited_cgroups, memory_cgroups, sysctl_text
from longrepo.utils.files import existing_folder


@dataclass(frozen=True)
class DoctorFinding:
    """One check's result: `ok`, `note` (works, but costs something) or `problem` (the main job won't run); its topic;
    what was found; and what to do about it."""

    status: Literal["ok", "note", "problem"]
    topic: str
    what: str
    remedy: str = ""


def check_chip(device: str) -> DoctorFinding:
    """The processor, and the GPU if the device is one."""
    name = _processor_name()
    if device == "cuda":
        import torch

        name = f"{torch.cuda.get_device_name()}, {name}"
    return DoctorFinding("ok", "chip", f"{name}, {platform.system()} {platform.release()} {platform.machine()}")


def check_memory(device: str, set_gb: float | None) -> DoctorFinding:
    """The memory of the machine, and how much of it a run may use."""
    total, swap = psutil.virtual_memory().total, psutil.swap_memory()
    budget = find_budget(device, set_gb)
    swapped = f", {swap.used / GIB:.1f} of {swap.total / GIB:.1f} GiB swap used" if swap.total else ", no swap"
    what = f"{total / GIB:.1f} GiB{swapped}; a run may use {budget.bytes / GIB:.2f} GiB ({budget.reason})"
    if set_gb is not None and budget.bytes < set_gb * GIB:
        return DoctorFinding("note", "memory", what, "close other programs, or lower memory.budget_gb")
    return DoctorFinding("ok", "memory", what)


def check_cgroup() -> DoctorFinding:
    """The tightest memory limit that this process and its ancestors are under."""
    limits = [(limit, usage, names.version) for _, names, limit, usage in limited_cgroups()]
    if not limits:
        where = "no limit" if any(memory_cgroups()) else "none"
        return DoctorFinding("ok", "cgroup", f"{where}: the machine's memory is the limit")
    limit, usage, version = min(limits)
    what = f"limited to {limit / GIB:.2f} GiB, {usage / GIB:.2f} GiB in use (version {version}, page cache included)"
    kills = "above it the kernel ends the run without an error: the budget above keeps to it"
    return DoctorFinding("note", "cgroup", what, kills)


def check_cores() -> DoctorFinding:
    """Cores this process may use, and torch's threads."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    what = f"{usable} usable of {os.cpu_count()}, torch computes with {threads} threads"
    if threads > usable:
        return DoctorFinding(
            "note", "cores", what, f"set OMP_NUM_THREADS={usable}: more threads than cores slow each other"
        )
    return DoctorFinding("ok", "cores", what)


def check_disk(what: str, folder: Path, needed: int, must: bool = True) -> DoctorFinding:
    """Compare the free space at `folder`, which needn't exist yet, with `needed` bytes. `must`: whether the job needs
    them."""
    there = existing_folder(folder)
    free = shutil.disk_usage(there).free
    status: Literal["note", "problem"] = "problem" if must else "note"
    if not os.access(there, os.W_OK):
        return DoctorFinding(status, "disk", f"{what}: {there} can't be written to", "choose another folder")
    found = f"{what}: {free / GIB:.1f} GiB free at {folder}, up to {needed / GIB:.1f} needed"
    if free < needed:
        return DoctorFinding(status, "disk", found, "free some, or choose a folder on another disk")
    return DoctorFinding("ok", "disk", found)


def check_git() -> DoctorFinding:
    """The git command that repositories are read with."""
    try:
        run = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=3, check=True)
    except (OSError, subprocess.SubprocessError):
        return DoctorFinding("problem", "git", "no working git", "install git: repositories are read with it")
    return DoctorFinding("ok", "git", run.stdout.strip())


def _processor_name() -> str:
    if sys.platform == "darwin":
        return sysctl_text("machdep.cpu.brand_string") or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


REQUIRED_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
OPTIONAL_LIBRARIES = ("mlx", "mlx-lm")
KERNELS_FROM_MACOS = 26  # bitsandbytes asks for its Metal kernels only there
NF4_ERROR = 0.15  # relative, of a normal random matrix in NF4: 0.09 to 0.1


def check_libraries() -> Iterator[DoctorFinding]:
    """Compare the engines' libraries with the versions this package requires."""
    from packaging.requirements import Requirement

    wanted = {r.name: r for r in map(Requirement, metadata.requires("longrepo") or ()) if not r.marker}
    found = {name: version for name in (*REQUIRED_LIBRARIES, *OPTIONAL_LIBRARIES) if (version := _version(name))}
    for name in REQUIRED_LIBRARIES:
        if name not in found:
            yield DoctorFinding("problem", "engines", f"{name} is not installed", f"pip install '{wanted[name]}'")
        elif name in wanted and not wanted[name].specifier.contains(found[name].partition("+")[0], prereleases=True):
            yield DoctorFinding(
                "problem", "engines", f"{name} {found[name]} is too old", f"pip install '{wanted[name]}'"
            )
    yield DoctorFinding("ok", "engines", ", ".join(f"{name} {version}" for name, version in found.items()))
    if sys.platform == "darwin" and "mlx" not in found:
        yield DoctorFinding("note", "engines", "mlx is not installed: only the torch engine can run", "pip install mlx")


def check_torch_4bit(device: str, dtype: str, double: bool) -> DoctorFinding:
    """Quantize, dequantize and multiply a small matrix, forwards and backwards, on the device."""
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
        error = _torch_relative_error(back, weight)
        wrong = max(
            _torch_relative_error(product.detach(), rows.detach() @ back.t()),
            _torch_relative_error(rows.grad, back.sum(0).expand(4, -1)),
        )
    except Exception as reason:  # a missing library, kernel or operation: each raises its own kind
        first = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
        what = f"4-bit weights don't work on {device} ({first[:120]})"
        return DoctorFinding("problem", "4-bit", what, "pip install -U bitsandbytes, or --set model.quantization=none")
    if error > NF4_ERROR or wrong > 0.05:
        what = f"4-bit weights compute wrongly on {device}: off by {max(error, wrong):.0%}"
        return DoctorFinding("problem", "4-bit", what, "pip install -U bitsandbytes, or --set model.quantization=none")
    return DoctorFinding("ok", "4-bit", f"bitsandbytes computes NF4 on {device}, forwards and backwards")


def check_kernels(device: str) -> Iterator[DoctorFinding]:
    """The fast paths the device has, and what the missing ones cost."""
    if device == "mps":
        yield _metal_kernels()
        yield DoctorFinding(
            "note",
            "attention",
            "Metal's fused attention has no backward pass: scores of a whole sequence would be kept",
            "nothing to do: with memory.step=auto long sequences are computed in chunks",
        )
        return
    yield DoctorFinding("ok", "attention", f"fused, forwards and backwards, on {device}")
    if device == "cpu":
        yield _processor_kernels()


def _metal_kernels() -> DoctorFinding:
    release = int(platform.mac_ver()[0].partition(".")[0] or 0)
    if release < KERNELS_FROM_MACOS:
        what = f"no Metal kernels for 4-bit weights before macOS {KERNELS_FROM_MACOS}: slower, the same results"
        return DoctorFinding("note", "kernels", what, f"update macOS to {KERNELS_FROM_MACOS} or later")
    if not util.find_spec("kernels"):
        what = "the package `kernels` is missing: 4-bit weights are unpacked by plain torch, slower, the same results"
        return DoctorFinding("note", "kernels", what, "pip install kernels")
    return DoctorFinding("ok", "kernels", "Metal kernels for 4-bit weights can be loaded from the hub")


def _processor_kernels() -> DoctorFinding:
    import torch

    vectors = torch.backends.cpu.get_cpu_capability()
    units = {"AVX512-BF16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
    there = [name for name, found in units.items() if found]
    what = f"vectors: {vectors}; bfloat16 units: {' and '.join(there) or 'none, bfloat16 is emulated'}"
    if vectors in ("DEFAULT", "NO AVX"):
        return DoctorFinding(
            "note", "kernels", f"{what}: training is several times slower", "use a newer processor or a GPU"
        )
    return DoctorFinding("ok", "kernels", f"{what}; the package `kernels` would serve inference only")


def _torch_relative_error(found: Any, expected: Any) -> float:
    return float((found - expected).float().norm() / expected.float().norm())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


MLX_4BIT_ERROR = 0.15  # relative, of a normal random matrix in 4 affine bits, groups of 64
MLX_REMEDY = "pip install -U mlx mlx-lm, or use --engine torch"


def check_mlx_4bit(device: str, dtype: str) -> DoctorFinding:
    """Quantize and multiply a small matrix, forwards and backwards, on MLX's default device."""
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
        error = _mlx_relative_error(whole, weight)
        wrong = max(_mlx_relative_error(found, rows @ whole.T), _mlx_relative_error(gradient, ones @ whole))
    except (RuntimeError, ValueError, TypeError) as reason:
        first = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
        return DoctorFinding(
            "problem", "4-bit", f"MLX's 4-bit weights don't work on {device} ({first[:120]})", MLX_REMEDY
        )
    if error > MLX_4BIT_ERROR or wrong > 0.05:
        what = f"MLX's 4-bit weights compute wrongly on {device}: off by {max(error, wrong):.0%}"
        return DoctorFinding("problem", "4-bit", what, MLX_REMEDY)
    return DoctorFinding("ok", "4-bit", f"MLX computes with affine 4 bits on {device}, forwards and backwards")


def check_metal() -> DoctorFinding:
    """Whether MLX has a GPU here."""
    import mlx.core as mx

    version = metadata.version("mlx")
    if not mx.metal.is_available():
        what = f"mlx {version} has no Metal here: it computes on the CPU, correct and slow"
        return DoctorFinding("note", "metal", what, "use --engine torch on this machine, or a Mac with Apple Silicon")
    return DoctorFinding("ok", "metal", f"mlx {version} on {mx.device_info().get('device_name', 'the GPU')}")


def _mlx_relative_error(found: Any, expected: Any) -> float:
    import mlx.core as mx

    one, other = found.astype(mx.float32), expected.astype(mx.float32)
    off: Any = mx.linalg.norm(one - other) / mx.linalg.norm(other)
    return float(off.item())
