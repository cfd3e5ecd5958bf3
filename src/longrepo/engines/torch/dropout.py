"""Dropout of LoRA's inputs with derived masks (`longrepo.engines.dropout_key`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from longrepo.engines.dropout_key import BLOCK, DropoutKey, blocks, seed_of

Tensor = torch.Tensor


class DerivedDropout(nn.Module):
    """Zeroes each element of `[rows, tokens, features]` with chance `p` and scales the others by 1 / (1 - p).

    The identity in evaluation. Costs one byte an element until the backward pass.
    """

    def __init__(self, p: float, number: int, key: DropoutKey) -> None:
        super().__init__()
        self.p, self.number, self.key = p, number, key

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.ndim != 3:
            raise ValueError(f"dropout wants [rows, tokens, features], not {list(x.shape)}; set lora.dropout to 0")
        return _Masked.apply(x, self.mask(x), 1 / (1 - self.p))

    def mask(self, x: Tensor) -> Tensor:
        """What is kept of `x`, bool `[rows, tokens, features]`; of a fake tensor, a fake mask."""
        mask = torch.empty_like(x, dtype=torch.bool)
        if isinstance(x, FakeTensor):
            return mask
        rows, tokens, features = x.shape
        generator = torch.Generator(x.device)
        for row in range(rows):
            place = 0
            for block, first, last in blocks(self.key.start, self.key.start + tokens):
                generator.manual_seed(seed_of(self.key.key, self.number, row, block))
                kept = _kept(BLOCK * features, self.p, generator).view(BLOCK, features)
                mask[row, place : place + last - first] = kept[first:last]
                place += last - first
        return mask


def install(model: nn.Module, p: float) -> DropoutKey:
    """Replace the dropout of every LoRA layer in `model`, numbered in the order of `named_modules`."""
    from peft.tuners.lora import LoraLayer

    key, number = DropoutKey(), 0
    for _, module in model.named_modules():
        if p and isinstance(module, LoraLayer):
            for adapter in module.lora_dropout:
                module.lora_dropout[adapter] = DerivedDropout(p, number, key).train(model.training)
                number += 1
    return key


def _kept(count: int, p: float, generator: torch.Generator) -> Tensor:
    """`count` independent draws, each True with chance 1 - p, bool `[count]`.

    Draws the gaps between zeroes, which are geometric, instead of every element: at p = 0.05 a twentieth of the work.
    Eight standard deviations more gaps than expected: one draw in 10**15 would end short of `count`.
    """
    expected = count * p
    gaps = min(count, math.ceil(expected + 8 * math.sqrt(expected) + 16))
    uniform = torch.rand(gaps, generator=generator, device=generator.device)
    steps = (-uniform).log1p_().div_(math.log1p(-p)).floor_().long().add_(1)
    kept = torch.ones(count + 1, dtype=torch.bool, device=generator.device)
    return kept.index_fill_(0, steps.cumsum_(0).sub_(1).clamp_(max=count), False)[:count]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * mask).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return (gradient * mask).mul_(ctx.scale), None, None
