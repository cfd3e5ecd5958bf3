"""The exact chunked step: the loss of a sequence and every gradient, with one chunk's graph alive at a time.

As `longrepo.engines.torch.chunked`, in the same order (`longrepo.engines.chunked`). Before and after its layers, a
model of mlx-lm computes with its own code, whatever the architecture: it is run with its layers replaced by stand-ins.
A chunk's backward pass computes the chunk again and pulls back through three outputs at once: its output and its own
keys and values (of a recurrent layer, its states), to which later chunks have left their gradients. Every chunk is
evaluated before the next: one lazy graph of all would be walked breadth first, and peak higher. The plain step, one
graph for a whole sequence, is what the chunked step is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.chunked import (
    PROBE_CHUNK,
    PROBE_TOKENS,
    ActivationStore,
    MemoryStore,
    StepObserver,
    chunk_spans,
    probe_layers,
    probe_tolerance,
    run_schedule,
)
from longrepo.engines.mlx.chunk_cache import MlxChunkCache, MlxStateCache
from longrepo.engines.mlx.device import to_float
from longrepo.engines.mlx.lora import Gradients, ParameterSlot, lora_slots, temporary_values
from longrepo.engines.mlx.loss import MlxScoredPositions, nll_and_gradient
from longrepo.engines.mlx.models import is_recurrent

Spans = Sequence[tuple[int, int]]
ChunkContext = Callable[
    [int], AbstractContextManager[None]
]  # where a chunk begins, for what depends on positions (dropout)


class MlxLayerPass:
    """Computes one layer over the chunks of a sequence. `window`: tokens that the layer sees, None for all.

    `kept`: what later chunks need of each, by name, filled by `forward`: `keys` and `values` `[rows, kv heads, chunk,
    head width]`, or a recurrent layer's states (`longrepo.engines.mlx.recurrent`), `inputs` of its convolution and
    `state`, of which only the last chunk's are held."""

    def __init__(
        self, layer: Any, slots: Sequence[ParameterSlot], window: int | None, spans: Spans, at: ChunkContext
    ) -> None:
        self._layer, self._slots, self._window = layer, slots, window
        self._spans, self._at = spans, at
        self._recurrent = is_recurrent(layer)
        self.names = ("inputs", "state") if self._recurrent else ("keys", "values")
        self.kept: dict[str, dict[int, mx.array]] = {name: {} for name in self.names}
        self._gradients: dict[str, dict[int, mx.array]] = {name: {} for name in self.names}

    def forward(self, index: int, hidden: mx.array, wanted: bool) -> mx.array | None:
        """Return the layer's output for chunk `index` with input `hidden` `[rows, chunk, width]`; None, and only what
        later chunks need is computed, unless it is `wanted`. Chunks come in order."""
        output, *own = self._run(index, hidden, self._earlier(index))
        self._keep(index, own)
        mx.eval([kept[index] for kept in self.kept.values()], [output] if wanted else [])
        return output if wanted else None

    def backward(
        self, index: int, hidden: mx.array, gradient: mx.array | None, parameters: Sequence[mx.array]
    ) -> tuple[mx.array, list[mx.array]]:
        """Return the gradients of chunk `index`'s input and of `parameters` (float32, one per slot), not evaluated yet.
        `gradient`: of its output, None for zero.

        Chunks come from last to first: when a chunk's turn comes, the gradient of what it left to later ones is
        complete.
        """
        before = self._before(index)
        count, pieces = len(self._slots), len(before)

        def run(*primals: mx.array) -> tuple[mx.array, ...]:
            given = primals[count + 1 :]
            earlier = [given[at * pieces : (at + 1) * pieces] for at in range(len(self.names))]
            with temporary_values(self._slots, primals[:count]):
                outputs = self._run(index, primals[count], earlier)
            return outputs if gradient is not None else outputs[1:]

        left = []
        for name in self.names:
            own, g = self.kept[name].pop(index), self._gradients[name].pop(index, None)
            left.append(mx.zeros_like(own) if g is None else g.astype(own.dtype))
        primals = [*parameters, hidden, *(one for of_name in self._earlier(index) for one in of_name)]
        _, found = mx.vjp(run, primals, left if gradient is None else [gradient, *left])
        for at, gradients in enumerate(self._gradients.values()):
            for i, new in zip(before, found[count + 1 + at * pieces :], strict=False):
                new = new.astype(mx.float32)
                gradients[i] = gradients[i] + new if i in gradients else new
        return found[count], found[:count]

    def skip_forward(self, index: int, hidden: mx.array, wanted: bool) -> mx.array | None:
        """As `forward`, but the results are zeros: for a dry run."""
        self._keep(index, [_zeros_like(self.kept[name][index - 1]) for name in self.names])
        return _zeros_like(hidden) if wanted else None

    def skip_backward(self, index: int, hidden: mx.array) -> mx.array:
        """As `backward`, but the input's gradient and those left to earlier chunks are zeros: for a dry run."""
        for name, gradients in self._gradients.items():
            own = self.kept[name].pop(index)
            gradients.pop(index, None)
            for i in self._before(index):
                gradients.setdefault(i, mx.zeros(own.shape, mx.float32))
        return _zeros_like(hidden)

    def needed(self, index: int) -> list[int]:
        """Return the chunks of which `kept` lacks what they left when `backward` comes to chunk `index`: all of an
        attention layer's, as plans count them, but only those of a recurrent layer that are used next."""
        chunks = (*self._before(index), index) if self._recurrent else range(index + 1)
        return [i for i in chunks if i not in self.kept[self.names[0]]]

    def pending(self) -> list[mx.array]:
        """Return the gradients that `backward` hasn't evaluated besides those it returned."""
        return [one for gradients in self._gradients.values() for one in gradients.values()]

    def _keep(self, index: int, own: Sequence[mx.array]) -> None:
        for kept, one in zip(self.kept.values(), own, strict=True):
            if self._recurrent:
                kept.clear()
            kept[index] = mx.contiguous(one)  # of a fused projection (Phi-3) a view would hold the queries, too

    def _earlier(self, index: int) -> list[list[mx.array]]:
        return [[kept[i] for i in self._before(index)] for kept in self.kept.values()]

    def _run(self, index: int, hidden: mx.array, earlier: Sequence[Sequence[mx.array]]) -> tuple[mx.array, ...]:
        """Return the output and the chunk's own part of each name. `earlier`: by name, of the chunks before."""
        start, end = self._spans[index]
        if self._recurrent:
            states = MlxStateCache([one for of_name in earlier for one in of_name])
            with self._at(start):
                output = self._layer(hidden, None, states)
            own = [states.own[place] for place in sorted(states.own)]
        else:
            before, first = self._before(index), self._first_key(start)
            if before and (cut := first - self._spans[before[0]][0]):
                earlier = [[pieces[0][:, :, cut:], *pieces[1:]] for pieces in earlier]
            cache = MlxChunkCache(start, first, *earlier)
            with self._at(start):
                output = self._layer(hidden, cache.make_mask(end - start, window_size=self._window), cache)
            own = list(cache.own or ())
        if len(own) != len(self.names):
            raise TypeError("a layer did not ask its cache")
        return output, *own

    def _before(self, index: int) -> list[int]:
        """The chunks whose keys chunk `index` attends to, besides its own; the one whose states it goes on from."""
        if self._recurrent:
            return [index - 1] if index else []
        first = self._first_key(self._spans[index][0])
        return [i for i in range(index) if self._spans[i][1] > first]

    def _first_key(self, start: int) -> int:
        """The first token that a chunk beginning at `start` attends to."""
        return 0 if self._window is None else max(0, start - self._window + 1)


@dataclass(frozen=True)
class _RequestedMask:
    """The request for a mask with a window of tokens."""

    window: int | None


class _MaskProbe(MlxChunkCache):
    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        return _RequestedMask(window_size)


class _MlxLayerProbe:
    """Has `layer`'s attributes; records its arguments and returns `output`, or its input."""

    def __init__(self, layer: Any, output: mx.array | None = None) -> None:
        self._layer, self._output = layer, output
        self.hidden: mx.array | None = None
        self.mask: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, hidden: mx.array, mask: Any = None, cache: Any = None, **_: Any) -> mx.array:
        self.hidden, self.mask = hidden, mask
        return hidden if self._output is None else self._output


class _PassThroughLayer(_MlxLayerProbe):
    """Returns its input, and asks its cache, if it gets one, as a layer does: with keys or states of no width."""

    def __call__(self, hidden: mx.array, mask: Any = None, cache: Any = None, **_: Any) -> mx.array:
        if isinstance(cache, MlxStateCache):
            cache[0] = cache[1] = hidden[..., :0]
        elif cache is not None:
            cache.update_and_fetch(hidden[:, None, :, :0], hidden[:, None, :, :0])
        return hidden


class MlxEmbeddingAndHead:
    """What `model` computes before and after the layers `model.model.layers`."""

    def __init__(self, model: Any) -> None:
        self._model, self._decoder = model, model.model
        self.layers: list[Any] = list(model.model.layers)

    def embed(self, ids: mx.array) -> mx.array:
        """The first layer's input `[rows, tokens, width]`; ids `[rows, tokens]`."""
        with self._replaced() as stand_ins:
            self._decoder(ids, cache=self._caches(MlxChunkCache(0, 0)))
        assert stand_ins[0].hidden is not None
        return stand_ins[0].hidden

    def windows(self) -> list[int | None]:
        """Return the number of tokens that each layer sees; None for all, and for recurrent layers. Raises TypeError if
        a model doesn't get its masks from the cache."""
        with self._replaced() as stand_ins:
            self._decoder(mx.zeros((1, 2), mx.int32), cache=self._caches(_MaskProbe(0, 0)))
        masks = [_RequestedMask(None) if is_recurrent(one) else one.mask for one in stand_ins]
        if not all(isinstance(mask, _RequestedMask) for mask in masks):
            raise TypeError("the model makes its own attention masks")
        return [mask.window for mask in masks]

    def logits(self, hidden: mx.array) -> mx.array:
        """The model's output `[rows, tokens, vocabulary]` for the last layer's `[rows, tokens, width]`."""
        with self._replaced(hidden):
            return self._model(mx.zeros(hidden.shape[:2], mx.int32), cache=self._caches(MlxChunkCache(0, 0)))

    def _caches(self, cache: MlxChunkCache) -> list[MlxChunkCache]:
        return [cache] * len(self.layers)

    @contextmanager
    def _replaced(self, output: mx.array | None = None) -> Iterator[list[_MlxLayerProbe]]:
        stand_ins = [_MlxLayerProbe(layer, output) for layer in self.layers]
        real = self._decoder.layers
        self._decoder.layers = stand_ins
        try:
            yield stand_ins
        finally:
            self._decoder.layers = real


class MlxCodec:
    """Evaluated arrays as bytes."""

    def to_bytes(self, array: mx.array) -> memoryview:
        flat: Any = mx.contiguous(array).reshape(-1).view(mx.uint8)
        return memoryview(flat)

    def from_bytes(self, read: Callable[[memoryview], None], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        data: Any = np.empty(int(np.prod(shape)) * dtype.size, dtype=np.uint8)
        read(memoryview(data))
        return mx.array(data).view(dtype).reshape(shape)


class MlxChunkedStep:
    """Computes exact steps in chunks. `rows`: the slot of the trained token rows, if any. `at`: see `ChunkContext`.
    `observer`: follows each step."""

    def __init__(self, model: Any, rows: ParameterSlot | None, at: ChunkContext) -> None:
        self._ends, self._rows, self._at = MlxEmbeddingAndHead(model), rows, at
        self.observer = StepObserver()
        self._windows = self._ends.windows()
        self._slots = [lora_slots(layer, f"model.layers.{number}") for number, layer in enumerate(self._ends.layers)]

    def accumulate(
        self,
        batch: Batch,
        normalizer: float,
        method: StepMethod,
        store: ActivationStore[mx.array],
        gradients: Gradients,
    ) -> list[mx.array]:
        """Add the gradient of `sum(weight * nll) / normalizer` to `gradients`; return the parts of
        `sum(weight * nll)`. Tokens after the last scored one are left out: nothing depends on them."""
        scored = np.flatnonzero(batch.loss_weights[:, 1:].any(axis=0))
        if not len(scored):
            return []
        tokens = int(scored[-1]) + 1
        ids = mx.array(batch.input_ids[:, :tokens].astype(np.int32))
        spans = chunk_spans(tokens, method.chunk)
        layers = len(self._ends.layers)
        totals: list[mx.array] = []
        parts = [MlxScoredPositions.of(batch.input_ids, batch.loss_weights, start, end) for start, end in spans]
        wanted = [part.at.size > 0 for part in parts]  # of the last layer: nothing else depends on its output
        above: list[mx.array | None] = [None] * len(spans)

        head_done = False

        def head() -> None:
            nonlocal head_done
            self.observer.enter("head")
            head_done = True
            for index, part in enumerate(parts):
                if wanted[index]:
                    hidden = store.take(("input", layers, index))
                    skipped = self.observer.skips(index, len(spans))
                    above[index] = (
                        _zeros_like(hidden) if skipped else self._head(part, hidden, normalizer, totals, gradients)
                    )

        def backward(number: int) -> None:
            self.observer.enter("backward")
            self._backward(number, spans, above, store, gradients)

        def forward(number: int, keep_input: bool, keep_cache: bool, discard_output: bool) -> None:
            self.observer.enter("recompute" if head_done else "forward")
            outputs = wanted if number == layers - 1 else [not discard_output] * len(spans)
            self._forward(number, spans, store, keep_input, keep_cache, outputs)

        try:
            self._embed(ids, spans, store)
            run_schedule(method, layers, forward, head, backward)
            self._embedding_backward(ids, spans, above, gradients)
        finally:
            store.clear()
        return totals

    def hidden(self, ids: mx.array, chunk: int) -> Iterator[tuple[int, int, mx.array]]:
        """(start, end, the last layer's output `[rows, end - start, width]`) of each chunk, without gradients."""
        spans, store = chunk_spans(ids.shape[1], chunk), MemoryStore[mx.array]()
        self._embed(ids, spans, store)
        for number in range(len(self._ends.layers)):
            self._forward(number, spans, store, False, False, [True] * len(spans))
        for index, (start, end) in enumerate(spans):
            yield start, end, store.take(("input", len(self._ends.layers), index))

    def logits(self, hidden: mx.array) -> mx.array:
        """`[rows, tokens, vocabulary]` of the last layer's output."""
        return self._ends.logits(hidden)

    def _embed(self, ids: mx.array, spans: Spans, store: ActivationStore[mx.array]) -> None:
        for index, (start, end) in enumerate(spans):
            skipped = self.observer.skips(index, len(spans))
            embedded = _zeros_like(store.get(("input", 0, 0))) if skipped else self._ends.embed(ids[:, start:end])
            mx.eval(embedded)
            store.put(("input", 0, index), embedded)

    def _pass(self, number: int, spans: Spans) -> MlxLayerPass:
        return MlxLayerPass(self._ends.layers[number], self._slots[number], self._windows[number], spans, self._at)

    def _forward(
        self,
        number: int,
        spans: Spans,
        store: ActivationStore[mx.array],
        keep_input: bool,
        keep_cache: bool,
        wanted: Sequence[bool],
    ) -> None:
        """`wanted`: the chunks whose output is needed."""
        passing = self._pass(number, spans)
        for index in range(len(spans)):
            key = ("input", number, index)
            hidden = store.get(key) if keep_input else store.take(key)
            run = passing.skip_forward if self.observer.skips(index, len(spans)) else passing.forward
            output = run(index, hidden, wanted[index])
            if output is not None:
                store.put(("input", number + 1, index), output)
            if keep_cache:
                for name, kept in passing.kept.items():
                    store.put((name, number, index), kept[index])

    def _head(
        self,
        scored: MlxScoredPositions,
        hidden: mx.array,
        normalizer: float,
        totals: list[mx.array],
        gradients: Gradients,
    ) -> mx.array:
        """Return the gradient of a chunk of the last layer's output, a part of its scored positions at a time."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        total = mx.zeros_like(flat)
        rows = [] if self._rows is None else [self._rows]
        for part in scored.parts():

            def logits(hidden: mx.array, *values: mx.array) -> mx.array:
                with temporary_values(rows, values):
                    return self._ends.logits(hidden[None]).squeeze(0).astype(mx.float32)

            primals = [flat[part.at], *(slot.value for slot in rows)]
            nll, above = nll_and_gradient(logits(*primals), part.targets, part.weights / normalizer)
            _, found = mx.vjp(logits, primals, [above])
            summed = (nll * part.weights).sum()
            total[part.at] = found[0]
            gradients.add(rows, found[1:])
            mx.eval(total, summed, gradients.of(rows))
            totals.append(summed)
        return total.reshape(hidden.shape)

    def _backward(
        self,
        number: int,
        spans: Spans,
        above: list[mx.array | None],
        store: ActivationStore[mx.array],
        gradients: Gradients,
    ) -> None:
        """Replace each chunk's gradient of the layer's output by that of its input."""
        passing, slots = self._pass(number, spans), self._slots[number]
        for index in reversed(range(len(spans))):
            for i in passing.needed(index):
                for name, kept in passing.kept.items():
                    kept[i] = store.take((name, number, i))
            hidden = store.take(("input", number, index))
            if self.observer.skips(index, len(spans)):
                above[index] = passing.skip_backward(index, hidden)
            else:
                above[index], found = passing.backward(index, hidden, above[index], [slot.value for slot in slots])
                gradients.add(slots, found)
            mx.eval(above[index], gradients.of(slots), passing.pending())

    def _embedding_backward(
        self, ids: mx.array, spans: Spans, above: Sequence[mx.array | None], gradients: Gradients
    ) -> None:
        if self._rows is None:
            return
        rows = [self._rows]
        for index, ((start, end), gradient) in enumerate(zip(spans, above, strict=True)):
            if self.observer.skips(index, len(spans)):
                continue

            def embedded(value: mx.array, start: int = start, end: int = end) -> mx.array:
                with temporary_values(rows, [value]):
                    return self._ends.embed(ids[:, start:end])

            assert gradient is not None  # the first layer has given each
            _, found = mx.vjp(embedded, [self._rows.value], [gradient])
            gradients.add(rows, found)
            mx.eval(gradients.of(rows))


def _zeros_like(array: mx.array) -> mx.array:
    """Make zeros that are evaluated, so that they take memory."""
    zeros = mx.zeros_like(array)
    mx.eval(zeros)
    return zeros


def unsupported_reason(model: Any, rows: ParameterSlot | None, at: ChunkContext) -> str | None:
    """See `longrepo.engines.chunked.probe_layers`."""
    model.eval()
    ids = mx.arange(PROBE_TOKENS)[None]

    def chunks() -> mx.array:
        step = MlxChunkedStep(model, rows, at)
        return mx.concatenate([step.logits(hidden) for _, _, hidden in step.hidden(ids, PROBE_CHUNK)], axis=1)

    def differs(plain: mx.array, parts: mx.array) -> bool:
        off = to_float(mx.linalg.norm((parts - plain).astype(mx.float32)))
        tolerance = probe_tolerance(plain.dtype == mx.float32)
        return off > tolerance * to_float(mx.linalg.norm(plain.astype(mx.float32)))

    def kinds() -> list[int | None]:
        return MlxEmbeddingAndHead(model).windows()

    return probe_layers(
        getattr(model, "model", None), list, kinds, _PassThroughLayer, lambda: model(ids), chunks, differs
    )


def plain_step(
    model: Any, slots: Sequence[ParameterSlot], batch: Batch, normalizer: float, gradients: Gradients
) -> list[mx.array]:
    """Add the gradient of `sum(weight * nll) / normalizer` to `gradients`; return `sum(weight * nll)`."""
    ids = mx.array(batch.input_ids.astype(np.int32))
    scored = MlxScoredPositions.of(batch.input_ids, batch.loss_weights, 0, ids.shape[1])
    if not scored.at.size:
        return []

    def loss(*values: mx.array) -> mx.array:
        with temporary_values(slots, values):
            logits = model(ids)
        logits = logits.reshape(-1, logits.shape[-1])[scored.at].astype(mx.float32)
        return (nn.losses.cross_entropy(logits, scored.targets) * scored.weights).sum()

    total, found = mx.vjp(loss, [slot.value for slot in slots], [mx.array(1 / normalizer)])
    gradients.add(slots, found)
    mx.eval(total, gradients.of(slots))
    return list(total)
