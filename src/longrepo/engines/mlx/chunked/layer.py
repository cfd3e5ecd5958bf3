"""One layer over the chunks of a sequence: forward without a graph, and backward from the last chunk to the first.

As `longrepo.engines.torch.chunked.layer`: a chunk's backward pass computes the chunk again and pulls back through three
outputs at once, its output and its own keys and values, to which later chunks have left their gradients. Every chunk is
evaluated before the next: one lazy graph of all would be walked breadth first, and peak higher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx

from longrepo.engines.mlx.chunked.cache import ChunkCache
from longrepo.engines.mlx.lora import Slot, placed

Spans = Sequence[tuple[int, int]]
At = Callable[[int], AbstractContextManager[None]]  # where a chunk begins, for what depends on positions (dropout)


class LayerPass:
    """`keys`, `values`: of each chunk `[rows, kv heads, chunk, head width]`, filled by `forward`. `window`: tokens
    that the layer sees, None for all."""

    def __init__(self, layer: Any, slots: Sequence[Slot], window: int | None, spans: Spans, at: At) -> None:
        self._layer, self._slots, self._window = layer, slots, window
        self._spans, self._at = spans, at
        self.keys: dict[int, mx.array] = {}
        self.values: dict[int, mx.array] = {}
        self._key_gradients: dict[int, mx.array] = {}
        self._value_gradients: dict[int, mx.array] = {}

    def forward(self, index: int, hidden: mx.array, wanted: bool) -> mx.array | None:
        """The layer's output for chunk `index` with input `hidden` `[rows, chunk, width]`, None unless it is `wanted`:
        then only its keys and values are computed. Chunks come in order."""
        earlier = ([kept[i] for i in self._before(index)] for kept in (self.keys, self.values))
        output, keys, values = self._run(index, hidden, *earlier)
        self.keys[index], self.values[index] = keys, values
        mx.eval(keys, values, [output] if wanted else [])
        return output if wanted else None

    def backward(
        self, index: int, hidden: mx.array, gradient: mx.array | None, parameters: Sequence[mx.array]
    ) -> tuple[mx.array, list[mx.array]]:
        """The gradients of chunk `index`'s input (from that of its output, None for zero) and of `parameters` (float32,
        one a slot), to be evaluated by the caller.

        Chunks come from last to first: when a chunk's turn comes, the gradient of its keys and values is complete.
        """
        before = self._before(index)
        count, pieces = len(self._slots), len(before)

        def run(*primals: mx.array) -> tuple[mx.array, ...]:
            keys, values = primals[count + 1 : count + 1 + pieces], primals[count + 1 + pieces :]
            with placed(self._slots, primals[:count]):
                outputs = self._run(index, primals[count], keys, values)
            return outputs if gradient is not None else outputs[1:]

        own = self.keys.pop(index), self.values.pop(index)
        left = [
            mx.zeros_like(kept) if (g := gradients.pop(index, None)) is None else g.astype(kept.dtype)
            for kept, gradients in zip(own, (self._key_gradients, self._value_gradients), strict=True)
        ]
        primals = [*parameters, hidden, *(self.keys[i] for i in before), *(self.values[i] for i in before)]
        _, found = mx.vjp(run, primals, left if gradient is None else [gradient, *left])
        of_pieces = found[count + 1 :]
        for gradients, news in (
            (self._key_gradients, of_pieces[:pieces]),
            (self._value_gradients, of_pieces[pieces:]),
        ):
            for i, new in zip(before, news, strict=True):
                new = new.astype(mx.float32)
                gradients[i] = gradients[i] + new if i in gradients else new
        return found[count], found[:count]

    def pending(self) -> list[mx.array]:
        """What `backward` left to be evaluated beside what it returned."""
        return [*self._key_gradients.values(), *self._value_gradients.values()]

    def _run(
        self, index: int, hidden: mx.array, keys: Sequence[mx.array], values: Sequence[mx.array]
    ) -> tuple[mx.array, mx.array, mx.array]:
        start, end = self._spans[index]
        before = self._before(index)
        first = self._first_key(start)
        if before and (cut := first - self._spans[before[0]][0]):
            keys, values = ([kept[0][:, :, cut:], *kept[1:]] for kept in (keys, values))
        cache = ChunkCache(start, first, keys, values)
        with self._at(start):
            output = self._layer(hidden, cache.make_mask(end - start, window_size=self._window), cache)
        if cache.own is None:
            raise TypeError("a layer did not ask its cache")
        return output, *cache.own

    def _before(self, index: int) -> list[int]:
        """The chunks whose keys chunk `index` attends to, besides its own."""
        first = self._first_key(self._spans[index][0])
        return [i for i in range(index) if self._spans[i][1] > first]

    def _first_key(self, start: int) -> int:
        """The first token that a chunk beginning at `start` attends to."""
        return 0 if self._window is None else max(0, start - self._window + 1)
