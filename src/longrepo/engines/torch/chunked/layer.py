"""One layer over the chunks of a sequence: forward without a graph, and backward from the last chunk to the first.

Given the keys and values before it, a transformer layer is token-wise in everything else. So a chunk's backward pass
makes leaves of its input and of the earlier keys and values, computes the chunk again, and pulls back through three
outputs at once: the chunk's output and its own keys and values, to which later chunks have left their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from longrepo.engines.torch.chunked.attention import window_of
from longrepo.engines.torch.chunked.cache import ChunkCache
from longrepo.engines.torch.chunked.ends import LayerArguments

Tensor = torch.Tensor
Spans = list[tuple[int, int]]
At = Callable[[int], AbstractContextManager[None]]  # where a chunk begins, for what depends on positions (dropout)


class LayerPass:
    """`keys`, `values` `[rows, kv heads, tokens, head width]`: of the whole sequence, filled by `forward`."""

    def __init__(
        self,
        layer: Any,
        arguments: LayerArguments,
        spans: Spans,
        at: At,
        keys: Tensor | None = None,
        values: Tensor | None = None,
    ) -> None:
        self._layer, self._arguments, self._spans, self._at = layer, arguments, spans, at
        self.keys, self.values = keys, values
        self._windows: list[int | None] | None = None
        self._key_gradients: Tensor | None = None
        self._value_gradients: Tensor | None = None

    @torch.no_grad()
    def forward(self, index: int, hidden: Tensor) -> Tensor:
        """The layer's output for chunk `index` with input `hidden` `[rows, chunk, width]`; chunks come in order."""
        start, end = self._spans[index]
        first = self._first_key(start)
        cache = ChunkCache(*(self._between(t, first, start) for t in (self.keys, self.values)))
        output = self._run(hidden, start, end, cache)
        if cache.own is None:
            raise TypeError("a layer did not ask its cache")
        own_keys, own_values = cache.own
        if self.keys is None or self.values is None:
            tokens = self._spans[-1][1]
            self.keys, self.values = (
                own.new_empty((*own.shape[:2], tokens, own.shape[3])) for own in (own_keys, own_values)
            )
        self.keys[:, :, start:end], self.values[:, :, start:end] = own_keys, own_values
        return output

    def backward(self, index: int, hidden: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of chunk `index`'s input from that of its output; parameters accumulate theirs.

        Chunks come from last to first: when a chunk's turn comes, the gradient of its keys and values is complete.
        """
        assert self.keys is not None and self.values is not None
        if self._key_gradients is None or self._value_gradients is None:
            self._key_gradients, self._value_gradients = (
                torch.zeros_like(t, dtype=torch.float32) for t in (self.keys, self.values)
            )
        start, end = self._spans[index]
        first = self._first_key(start)
        hidden = hidden.detach().requires_grad_()
        before = [self._between(t, first, start) for t in (self.keys, self.values)]
        leaves = [None if t is None else t.detach().requires_grad_() for t in before]
        cache = ChunkCache(*leaves)
        with torch.enable_grad():
            output = self._run(hidden, start, end, cache)
        assert cache.own is not None
        left = [t[:, :, start:end] for t in (self._key_gradients, self._value_gradients)]
        torch.autograd.backward(
            [output, *cache.own], [gradient, *(g.to(own.dtype) for g, own in zip(left, cache.own, strict=True))]
        )
        for leaf, total in zip(leaves, (self._key_gradients, self._value_gradients), strict=True):
            if leaf is not None and leaf.grad is not None:
                total[:, :, first:start] += leaf.grad
        assert hidden.grad is not None
        return hidden.grad

    def _run(self, hidden: Tensor, start: int, end: int, cache: ChunkCache) -> Tensor:
        args, kwargs = self._arguments.cut(start, end)
        kwargs |= {"past_key_values": cache, "use_cache": True}
        with self._at(start):
            output = self._layer(hidden, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    def _first_key(self, start: int) -> int:
        """The first token that a chunk beginning at `start` attends to."""
        if start == 0:
            return 0
        if self._windows is None:
            self._windows = [window_of(module) for module in self._layer.modules() if window_of(module) is not None]
        widest = max((window for window in self._windows if window), default=None)
        return 0 if widest is None else max(0, start - widest + 1)

    @staticmethod
    def _between(tensor: Tensor | None, first: int, start: int) -> Tensor | None:
        return tensor[:, :, first:start] if tensor is not None and start > first else None
