"""The exact chunked step: the loss of a sequence and every gradient, with one chunk's graph alive at a time.

Forward, layer by layer, without a graph, keeping each layer's input, keys and values; the head chunk by chunk;
backward, layers from last to first (`longrepo.engines.torch.chunked.layer`). It is exact, unlike a backward pass for
each chunk that takes earlier keys and values as constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from longrepo.engines.base import Batch
from longrepo.engines.chunk_order import spans_of, walk
from longrepo.engines.method import Method
from longrepo.engines.torch.chunked.attention import register
from longrepo.engines.torch.chunked.ends import Ends, LayerArguments
from longrepo.engines.torch.chunked.layer import At, LayerPass, Spans
from longrepo.engines.torch.chunked.lean import lean
from longrepo.engines.torch.chunked.store import MemoryStore, Store
from longrepo.engines.torch.loss import Scored, backward_weighted

Tensor = torch.Tensor
Head = Callable[[Tensor], Tensor]


class ChunkedStep:
    """`dtype`: what matrix products are computed in. `at`: see `LayerPass`."""

    def __init__(self, decoder: nn.Module, head: Head, device: torch.device, dtype: torch.dtype, at: At) -> None:
        register()
        self._ends, self._head, self._at = Ends(decoder), head, at
        self._device, self._dtype = device, dtype

    def accumulate(self, batch: Batch, normaliser: float, method: Method, store: Store) -> list[Tensor]:
        """Add the gradient of `sum(weight * nll) / normaliser` to what is held; return the parts of
        `sum(weight * nll)`. Tokens after the last scored one are left out: nothing depends on them."""
        scored = np.flatnonzero(batch.loss_weights[:, 1:].any(axis=0))
        if not len(scored):
            return []
        tokens = int(scored[-1]) + 1
        ids = torch.from_numpy(batch.input_ids[:, :tokens]).to(self._device)
        spans = spans_of(tokens, method.chunk)
        arguments = self._arguments(ids, tokens)
        totals: list[Tensor] = []
        gradients: list[Tensor] = []

        def forward(number: int, keep_input: bool, keep_cache: bool, discard_output: bool) -> None:
            self._forward(number, arguments[number], spans, store, keep_input, keep_cache, discard_output)

        def head() -> None:
            found = self._head_backward(batch, spans, len(arguments), normaliser, store)
            totals.extend(found[0])
            gradients.extend(found[1])

        try:
            for index, (start, end) in enumerate(spans):
                with torch.no_grad():
                    store.put(("input", 0, index), self._ends.embed(ids[:, start:end]))
            walk(
                method,
                len(arguments),
                forward,
                head,
                lambda number: self._backward(number, arguments[number], spans, gradients, store),
            )
            self._embedding_backward(ids, spans, gradients)
        finally:
            store.clear()
        return totals

    @torch.no_grad()
    def hidden(self, ids: Tensor, chunk: int) -> Iterator[tuple[int, int, Tensor]]:
        """(start, end, the decoder's output `[rows, end - start, width]`) of each chunk, without a graph."""
        spans, store = spans_of(ids.shape[1], chunk), MemoryStore()
        for index, (start, end) in enumerate(spans):
            store.put(("input", 0, index), self._ends.embed(ids[:, start:end]))
        arguments = self._arguments(ids, ids.shape[1])
        for number, of_layer in enumerate(arguments):
            self._forward(number, of_layer, spans, store, False, False)
        for index, (start, end) in enumerate(spans):
            yield start, end, self._ends.finish(store.get(("input", len(arguments), index)))

    def _arguments(self, ids: Tensor, tokens: int) -> list[LayerArguments]:
        table_dtype = self._ends.embed(ids[:, :1]).dtype
        return self._ends.arguments(tokens, ids.device, table_dtype)

    def _forward(
        self,
        number: int,
        arguments: LayerArguments,
        spans: Spans,
        store: Store,
        keep_input: bool,
        keep_cache: bool,
        discard_output: bool = False,
    ) -> None:
        layer = self._ends.layers[number]
        passing = LayerPass(layer, arguments, spans, self._at)
        with lean(layer, self._dtype):
            for index in range(len(spans)):
                output = passing.forward(index, store.get(("input", number, index)))
                if not discard_output:
                    store.put(("input", number + 1, index), output)
                if not keep_input:
                    store.drop(("input", number, index))
        if keep_cache:
            assert passing.keys is not None and passing.values is not None
            store.put(("keys", number, 0), passing.keys)
            store.put(("values", number, 0), passing.values)

    def _head_backward(
        self, batch: Batch, spans: Spans, layers: int, normaliser: float, store: Store
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The loss's parts, and the gradient of the last layer's output, chunk by chunk."""
        totals: list[Tensor] = []
        gradients = []
        for index, (start, end) in enumerate(spans):
            key = ("input", layers, index)
            leaf = store.get(key).detach().requires_grad_()
            with torch.enable_grad():
                hidden = self._ends.finish(leaf).flatten(0, 1)
            scored = Scored.of(batch.input_ids, batch.loss_weights, start, end, self._device)
            totals += backward_weighted(self._head, hidden, scored, normaliser)
            gradients.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            store.drop(key)
        return totals, gradients

    def _backward(
        self, number: int, arguments: LayerArguments, spans: Spans, gradients: list[Tensor], store: Store
    ) -> None:
        """Replace each chunk's gradient of the layer's output by that of its input."""
        layer = self._ends.layers[number]
        names: tuple[tuple[str, int, int], ...] = (("keys", number, 0), ("values", number, 0))
        passing = LayerPass(layer, arguments, spans, self._at, *(store.get(name) for name in names))
        for name in names:
            store.drop(name)
        with lean(layer, self._dtype):
            for index in reversed(range(len(spans))):
                key = ("input", number, index)
                gradients[index] = passing.backward(index, store.get(key), gradients[index])
                store.drop(key)

    def _embedding_backward(self, ids: Tensor, spans: Spans, gradients: list[Tensor]) -> None:
        for (start, end), gradient in zip(spans, gradients, strict=True):
            with torch.enable_grad():
                embedded = self._ends.embed(ids[:, start:end])
            if not embedded.requires_grad:
                return
            embedded.backward(gradient)
