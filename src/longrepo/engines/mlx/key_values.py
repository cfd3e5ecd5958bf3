"""The size of the keys and values of a sequence in mlx-lm's own caches, on arrays that are never evaluated."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from longrepo.engines.mlx.fidelity.families import build

PREFILL = 2048  # tokens of a prompt that mlx-lm's generation takes at a time


def cache_bytes(config: Any, tokens: int, dtype: str) -> int:
    """Bytes right after a prompt of `tokens` tokens."""
    tree = config.to_dict()
    heads = tree.get("num_key_value_heads") or tree["num_attention_heads"]
    width = tree.get("head_dim") or tree["hidden_size"] // tree["num_attention_heads"]
    total = 0
    for cache in build(tree).make_cache():
        for start in range(0, tokens, PREFILL):
            states = mx.zeros((1, heads, min(PREFILL, tokens - start), width), getattr(mx, dtype))
            cache.update_and_fetch(states, states)
        total += cache.keys.nbytes + cache.values.nbytes
    return total
