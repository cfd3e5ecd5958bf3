"""Attention of a chunk of queries over the keys passed to it, with the library's fused kernel or in tiles of keys.

The queries of a chunk are the last `q` of `k` positions: query i is at k - q + i and sees key j if and only if
j <= k - q + i and, with a window, j > k - q + i - window. The scores of all heads never exist at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch._guards import detect_fake_mode
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

Tensor = torch.Tensor
Kernel = Literal["fused", "tiled"]
ATTENTION_NAME = "longrepo"
TILE_KEYS = 1024
WINDOWS: WeakKeyDictionary[torch.nn.Module, int | None] = WeakKeyDictionary()
IGNORED_ARGUMENTS = {"position_ids", "cache_position", "use_cache", "num_items_in_batch", "output_hidden_states"}
_forced_kernel: tuple[Kernel | None, int] = (None, TILE_KEYS)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    kernel: Kernel = "fused",
    tile: int = TILE_KEYS,
) -> Tensor:
    """Attend with `query` `[rows, heads, q, d]`, `key` and `value` `[rows, kv heads, k, d]`, k >= q; return
    `[rows, heads, q, d]`.

    It is differentiable in all three. `tiled` holds scores of `[heads, min(q, tile), min(k, tile)]` in float32 and
    supports logits capped at `softcap`, which no fused kernel does. `fused` holds at most a mask of
    `[min(q, tile), keys]`.
    """
    q, k = query.shape[2], key.shape[2]
    fused = kernel == "fused" and softcap is None
    if fused and q == k and (window is None or window >= k):
        return _fused_attention(query, key, value, scaling, None, causal=True)
    parts = []
    for start in range(0, q, tile):
        end = min(start + tile, q)
        visible = slice(_first_key(end - start, k - q + end, window), k - q + end)
        keys, values = (key, value) if visible == slice(0, k) else (key[:, :, visible], value[:, :, visible])
        if fused:
            mask = _visible_mask(end - start, keys.shape[2], window, slice(0, keys.shape[2]), query.device)
            parts.append(_fused_attention(query[:, :, start:end], keys, values, scaling, mask, causal=False))
        else:
            parts.append(_TiledAttention.apply(query[:, :, start:end], keys, values, scaling, window, softcap, tile))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _first_key(q: int, k: int, window: int | None) -> int:
    """Return the oldest key that any of the last `q` of `k` positions sees."""
    return max(0, k - q - window + 1) if window else 0


def _visible_mask(q: int, k: int, window: int | None, keys: slice, device: torch.device) -> Tensor | None:
    """Return which of `keys` each query sees, bool `[q, keys]`; None if every query sees all of them."""
    if keys.stop - 1 <= k - q and (window is None or keys.start > k - 1 - window):
        return None
    at = torch.arange(k - q, k, device=device)[:, None]
    key_at = torch.arange(keys.start, keys.stop, device=device)
    return key_at <= at if window is None else (key_at <= at) & (key_at > at - window)


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None, causal: bool
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if mask is not None and query.device.type == "cuda" and groups > 1:
        # CUDA's only fused kernel that takes a mask needs as many key heads as query heads.
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=groups > 1
    )


class _TiledAttention(torch.autograd.Function):
    """Running softmax over tiles of keys (Milakov and Gimelshein 2018; Dao et al. 2022, algorithms 1 and 4)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
        tile: int,
    ) -> Tensor:
        q, k, folded = query.shape[2], key.shape[2], _fold_groups(query, key)
        exact = torch.promote_types(query.dtype, torch.float32)
        out = folded.new_zeros((*folded.shape[:3], value.shape[3]), dtype=exact)
        top = folded.new_full((*folded.shape[:3], 1), torch.finfo(exact).min, dtype=exact)
        total = torch.zeros_like(top)
        for start in range(0, k, tile):
            part = slice(start, min(start + tile, k))
            scores = _attention_scores(folded, key[:, :, part], scaling, softcap)
            if (visible := _visible_mask(q, k, window, part, query.device)) is not None:
                scores.unflatten(2, (-1, q)).masked_fill_(~visible, float("-inf"))
            higher = torch.maximum(top, scores.amax(-1, keepdim=True))
            weights, fade = scores.sub_(higher).exp_(), (top - higher).exp_()
            total.mul_(fade).add_(weights.sum(-1, keepdim=True))
            out.mul_(fade).add_(weights.to(value.dtype) @ value[:, :, part])
            top = higher
        result = out.div_(total).to(query.dtype).view(*query.shape[:3], value.shape[3])
        ctx.save_for_backward(query, key, value, result, top + total.log())
        ctx.settings = scaling, window, softcap, tile
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, log_total = ctx.saved_tensors
        scaling, window, softcap, tile = ctx.settings
        q, k, folded, d_out = query.shape[2], key.shape[2], _fold_groups(query, key), _fold_groups(d_result, key)
        mean = (d_out.to(log_total.dtype) * _fold_groups(result, key)).sum(-1, keepdim=True)
        d_query = torch.zeros_like(folded, dtype=log_total.dtype)
        d_key, d_value = torch.empty_like(key), torch.empty_like(value)
        for start in range(0, k, tile):
            part = slice(start, min(start + tile, k))
            scores = _attention_scores(folded, key[:, :, part], scaling, softcap)
            slope = None if softcap is None else 1 - (scores / softcap).square_()
            weights = scores.sub_(log_total).exp_()
            if (visible := _visible_mask(q, k, window, part, query.device)) is not None:
                weights.unflatten(2, (-1, q)).masked_fill_(~visible, 0.0)
            d_value[:, :, part] = weights.to(value.dtype).mT @ d_out
            d_scores = (d_out @ value[:, :, part].mT).to(weights.dtype).sub_(mean).mul_(weights).mul_(scaling)
            d_products = (d_scores if slope is None else d_scores.mul_(slope)).to(query.dtype)
            d_query += d_products @ key[:, :, part]
            d_key[:, :, part] = d_products.mT @ folded
        return d_query.to(query.dtype).view(query.shape), d_key, d_value, None, None, None, None


def _fold_groups(query: Tensor, key: Tensor) -> Tensor:
    """Return `[rows, heads, q, d]` as `[rows, kv heads, group * q, d]`, with the queries of a key's head together."""
    return query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])


def _attention_scores(query: Tensor, key: Tensor, scaling: float, softcap: float | None) -> Tensor:
    product = query @ key.mT
    scores = product.to(torch.promote_types(product.dtype, torch.float32)).mul_(scaling)
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


@contextmanager
def force_kernel(kernel: Kernel | None = None, tile: int | None = None) -> Iterator[None]:
    """Use this kernel inside the context (None: the device's own), and tiles of `tile` keys (None: `TILE_KEYS`)."""
    global _forced_kernel
    before, _forced_kernel = _forced_kernel, (kernel, tile or TILE_KEYS)
    try:
        yield
    finally:
        _forced_kernel = before


def window_of(module: torch.nn.Module) -> int | None:
    """Return the window in tokens, the current one included, of this attention module's last call; None if it has none
    or wasn't called yet."""
    return WINDOWS.get(module)


def register_attention(name: str = ATTENTION_NAME) -> None:
    """Register `attend` with transformers as the attention implementation `name`, without masks."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, _attention)
    AttentionMaskInterface.register(name, _no_mask)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    others |= {"attention_mask": attention_mask, "dropout": dropout or None, "is_causal": None if causal else is_causal}
    unsupported = [name for name, value in others.items() if name not in IGNORED_ARGUMENTS and value is not None]
    if unsupported:
        names = ", ".join(unsupported)
        raise ValueError(
            f"{type(module).__name__}: longrepo's attention doesn't support {names}; use attn_implementation='sdpa'"
        )
    WINDOWS[module] = sliding_window
    kernel, tile = _forced_kernel
    kernel = kernel or ("tiled" if query.device.type == "mps" else "fused")
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    out = attend(query, key, value, scaling, sliding_window, softcap, kernel, tile)
    return out.transpose(1, 2).contiguous(), None


def _no_mask(
    *_: Any,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    local_size: int | None = None,
    config: Any = None,
    **__: Any,
) -> None:
    """Return None; raise ValueError for masks that don't follow from positions (rows of fake tensors aren't
    checked)."""
    if local_size is not None and local_size != getattr(config, "sliding_window", None):
        raise ValueError("longrepo's attention doesn't support chunked attention; use attn_implementation='sdpa'")
    if detect_fake_mode() is not None:
        return
    if not allow_is_causal_skip:
        raise ValueError("longrepo's attention doesn't support packed rows; use one sequence per row")
    if attention_mask is not None and (attention_mask[:, 1:] & ~attention_mask[:, :-1]).any():
        raise ValueError("longrepo's attention doesn't support padding on the left; pad rows on the right")
