"""Keys and values in mlx-lm's own caches: their size, computed on unevaluated arrays, and the options for
generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx

from longrepo.engines.mlx.models import build, family_of

PREFILL_STEP = 2048  # tokens of a prompt that mlx-lm's generation takes at a time
GROUP_SIZES = (64, 32)  # values that share a scale and a bias; the first size that divides a head is used


def unsupported_bits_reason(config: Any, bits: int, device: str) -> str | None:
    """Return why mlx-lm has no cache of `bits` bits for this model, or None if it has."""
    tree = config.to_dict()
    if bits == 16:
        return None
    if any(window is not None for window in family_of(tree).windows(tree)):
        return "mlx-lm has no quantized cache for layers with a window"
    if _group_size(tree) is None:
        return (
            f"mlx-lm packs groups of {GROUP_SIZES[0]} or {GROUP_SIZES[1]} values, and its heads have "
            f"{_head_width(tree)}"
        )
    return None


def generation_options(config: Mapping[str, Any], bits: int) -> dict[str, Any]:
    """Return the options of mlx-lm's `generate_step`; a cache of fewer bits is packed from the first token on."""
    return {} if bits == 16 else {"kv_bits": bits, "kv_group_size": _group_size(config), "quantized_kv_start": 0}


def cache_bytes(config: Any, tokens: int, dtype: str, bits: int = 16) -> int:
    """Return the largest size in bytes, summed over the layers, while a prompt of `tokens` tokens is read.

    A layer with a window holds the whole part that is being read before it drops what lies behind the window."""
    tree = config.to_dict()
    heads = tree.get("num_key_value_heads") or tree["num_attention_heads"]
    totals = [0] * len(list(prompt_parts(tokens)))
    for cache in build(tree).make_cache():
        for number, part in enumerate(prompt_parts(tokens)):
            states = mx.zeros((1, heads, part, _head_width(tree)), getattr(mx, dtype))
            cache.update_and_fetch(states, states)
            if bits < 16 and hasattr(cache, "to_quantized"):
                cache = cache.to_quantized(group_size=_group_size(tree), bits=bits)
            totals[number] += cache.nbytes
    return max(totals)


def prompt_parts(tokens: int) -> Iterator[int]:
    """Yield the sizes of the parts in which mlx-lm reads a prompt; its last token comes alone."""
    yield from (min(PREFILL_STEP, tokens - 1 - start) for start in range(0, tokens - 1, PREFILL_STEP))
    yield 1


def _head_width(tree: Mapping[str, Any]) -> int:
    return int(tree.get("head_dim") or tree["hidden_size"] // tree["num_attention_heads"])


def _group_size(tree: Mapping[str, Any]) -> int | None:
    return next((group for group in GROUP_SIZES if _head_width(tree) % group == 0), None)
