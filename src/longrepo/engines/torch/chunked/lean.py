"""A layer's linear modules for the time of a pass: 4-bit weights de-quantised once for all chunks, LoRA without copies.

PEFT's forward casts the input to float32 outside of CUDA's autocast, clones the output, and scales and adds matrices
as wide as it: about half of a chunk's time on a CPU. Here the same sums are taken in the base's precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.functional import linear

from longrepo.engines.torch.quantised import dequantised

Tensor = torch.Tensor


@contextmanager
def lean(layer: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """While entered, `layer` computes in `dtype` with dense weights and, where it is plain LoRA, without copies."""
    changed: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in layer.modules():
        if isinstance(module, LoraLayer) and _is_plain(module):
            base: Any = module.base_layer
            inside.add(base)
            module.forward = partial(_adapted, module, dequantised(base, dtype), base.bias)
        elif isinstance(module, Linear4bit) and module not in inside:
            module.forward = partial(_dense, dequantised(module, dtype), module.bias)  # type: ignore[method-assign]
        else:
            continue
        changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _is_plain(module: Any) -> bool:
    """Neither merged, nor a variant such as DoRA, nor LoRA with a bias, on a linear module."""
    names = [name for name in module.active_adapters if name in module.lora_A]
    return (
        isinstance(module.base_layer, nn.Linear)
        and not module.merged
        and not any(name in module.lora_variant or module.lora_B[name].bias is not None for name in names)
    )


def _dense(weight: Tensor, bias: Tensor | None, hidden: Tensor) -> Tensor:
    """As bitsandbytes: in the weight's dtype, given back in the input's."""
    return linear(hidden.to(weight.dtype), weight, _as(bias, weight)).to(hidden.dtype)


def _adapted(module: Any, weight: Tensor, bias: Tensor | None, hidden: Tensor) -> Tensor:
    """`W x + b + s B A dropout(x)` for `hidden` `[rows, tokens, in]`; only what is as narrow as the rank is scaled."""
    inner = hidden.to(weight.dtype)
    output = linear(inner, weight, _as(bias, weight))
    for name in module.active_adapters:
        if name in module.lora_A and not module.disable_adapters:
            narrow = linear(module.lora_dropout[name](inner), _as(module.lora_A[name].weight, weight))
            narrow = (narrow * module.scaling[name]).flatten(0, -2)
            # In place: the product before it keeps no reference to its output.
            output.view(-1, output.shape[-1]).addmm_(narrow, _as(module.lora_B[name].weight, weight).mT)
    return output.to(hidden.dtype)


def _as(tensor: Any, like: Tensor) -> Any:
    return None if tensor is None else tensor.to(like.dtype)
