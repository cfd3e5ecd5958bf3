"""The size of the keys and values of a sequence in transformers' own cache, found on fake tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def cache_bytes(config: Any, tokens: int, dtype: str) -> int:
    """Bytes right after a prompt of `tokens` tokens, before the first new token: until then even a layer with a sliding
    window holds all of it (what it keeps is a view)."""
    from transformers import DynamicCache

    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    with FakeTensorMode():
        cache = DynamicCache(config=config)
        for layer in range(config.num_hidden_layers):
            states = torch.empty(1, heads, tokens, width, dtype=getattr(torch, dtype))
            cache.update(states, states.clone(), layer)
        layers: list[Any] = list(cache.layers)
        kept: list[torch.Tensor] = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.untyped_storage().nbytes() for tensor in kept)
