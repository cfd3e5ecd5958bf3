"""Keys and values in transformers' own caches, and their size, computed on fake tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

_CACHE_ATTRIBUTES = ("keys", "values", "_quantized_keys", "_quantized_values")


def unsupported_bits_reason(config: Any, bits: int, device: str) -> str | None:
    """Return why transformers has no cache of `bits` bits for this model and device, or None if it has."""
    if bits == 16:
        return None
    if bits != 8:
        return f"transformers supports {bits} bits only with optimum-quanto or hqq, which the torch engine doesn't use"
    if device == "mps":
        return "transformers stores 8 bits as float8, which Metal doesn't have"
    if getattr(config, "sliding_window", None) is not None and _has_windowed_layers(config):
        return "transformers has no quantized cache for layers with a window"
    return None


def make_cache(config: Any, bits: int = 16) -> Any:
    """Return an empty cache; with 8 bits it is float8 with one scale for each layer's keys and values."""
    from transformers import DynamicCache, QuantizedCache

    return DynamicCache(config=config) if bits == 16 else QuantizedCache("fp8", config)


def cache_bytes(config: Any, tokens: int, dtype: str, bits: int = 16) -> int:
    """Return the size in bytes right after a prompt of `tokens` tokens, before the first new token.

    Until then even a layer with a sliding window holds the whole prompt (it keeps a view of it)."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    with FakeTensorMode():
        cache = make_cache(config, bits)
        for layer in range(config.num_hidden_layers):
            states = torch.empty(1, heads, tokens, width, dtype=getattr(torch, dtype))
            cache.update(states, states.clone(), layer)
    return held_bytes(cache)


def held_bytes(cache: Any) -> int:
    """Return the bytes of all tensors in a cache."""
    leaves = tree_leaves([getattr(layer, name, None) for layer in cache.layers for name in _CACHE_ATTRIBUTES])
    return sum(leaf.untyped_storage().nbytes() for leaf in leaves if isinstance(leaf, torch.Tensor))


def _has_windowed_layers(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    return kinds is None or "sliding_attention" in kinds
