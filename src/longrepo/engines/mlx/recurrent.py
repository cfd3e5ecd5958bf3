"""Recurrent layers, gated DeltaNet (Qwen3.5) and Mamba-2 (Granite 4), in operations that MLX can differentiate.

mlx-lm's own run as Metal kernels, which have no gradient, or token by token. Here `BLOCK` tokens are computed together,
in float32, as in the papers: Gated Delta Networks (Yang et al. 2024), and Transformers are SSMs (Dao and Gu 2024).
A layer takes its states from a cache and leaves them there, as mlx-lm's `ArraysCache` is used: at 0 the last inputs of
its convolution `[rows, width - 1, channels]`, at 1 the recurrent state `[rows, heads, key width, value width]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

BLOCK = 64  # tokens; a power of two


class CausalConvolution(nn.Module):
    """Each channel's weighted sum of its last `width` inputs, `[rows, tokens, channels]`, through an activation. The
    weight is mlx-lm's `[channels, width, 1]`."""

    def __init__(self, channels: int, width: int, bias: bool, activation: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        self.weight, self.activation = mx.zeros((channels, width, 1)), activation
        if bias:
            self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array, cache: Any) -> mx.array:
        (rows, tokens, channels), width = x.shape, self.weight.shape[1]
        before = None if cache is None else cache[0]
        x = mx.concatenate([mx.zeros((rows, width - 1, channels), x.dtype) if before is None else before, x], axis=1)
        if cache is not None:
            cache[0] = mx.contiguous(x[:, tokens:])  # a view would hold all of the inputs
        y = x[:, :tokens] * self.weight[:, 0, 0]
        for at in range(1, width):
            y = y + x[:, at : at + tokens] * self.weight[:, at, 0]
        return self.activation(y + self.bias if "bias" in self else y)


class GatedDeltaNet(nn.Module):
    """Qwen3.5's mixer, `[rows, tokens, width]` to the same. `config` is config.json."""

    def __init__(self, config: dict[str, Any], activation: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        width, self.heads = config["hidden_size"], config["linear_num_value_heads"]
        self.key_heads, self.key_width = config["linear_num_key_heads"], config["linear_key_head_dim"]
        keys, values = self.key_heads * self.key_width, self.heads * config["linear_value_head_dim"]
        self.in_proj_qkv = nn.Linear(width, 2 * keys + values, bias=False)
        self.in_proj_z = nn.Linear(width, values, bias=False)
        self.in_proj_b = nn.Linear(width, self.heads, bias=False)
        self.in_proj_a = nn.Linear(width, self.heads, bias=False)
        self.conv1d = CausalConvolution(2 * keys + values, config["linear_conv_kernel_dim"], False, activation)
        self.A_log, self.dt_bias = mx.zeros((self.heads,)), mx.zeros((self.heads,))
        self.norm = nn.RMSNorm(config["linear_value_head_dim"], config["rms_norm_eps"])
        self.out_proj = nn.Linear(values, width, bias=False)

    def __call__(self, x: mx.array, cache: Any = None) -> mx.array:
        ends = [self.key_heads * self.key_width, 2 * self.key_heads * self.key_width]
        parts = mx.split(self.conv1d(self.in_proj_qkv(x), cache), ends, axis=-1)
        queries, keys, values = (
            _by_head(part, heads)
            for part, heads in zip(parts, (self.key_heads, self.key_heads, self.heads), strict=True)
        )
        queries, keys = (mx.repeat(_unit(one), self.heads // self.key_heads, axis=1) for one in (queries, keys))
        beta = mx.sigmoid(self.in_proj_b(x)).astype(mx.float32).swapaxes(1, 2)
        steps = nn.softplus(self.in_proj_a(x).astype(mx.float32) + self.dt_bias.astype(mx.float32))
        decay = -mx.exp(self.A_log.astype(mx.float32)) * steps
        state = None if cache is None else cache[1]
        queries, values = queries * self.key_width**-0.5, _by_head(parts[2], self.heads)
        mixed, state = gated_linear_attention(queries, keys, values, decay.swapaxes(1, 2), state, beta)
        if cache is not None:
            cache[1] = state
        gate = _by_head(self.in_proj_z(x), self.heads)
        mixed = self.norm(mixed.astype(x.dtype)).astype(mx.float32) * nn.silu(gate)
        return self.out_proj(_joined(mixed).astype(x.dtype))


class Mamba2(nn.Module):
    """Granite 4's recurrent mixer, `[rows, tokens, width]` to the same. `config` is config.json."""

    def __init__(self, config: dict[str, Any], activation: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        width, self.heads, self.groups = config["hidden_size"], config["mamba_n_heads"], config["mamba_n_groups"]
        self.inner, self.key_features = self.heads * config["mamba_d_head"], self.groups * config["mamba_d_state"]
        self.limits = tuple(config.get("time_step_limit") or (0.0, math.inf))
        channels, bias = self.inner + 2 * self.key_features, bool(config["mamba_proj_bias"])
        self.in_proj = nn.Linear(width, self.inner + channels + self.heads, bias=bias)
        self.conv1d = CausalConvolution(channels, config["mamba_d_conv"], bool(config["mamba_conv_bias"]), activation)
        self.A_log, self.D, self.dt_bias = (mx.zeros((self.heads,)) for _ in range(3))
        self.norm = GroupNorm(self.inner, self.groups, config["rms_norm_eps"])
        self.out_proj = nn.Linear(self.inner, width, bias=bias)

    def __call__(self, x: mx.array, cache: Any = None) -> mx.array:
        channels = self.inner + 2 * self.key_features
        gate, mixed, steps = mx.split(self.in_proj(x), [self.inner, self.inner + channels], axis=-1)
        mixed = self.conv1d(mixed, cache)
        inputs, keys, queries = mx.split(mixed, [self.inner, self.inner + self.key_features], axis=-1)
        inputs = _by_head(inputs, self.heads)
        keys, queries = (
            mx.repeat(_by_head(one, self.groups), self.heads // self.groups, axis=1) for one in (keys, queries)
        )
        steps = nn.softplus(steps.astype(mx.float32) + self.dt_bias.astype(mx.float32))
        steps = mx.clip(steps, *self.limits).swapaxes(1, 2)
        decay = -mx.exp(self.A_log.astype(mx.float32))[:, None] * steps
        state = None if cache is None else cache[1]
        mixed, state = gated_linear_attention(queries, keys, inputs * steps[..., None], decay, state)
        if cache is not None:
            cache[1] = state
        mixed = _joined(mixed + self.D.astype(mx.float32)[:, None, None] * inputs)
        return self.out_proj(self.norm(mixed * nn.silu(gate.astype(mx.float32))).astype(x.dtype))


class GroupNorm(nn.Module):
    """Divides each of `groups` groups of float32 features `[…, width]` by the root of its mean square, and scales the
    features."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.weight, self.groups, self.eps = mx.ones((width,)), groups, eps

    def __call__(self, x: mx.array) -> mx.array:
        grouped = mx.fast.rms_norm(x.reshape(*x.shape[:-1], self.groups, -1), None, self.eps)
        return grouped.reshape(x.shape) * self.weight.astype(mx.float32)


def gated_linear_attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    decay: mx.array,
    state: mx.array | None,
    beta: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Return the outputs `[rows, heads, tokens, value width]` and the state after the last token.

    The state, `[rows, heads, key width, value width]` (None: zero), first decays by `exp(decay)`; then the outer
    product of key and value is added, and the query reads it. With `beta` it is the delta rule: what the key reads is
    taken off the value, and the rest counts `beta` times. queries, keys `[rows, heads, tokens, key width]`, values
    `[rows, heads, tokens, value width]`, decay, beta `[rows, heads, tokens]`, all float32; decay is at most 0.
    """
    rows, heads, tokens, value_width = values.shape
    size = min(BLOCK, 1 << (tokens - 1).bit_length())
    queries, keys, values, decay = (_blocks(one, size) for one in (queries, keys, values, decay[..., None]))
    # Sums of just the decays between two tokens: differences of sums from the first would cancel, in gradients most.
    lower = mx.tril(mx.ones((size, size), mx.bool_))
    between = mx.cumsum(mx.where(mx.tril(lower, -1), decay, 0.0), axis=-2)  # [rows, heads, blocks, size, size]
    between = mx.exp(mx.where(lower, between, -math.inf))
    until = mx.exp(mx.cumsum(decay, axis=-2))  # [rows, heads, blocks, size, 1]
    erased: mx.array | None = None
    if beta is not None:
        beta = _blocks(beta[..., None], size)
        solved = inverse_of_unit_lower(mx.tril((beta * keys) @ keys.swapaxes(-1, -2) * between, -1))
        values, erased = solved @ (beta * values), solved @ (beta * keys * until)
    within = (queries @ keys.swapaxes(-1, -2)) * between
    queries, kept = queries * until, until[..., -1:, :]
    keys = (keys * mx.exp(mx.cumsum(decay, axis=-2, reverse=True, inclusive=False))).swapaxes(-1, -2)
    if state is None:
        state = mx.zeros((rows, heads, keys.shape[-2], value_width))
    outputs = []
    for at in range(values.shape[2]):
        new = values[:, :, at] if erased is None else values[:, :, at] - erased[:, :, at] @ state
        outputs.append(queries[:, :, at] @ state + within[:, :, at] @ new)
        state = kept[:, :, at] * state + keys[:, :, at] @ new
    return mx.concatenate(outputs, axis=2)[:, :, :tokens], state


def inverse_of_unit_lower(strict: mx.array) -> mx.array:
    """Return the inverse of the identity plus strictly lower triangular matrices `[…, size, size]`, size a power of
    two.

    Blocks on the diagonal are doubled: with the inverses `a` and `b` of two neighbours and the corner `c` between them,
    the inverse's corner is `-b c a`. (Sums of powers, shorter to write, would cancel: keys that are alike have large
    ones.)
    """
    *lead, size, _ = strict.shape
    inverse = mx.ones((*lead, size, 1, 1))
    width = 1
    while width < size:
        tiles = strict.reshape(*lead, size // (2 * width), 2 * width, size // (2 * width), 2 * width)
        corner = mx.moveaxis(mx.diagonal(tiles, 0, -4, -2), -1, -3)[..., width:, :width]
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        upper = mx.concatenate([first, mx.zeros_like(first)], axis=-1)
        inverse = mx.concatenate([upper, mx.concatenate([-(second @ corner @ first), second], axis=-1)], axis=-2)
        width *= 2
    return inverse.squeeze(-3)


def _blocks(x: mx.array, size: int) -> mx.array:
    """Return `[rows, heads, tokens, …]` as `[rows, heads, blocks, size, …]`, filled up with zeros: tokens that change
    nothing."""
    missing = -x.shape[2] % size
    x = mx.pad(x, [(0, 0), (0, 0), (0, missing), (0, 0)]) if missing else x
    return x.reshape(*x.shape[:2], -1, size, x.shape[-1])


def _by_head(x: mx.array, heads: int) -> mx.array:
    """Return `[rows, tokens, features]` as float32 `[rows, heads, tokens, features / heads]`."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2).astype(mx.float32)


def _joined(x: mx.array) -> mx.array:
    """Undo `_by_head`."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _unit(x: mx.array) -> mx.array:
    """Divide each vector by its length."""
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)
