"""What a model of mlx-lm does before and after its layers, found by running it with its layers replaced by stand-ins.

So embedding scales, masks, the final norm and the head are the model's own code, whatever the architecture. What
isn't asked for costs nothing: MLX computes only what is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from longrepo.engines.mlx.chunked.cache import ChunkCache


@dataclass(frozen=True)
class _Asked:
    """A mask that was asked for, of a window of tokens."""

    window: int | None


class _Asking(ChunkCache):
    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        return _Asked(window_size)


class _StandIn:
    """Answers for `layer` as far as its attributes go; notes what it is given and gives back `output`, or that."""

    def __init__(self, layer: Any, output: mx.array | None = None) -> None:
        self._layer, self._output = layer, output
        self.hidden: mx.array | None = None
        self.mask: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, hidden: mx.array, mask: Any = None, cache: Any = None, **_: Any) -> mx.array:
        self.hidden, self.mask = hidden, mask
        return hidden if self._output is None else self._output


class Ends:
    """The two ends of `model`, whose decoder is `model.model` and its layers `model.model.layers`."""

    def __init__(self, model: Any) -> None:
        self._model, self._decoder = model, model.model
        self.layers: list[Any] = list(model.model.layers)

    def embed(self, ids: mx.array) -> mx.array:
        """The first layer's input `[rows, tokens, width]`; ids `[rows, tokens]`."""
        with self._replaced() as stand_ins:
            self._decoder(ids, cache=self._caches(ChunkCache(0, 0)))
        assert stand_ins[0].hidden is not None
        return stand_ins[0].hidden

    def windows(self) -> list[int | None]:
        """How many tokens each layer sees; None for all. Raises TypeError where a mask isn't asked of the cache."""
        with self._replaced() as stand_ins:
            self._decoder(mx.zeros((1, 2), mx.int32), cache=self._caches(_Asking(0, 0)))
        if not all(isinstance(one.mask, _Asked) for one in stand_ins):
            raise TypeError("the model makes its own attention masks")
        return [one.mask.window for one in stand_ins]

    def logits(self, hidden: mx.array) -> mx.array:
        """The model's output `[rows, tokens, vocabulary]` for the last layer's `[rows, tokens, width]`."""
        with self._replaced(hidden):
            return self._model(mx.zeros(hidden.shape[:2], mx.int32), cache=self._caches(ChunkCache(0, 0)))

    def _caches(self, cache: ChunkCache) -> list[ChunkCache]:
        return [cache] * len(self.layers)

    @contextmanager
    def _replaced(self, output: mx.array | None = None) -> Iterator[list[_StandIn]]:
        stand_ins = [_StandIn(layer, output) for layer in self.layers]
        real = self._decoder.layers
        self._decoder.layers = stand_ins
        try:
            yield stand_ins
        finally:
            self._decoder.layers = real
