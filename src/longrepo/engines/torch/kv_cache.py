"""Keys, values and states of recurrent layers in transformers' own caches, and their size, computed on tensors without
values."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from longrepo.engines.base import layer_types, truncate_config

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


def make_cache(config: Any, bits: int = 16) -> Any:
    """Return an empty cache; with 8 bits it is float8 with one scale for each layer's keys and values."""
    from transformers import DynamicCache, QuantizedCache

    return DynamicCache(config=config) if bits == 16 else QuantizedCache("fp8", config)


def cache_bytes(config: Any, tokens: int, dtype: str, bits: int = 16) -> int:
    """Return the size in bytes right after a prompt of `tokens` tokens, before the first new token.

    Until then even a layer with a sliding window holds the whole prompt (it keeps a view of it). The states of
    recurrent layers don't grow with it."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    recurrent = _recurrent_layers(config)
    with FakeTensorMode():
        cache = make_cache(config, bits)
        for layer in sorted(set(range(config.num_hidden_layers)) - set(recurrent)):
            states = torch.empty(1, heads, tokens, width, dtype=getattr(torch, dtype))
            cache.update(states, states.clone(), layer)
    of_states = _state_bytes(config, recurrent[0], dtype) * len(recurrent) if recurrent else 0
    return held_bytes(cache) + of_states


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
