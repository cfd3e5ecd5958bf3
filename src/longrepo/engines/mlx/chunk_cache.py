"""What a layer of mlx-lm is given in place of a cache, so that a chunk follows on the chunks before it.

mlx-lm's own caches can't be used: they write into their arrays, where a gradient can't follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx


class MlxChunkCache:
    """Takes the place of mlx-lm's KV cache in a layer, for a chunk that begins at position `offset`, with the keys and
    values from position `first`: gives it those and records its own.

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
        """Return the mask of the chunk's `N` tokens: bool `[N, keys]`, or mlx-lm's abbreviation."""
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


class MlxStateCache:
    """Takes the place of mlx-lm's cache in a recurrent layer: gives a chunk the `states` that the chunk before it left
    (none: it is the first), and takes its own."""

    def __init__(self, states: Sequence[mx.array] = ()) -> None:
        self._states, self.own = dict(enumerate(states)), dict[int, mx.array]()

    def __getitem__(self, place: int) -> mx.array | None:
        return self._states.get(place)

    def __setitem__(self, place: int, state: mx.array) -> None:
        self.own[place] = state
