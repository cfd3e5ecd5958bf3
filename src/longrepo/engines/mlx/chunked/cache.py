"""Stands where a layer expects mlx-lm's KV cache: hands a chunk the keys and values before it, notes its own."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx


class ChunkCache:
    """A chunk that begins at position `offset`, whose earlier keys and values begin at position `first`.

    `keys`, `values`: those from `first` to `offset` in pieces, each `[rows, kv heads, tokens, head width]`.
    """

    def __init__(self, offset: int, first: int, keys: Sequence[mx.array] = (), values: Sequence[mx.array] = ()) -> None:
        self.offset, self.first, self._keys, self._values = offset, first, keys, values
        self.own: tuple[mx.array, mx.array] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The keys and values from `first` up to the chunk's end."""
        self.own = (keys, values)
        if not self._keys:
            return keys, values
        return mx.concatenate([*self._keys, keys], axis=2), mx.concatenate([*self._values, values], axis=2)

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> mx.array | str | None:
        """For the chunk's `N` tokens: bool `[N, keys]`, or what mlx-lm says shorter."""
        seen = self.offset - self.first + N
        windowed = window_size is not None and seen > window_size
        if N == 1 and not windowed and not return_array:
            return None
        if not windowed and not return_array:
            return "causal"
        at = mx.arange(self.offset, self.offset + N)[:, None]
        keys = mx.arange(self.first, self.offset + N)[None]
        mask = at >= keys
        return mask if window_size is None else mask & (at < keys + window_size)
