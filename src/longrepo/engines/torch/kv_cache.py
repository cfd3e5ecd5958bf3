"""Keys, values and states of recurrent layers in transformers' own caches, and their size, computed on tensors without
values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from longrepo.engines.base import layer_types, truncate_config
from longrepo.engines.prompt_cache import PROMPT_PART

_CACHE_ATTRIBUTES = ("keys", "values", "_quantized_keys", "_quantized_values", "conv_states", "recurrent_states")


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
    if _recurrent_layers(config):
        return "transformers has no quantized cache for recurrent layers"
    return None


def make_cache(config: Any, bits: int = 16, keep: bool = False) -> Any:
    """Return an empty cache; with 8 bits it is float8 with one scale for each layer's keys and values.

    `keep`: layers with a window see as little as otherwise, but hold all tokens, so that the cache can be shortened."""
    from transformers import DynamicCache, QuantizedCache

    cache = DynamicCache(config=config) if bits == 16 else QuantizedCache("fp8", config)
    if keep and can_shorten(cache):
        cache.activate_past_recording()
    return cache


def takes_parts(cache: Any) -> bool:
    """Return whether a prompt can be read in parts: recurrent layers of transformers take a prompt as a whole."""
    return can_shorten(cache)


def can_shorten(cache: Any) -> bool:
    """See `CacheEditor`; layers of other kinds than keys and values can't."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, Fp8QuantizedLayer

    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, Fp8QuantizedLayer) for layer in cache.layers)


def shorten(cache: Any, tokens: int) -> None:
    """See `CacheEditor`. (transformers' own `crop` also drops what lies behind a window.)"""
    for layer in cache.layers:
        if not layer.is_initialized:
            continue
        if hasattr(layer, "_quantized_keys"):
            layer._quantized_keys, layer._quantized_values = (
                (values[..., :tokens, :], scale) for values, scale in (layer._quantized_keys, layer._quantized_values)
            )
        else:
            layer.keys, layer.values = layer.keys[..., :tokens, :], layer.values[..., :tokens, :]
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = tokens


def copied(cache: Any, tokens: int) -> Any:
    """See `CacheEditor`."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    shorten(other, tokens)
    for layer in other.layers:
        for name in vars(layer).keys() & set(_CACHE_ATTRIBUTES):
            states = getattr(layer, name)
            setattr(layer, name, tree_map(lambda leaf: leaf.clone() if torch.is_tensor(leaf) else leaf, states))
    return other


def cache_bytes(config: Any, tokens: int, dtype: str, bits: int = 16) -> int:
    """Return the size in bytes right after a prompt of `tokens` tokens, before the first new token.

    Until then a layer with a sliding window holds the whole part that was read last (it keeps a view of it). The states
    of recurrent layers don't grow with the prompt."""
    recurrent = _recurrent_layers(config)
    of_states = _state_bytes(config, recurrent[0], dtype) * len(recurrent) if recurrent else 0
    return _filled_bytes(config, make_cache(config, bits), tokens, dtype) + of_states


def kept_bytes(config: Any, tokens: int, dtype: str, bits: int = 16) -> int:
    """Return the size in bytes of a cache that is made to be kept, with this many tokens."""
    return _filled_bytes(config, make_cache(config, bits, keep=True), tokens, dtype)


def _filled_bytes(config: Any, cache: Any, tokens: int, dtype: str) -> int:
    last = last_part(tokens) if takes_parts(cache) else tokens
    with FakeTensorMode():
        for part in (tokens - last, last):
            fill(cache, config, part, getattr(torch, dtype))
    return held_bytes(cache)


def last_part(tokens: int) -> int:
    """Return the tokens of the last part in which a prompt is read."""
    return (tokens - 1) % PROMPT_PART + 1


def fill(cache: Any, config: Any, tokens: int, dtype: torch.dtype) -> None:
    """Add keys and values of any value for `tokens` tokens, which are read together, to the layers of attention."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer in sorted(set(range(config.num_hidden_layers if tokens else 0)) - set(_recurrent_layers(config))):
        states = torch.empty(1, heads, tokens, width, dtype=dtype)
        cache.update(states, states.clone(), layer)


def held_bytes(cache: Any) -> int:
    """Return the bytes of all tensors in a cache."""
    leaves = tree_leaves([getattr(layer, name, None) for layer in cache.layers for name in _CACHE_ATTRIBUTES])
    return sum(leaf.untyped_storage().nbytes() for leaf in leaves if isinstance(leaf, torch.Tensor))


def _has_windowed_layers(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    return kinds is None or "sliding_attention" in kinds


def _recurrent_layers(config: Any) -> list[int]:
    """The places of layers that hold states of a fixed size in place of keys and values."""
    return [place for place, kind in enumerate(layer_types(config) or ()) if kind in ("linear_attention", "conv")]


def _state_bytes(config: Any, place: int, dtype: str) -> int:
    """The bytes of the states that the recurrent layer at `place` leaves: it is run without values."""
    import transformers

    kinds = list(layer_types(config) or ())
    few = truncate_config(config, max(map(kinds.index, kinds)) + 1)  # its cache counts tokens in a layer of attention
    with torch.device("meta"), torch.no_grad():
        model: Any = transformers.AutoModelForCausalLM.from_config(few, dtype=getattr(torch, dtype))
        cache = make_cache(few)
        ids = torch.ones(1, 2, dtype=torch.long)
        model.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    cache.layers = cache.layers[place : place + 1]
    return held_bytes(cache)
