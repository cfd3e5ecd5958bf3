"""The exact chunked step: the loss of a sequence and every gradient, with one chunk's graph alive at a time.

As `longrepo.engines.torch.chunked.step`, in the same order (`longrepo.engines.chunk_order`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from longrepo.engines.base import Batch
from longrepo.engines.chunk_order import spans_of, walk
from longrepo.engines.method import Method
from longrepo.engines.mlx.chunked.ends import Ends
from longrepo.engines.mlx.chunked.layer import At, LayerPass, Spans
from longrepo.engines.mlx.chunked.store import MemoryStore, Store
from longrepo.engines.mlx.gradients import Gradients
from longrepo.engines.mlx.lora import Slot, placed, slots_of
from longrepo.engines.mlx.loss import Scored, nll_and_gradient


class ChunkedStep:
    """`rows`: the slot of the trained token rows, if there are any. `at`: see `LayerPass`."""

    def __init__(self, model: Any, rows: Slot | None, at: At) -> None:
        self._ends, self._rows, self._at = Ends(model), rows, at
        self._windows = self._ends.windows()
        self._slots = [slots_of(layer, f"model.layers.{number}") for number, layer in enumerate(self._ends.layers)]

    def accumulate(
        self, batch: Batch, normaliser: float, method: Method, store: Store, gradients: Gradients
    ) -> list[mx.array]:
        """Add the gradient of `sum(weight * nll) / normaliser` to `gradients`; return the parts of
        `sum(weight * nll)`. Tokens after the last scored one are left out: nothing depends on them."""
        scored = np.flatnonzero(batch.loss_weights[:, 1:].any(axis=0))
        if not len(scored):
            return []
        tokens = int(scored[-1]) + 1
        ids = mx.array(batch.input_ids[:, :tokens].astype(np.int32))
        spans = spans_of(tokens, method.chunk)
        layers = len(self._ends.layers)
        totals: list[mx.array] = []
        parts = [Scored.of(batch.input_ids, batch.loss_weights, start, end) for start, end in spans]
        wanted = [part.at.size > 0 for part in parts]  # of the last layer: nothing else depends on its output
        above: list[mx.array | None] = [None] * len(spans)

        def head() -> None:
            for index, part in enumerate(parts):
                if wanted[index]:
                    hidden = store.take(("input", layers, index))
                    above[index] = self._head(part, hidden, normaliser, totals, gradients)

        def backward(number: int) -> None:
            self._backward(number, spans, above, store, gradients)

        def forward(number: int, keep_input: bool, keep_cache: bool, discard_output: bool) -> None:
            outputs = wanted if number == layers - 1 else [not discard_output] * len(spans)
            self._forward(number, spans, store, keep_input, keep_cache, outputs)

        try:
            self._embed(ids, spans, store)
            walk(method, layers, forward, head, backward)
            self._embedding_backward(ids, spans, above, gradients)
        finally:
            store.clear()
        return totals

    def hidden(self, ids: mx.array, chunk: int) -> Iterator[tuple[int, int, mx.array]]:
        """(start, end, the last layer's output `[rows, end - start, width]`) of each chunk, without gradients."""
        spans, store = spans_of(ids.shape[1], chunk), MemoryStore()
        self._embed(ids, spans, store)
        for number in range(len(self._ends.layers)):
            self._forward(number, spans, store, False, False, [True] * len(spans))
        for index, (start, end) in enumerate(spans):
            yield start, end, store.take(("input", len(self._ends.layers), index))

    def logits(self, hidden: mx.array) -> mx.array:
        """`[rows, tokens, vocabulary]` of the last layer's output."""
        return self._ends.logits(hidden)

    def _embed(self, ids: mx.array, spans: Spans, store: Store) -> None:
        for index, (start, end) in enumerate(spans):
            embedded = self._ends.embed(ids[:, start:end])
            mx.eval(embedded)
            store.put(("input", 0, index), embedded)

    def _pass(self, number: int, spans: Spans) -> LayerPass:
        return LayerPass(self._ends.layers[number], self._slots[number], self._windows[number], spans, self._at)

    def _forward(
        self, number: int, spans: Spans, store: Store, keep_input: bool, keep_cache: bool, wanted: Sequence[bool]
    ) -> None:
        """`wanted`: of which chunks the output is."""
        passing = self._pass(number, spans)
        for index in range(len(spans)):
            key = ("input", number, index)
            output = passing.forward(index, store.get(key) if keep_input else store.take(key), wanted[index])
            if output is not None:
                store.put(("input", number + 1, index), output)
            if keep_cache:
                store.put(("keys", number, index), passing.keys[index])
                store.put(("values", number, index), passing.values[index])

    def _head(
        self, scored: Scored, hidden: mx.array, normaliser: float, totals: list[mx.array], gradients: Gradients
    ) -> mx.array:
        """The gradient of a chunk of the last layer's output, a part of its scored positions at a time."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        total = mx.zeros_like(flat)
        rows = [] if self._rows is None else [self._rows]
        for part in scored.parts():

            def logits(hidden: mx.array, *values: mx.array) -> mx.array:
                with placed(rows, values):
                    return self._ends.logits(hidden[None]).squeeze(0).astype(mx.float32)

            primals = [flat[part.at], *(slot.value for slot in rows)]
            nll, above = nll_and_gradient(logits(*primals), part.targets, part.weights / normaliser)
            _, found = mx.vjp(logits, primals, [above])
            summed = (nll * part.weights).sum()
            total[part.at] = found[0]
            gradients.add(rows, found[1:])
            mx.eval(total, summed, gradients.of(rows))
            totals.append(summed)
        return total.reshape(hidden.shape)

    def _backward(
        self, number: int, spans: Spans, above: list[mx.array | None], store: Store, gradients: Gradients
    ) -> None:
        """Replace each chunk's gradient of the layer's output by that of its input."""
        passing, slots = self._pass(number, spans), self._slots[number]
        for index in range(len(spans)):
            passing.keys[index] = store.take(("keys", number, index))
            passing.values[index] = store.take(("values", number, index))
        for index in reversed(range(len(spans))):
            hidden = store.take(("input", number, index))
            above[index], found = passing.backward(index, hidden, above[index], [slot.value for slot in slots])
            gradients.add(slots, found)
            mx.eval(above[index], gradients.of(slots), passing.pending())

    def _embedding_backward(
        self, ids: mx.array, spans: Spans, above: Sequence[mx.array | None], gradients: Gradients
    ) -> None:
        if self._rows is None:
            return
        rows = [self._rows]
        for (start, end), gradient in zip(spans, above, strict=True):

            def embedded(value: mx.array, start: int = start, end: int = end) -> mx.array:
                with placed(rows, [value]):
                    return self._ends.embed(ids[:, start:end])

            assert gradient is not None  # the first layer has given each
            _, found = mx.vjp(embedded, [self._rows.value], [gradient])
            gradients.add(rows, found)
            mx.eval(gradients.of(rows))
