"""Keys, values and states of recurrent layers in mlx-lm's own caches: their size, computed on unevaluated arrays, and
the options for generation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache, KVCache, QuantizedKVCache, RotatingKVCache

from longrepo.engines.mlx.models import build, family_of, is_recurrent
from longrepo.engines.prompt_cache import PROMPT_PART

GROUP_SIZES = (64, 32)  # values that share a scale and a bias; the first size that divides a head is used
PLACES = KVCache.step  # tokens by which mlx-lm's caches grow


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


def make_cache(model: Any) -> list[Any]:
    """Return an empty cache for each layer of a model. Layers with a window see as little as otherwise, but hold all
    tokens, so that the cache can be shortened."""
    return [KVCache() if type(one) is RotatingKVCache else one for one in model.make_cache()]


def can_shorten(cache: Any) -> bool:
    """See `CacheEditor`."""
    return all(type(one) in (KVCache, QuantizedKVCache) for one in cache)


def shorten(cache: Any, tokens: int) -> None:
    """See `CacheEditor`; mlx-lm keeps the places for later tokens."""
    for one in cache:
        one.trim(one.offset - tokens)


def copied(cache: Any, tokens: int) -> Any:
    """See `CacheEditor`."""
    copies = []
    for one in cache:
        copies.append(new := copy.copy(one))
        new.offset = tokens
        new.keys, new.values = (
            tree_map(lambda array: mx.contiguous(array[..., :tokens, :]), two) for two in (one.keys, one.values)
        )
    mx.eval([(new.keys, new.values) for new in copies])
    return copies


def held_bytes(cache: Any) -> int:
    """See `CacheEditor`."""
    return sum(one.nbytes for one in cache)


def held_tokens(cache: Any) -> int | None:
    """Return how many tokens every layer of a cache has; None if they differ or don't say. Recurrent layers, whose
    states don't tell, have read as many as the others."""
    counts = {getattr(one, "offset", None) for one in cache if not isinstance(one, ArraysCache)}
    return counts.pop() if len(counts) == 1 else None


def kept_bytes(model: Any, dtype: str, bits: int = 16) -> tuple[int, int]:
    """Return the size in bytes of a cache that is made to be kept: for each `PLACES` tokens, and of the states, which
    don't grow."""
    return _largest_bytes(model.published, make_cache(model), [PLACES], dtype, bits), state_bytes(model, dtype)


def cache_bytes(config: Any, tokens: int, dtype: str, bits: int = 16) -> int:
    """Return the largest size in bytes, summed over the layers, while a prompt of `tokens` tokens is read.

    A layer with a window holds the whole part that is being read before it drops what lies behind the window."""
    tree = config.to_dict()
    model = build(tree)
    model.set_dtype(getattr(mx, dtype))
    of_states = state_bytes(model, dtype)
    return _largest_bytes(tree, model.make_cache(), list(prompt_parts(tokens)), dtype, bits) + of_states


def state_bytes(model: Any, dtype: str) -> int:
    """Return the size in bytes of the states of all recurrent layers: each is run on a token, unevaluated."""
    total = 0
    for layer in model.layers:
        if is_recurrent(layer):
            cache, width = ArraysCache(2), layer.input_layernorm.weight.shape[0]
            layer(mx.zeros((1, 1, width), getattr(mx, dtype)), None, cache)
            total += cache.nbytes
    return total


def _largest_bytes(tree: Mapping[str, Any], caches: list[Any], parts: list[int], dtype: str, bits: int) -> int:
    heads = tree.get("num_key_value_heads") or tree["num_attention_heads"]
    totals = [0] * len(parts)
    for cache in caches:
        if isinstance(cache, ArraysCache):
            continue
        for number, part in enumerate(parts):
            states = mx.zeros((1, heads, part, _head_width(tree)), getattr(mx, dtype))
            cache.update_and_fetch(states, states)
            if bits < 16 and hasattr(cache, "to_quantized"):
                cache = cache.to_quantized(group_size=_group_size(tree), bits=bits)
            totals[number] += cache.nbytes
    return max(totals)


def prompt_parts(tokens: int) -> Iterator[int]:
    """Yield the sizes of the parts in which mlx-lm reads a prompt; its last token comes alone."""
    yield from (min(PROMPT_PART, tokens - 1 - start) for start in range(0, tokens - 1, PROMPT_PART))
    yield 1


def _head_width(tree: Mapping[str, Any]) -> int:
    return int(tree.get("head_dim") or tree["hidden_size"] // tree["num_attention_heads"])


def _group_size(tree: Mapping[str, Any]) -> int | None:
    return next((group for group in GROUP_SIZES if _head_width(tree) % group == 0), None)
