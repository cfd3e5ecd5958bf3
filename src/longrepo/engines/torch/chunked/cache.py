"""Stands where a layer expects transformers' `Cache`: hands a chunk the keys and values before it, notes its own."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


class ChunkCache:
    """`keys`, `values`: those of the tokens before the chunk, `[rows, kv heads, tokens, head width]`, or None."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        self.keys, self.values = keys, values
        self.own: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What `transformers.Cache.update` promises: the keys and values up to the chunk's end."""
        self.own = (keys, values)
        if self.keys is None or self.values is None:
            return keys, values
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return 0 if self.keys is None else self.keys.shape[2]
