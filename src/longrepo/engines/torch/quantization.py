"""NF4 quantization in slices of rows, and linear layers without temporaries for the chunked step.

On devices for which bitsandbytes has no kernel it computes in plain torch, at 16 to 20 bytes per weight: 600 MiB for
one matrix of 12288 x 3072. Its blocks of 64 weights are independent, so slices of 64 rows give the same bits.

For the duration of a pass, a layer's 4-bit weights are dequantized once for all chunks, and LoRA is computed without
copies. PEFT's forward casts the input to float32 outside of CUDA's autocast, clones the output, and scales and adds
matrices as wide as the output, which takes about half of a chunk's time on a CPU. Here the same sums are computed in
the base's precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.functional import linear

Tensor = torch.Tensor
SLICE_WEIGHTS = 1 << 20  # weights per slice
BLOCK, NESTED_BLOCK = 64, 256  # weights per scale, scales per nested scale: transformers' defaults
_NATIVE_DEVICES = ("cpu", "cuda")  # have a kernel that needs no temporaries


def dequantize_weight(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return the dense weight `[out, in]` of a linear layer in `dtype`; for a `Linear4bit` exactly, bit for bit, what
    its forward pass multiplies with."""
    weight: Any = module.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.to(dtype)
    packed, scales, shape = weight.data.view(-1).view(torch.uint8), _block_scales(state), tuple(state.shape)
    if weight.device.type in _NATIVE_DEVICES:
        return _dequantize(packed, scales, state, shape, dtype)
    dense = torch.empty(shape, dtype=dtype, device=weight.device)
    for rows in _row_slices(shape, state.blocksize):
        first, last = rows.start * shape[1], rows.stop * shape[1]
        part = packed[first // 2 : -(-last // 2)], scales[first // state.blocksize : -(-last // state.blocksize)]
        dense[rows] = _dequantize(*part, state, (rows.stop - rows.start, shape[1]), dtype)
    return dense


def quantize_nf4(
    dense: Tensor, dtype: torch.dtype, device: torch.device, double: bool
) -> tuple[Tensor, bnb.QuantState]:
    """Cast `dense` `[out, in]`, on any device, to `dtype` and quantize it to NF4 on `device`; `double`: the scales too.

    Returns the packed bytes `[n, 1]` and the state that unpacks them, equal to `bitsandbytes.functional.quantize_4bit`
    of the whole matrix."""
    shape = dense.shape
    packed = torch.empty((-(-dense.numel() // 2), 1), dtype=torch.uint8, device=device)
    scales = torch.empty(-(-dense.numel() // BLOCK), dtype=torch.float32, device=device)
    code = bnb.get_4bit_type("nf4", device=device)
    for rows in _row_slices(shape, BLOCK):
        first, last = rows.start * shape[1], rows.stop * shape[1]
        part = dense[rows].to(device=device, dtype=dtype)
        bits, state = bnb.quantize_4bit(part, blocksize=BLOCK, quant_type="nf4")
        packed[first // 2 : -(-last // 2)] = bits
        scales[first // BLOCK : -(-last // BLOCK)] = state.absmax
    offset, nested = None, None
    if double:
        offset = scales.mean()
        scales, nested = bnb.quantize_blockwise(scales - offset, blocksize=NESTED_BLOCK)
    return packed, bnb.QuantState(
        absmax=scales,
        shape=shape,
        dtype=dtype,
        blocksize=BLOCK,
        code=code,
        quant_type="nf4",
        offset=offset,
        state2=nested,
    )


def _row_slices(shape: tuple[int, ...], block: int) -> Iterator[slice]:
    """Yield slices of rows with about `SLICE_WEIGHTS` weights, in multiples of a block, so that no block is cut."""
    step = max(block, SLICE_WEIGHTS // shape[1] // block * block)
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _block_scales(state: bnb.QuantState) -> Tensor:
    """Return one float32 scale per block."""
    if not state.nested:
        return state.absmax
    return bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset


def _dequantize(
    packed: Tensor, scales: Tensor, state: bnb.QuantState, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    return torch.ops.bitsandbytes.dequantize_4bit.default(
        packed, scales, state.blocksize, state.quant_type, shape, dtype
    )


@contextmanager
def fused_lora_forward(layer: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let `layer` compute in `dtype` with dense weights inside the context; plain LoRA makes no copies."""
    changed: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in layer.modules():
        if isinstance(module, LoraLayer) and _is_plain_lora(module):
            base: Any = module.base_layer
            inside.add(base)
            module.forward = partial(_lora_linear, module, dequantize_weight(base, dtype), base.bias)
        elif isinstance(module, Linear4bit) and module not in inside:
            module.forward = partial(_dense_linear, dequantize_weight(module, dtype), module.bias)  # type: ignore[method-assign]
        else:
            continue
        changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _is_plain_lora(module: Any) -> bool:
    """Whether this is LoRA on a linear module, not merged, not a variant such as DoRA, and without a bias."""
    names = [name for name in module.active_adapters if name in module.lora_A]
    return (
        isinstance(module.base_layer, nn.Linear)
        and not module.merged
        and not any(name in module.lora_variant or module.lora_B[name].bias is not None for name in names)
    )


def _dense_linear(weight: Tensor, bias: Tensor | None, hidden: Tensor) -> Tensor:
    """Compute in the weight's dtype and return the input's, as bitsandbytes does."""
    return linear(hidden.to(weight.dtype), weight, _cast_like(bias, weight)).to(hidden.dtype)


def _lora_linear(module: Any, weight: Tensor, bias: Tensor | None, hidden: Tensor) -> Tensor:
    """Return `W x + b + s B A dropout(x)` for `hidden` `[rows, tokens, in]`; the scale is applied at the rank's
    width."""
    inner = hidden.to(weight.dtype)
    output = linear(inner, weight, _cast_like(bias, weight))
    for name in module.active_adapters:
        if name in module.lora_A and not module.disable_adapters:
            narrow = linear(module.lora_dropout[name](inner), _cast_like(module.lora_A[name].weight, weight))
            narrow = (narrow * module.scaling[name]).flatten(0, -2)
            # In place: the product keeps no reference to its output.
            output.view(-1, output.shape[-1]).addmm_(narrow, _cast_like(module.lora_B[name].weight, weight).mT)
    return output.to(hidden.dtype)


def _cast_like(tensor: Any, like: Tensor) -> Any:
    return None if tensor is None else tensor.to(like.dtype)
