"""The exact chunked step: the loss of a sequence and every gradient, with one chunk's graph alive at a time.

Forward, layer by layer, without a graph, keeping each layer's input, keys and values (of a recurrent layer, its states
between chunks); the head chunk by chunk; backward, layers from last to first, and in each the chunks from last to
first.

Given the keys and values before it, a transformer layer is token-wise in everything else. So a chunk's backward pass
makes leaves of its input and of the earlier keys and values, computes the chunk again, and pulls back through three
outputs at once: the chunk's output and its own keys and values, to which later chunks have left their gradients. In a
recurrent layer the states before and after the chunk take their place. It is exact, unlike a backward pass for each
chunk that takes earlier keys, values or states as constants.

Before and after its layers, a decoder computes with its own code (embedding scales, rotary tables, the final norm),
whatever the architecture: it is run with its layers replaced by stand-ins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from longrepo.engines.base import Batch, StepMethod, layer_types
from longrepo.engines.chunked import (
    PROBE_CHUNK,
    PROBE_TOKENS,
    ActivationStore,
    MemoryStore,
    StepObserver,
    UnsupportedLayers,
    chunk_spans,
    probe_layers,
    probe_tolerance,
    run_schedule,
)
from longrepo.engines.torch.attention import ATTENTION_NAME, register_attention, window_of
from longrepo.engines.torch.chunk_cache import LayerStates, TorchChunkCache
from longrepo.engines.torch.loss import TorchScoredPositions, backward_weighted_nll
from longrepo.engines.torch.quantization import fused_lora_forward

Tensor = torch.Tensor


class _StopForward(Exception):
    """Nothing after this layer is wanted."""


class _TorchLayerProbe(nn.Module):
    """Records what the decoder passes to a layer and returns `output`, or its input; the `last` one stops the
    decoder."""

    def __init__(self, output: Tensor | None = None, last: bool = False) -> None:
        super().__init__()
        self.output, self.last = output, last
        self.seen: Tensor | None = None
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.seen, self.arguments = hidden, (args, kwargs)
        if self.last:
            raise _StopForward
        return hidden if self.output is None else self.output


class TorchEmbeddingAndHead:
    """What `decoder` computes before and after its `layers`."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.layers: list[Any] = list(decoder.layers)

    def arguments(self, length: int, device: torch.device, dtype: torch.dtype) -> list[LayerArguments]:
        """Return each layer's arguments besides its input for `length` tokens: position tables of the whole length."""
        stand_ins = [_TorchLayerProbe(last=layer is self.layers[-1]) for layer in self.layers]
        with self._replaced(stand_ins), torch.no_grad(), suppress(_StopForward):
            self._decoder(inputs_embeds=torch.zeros(1, length, 1, device=device, dtype=dtype), use_cache=False)
        return [LayerArguments(*stand_in.arguments, length) for stand_in in stand_ins]

    def embed(self, ids: Tensor) -> Tensor:
        """The first layer's input `[rows, tokens, width]`, with a graph where the embedding is trained."""
        first = _TorchLayerProbe(last=True)
        with self._replaced([first]), suppress(_StopForward):
            self._decoder(input_ids=ids, use_cache=False)
        assert first.seen is not None
        return first.seen

    def finish(self, hidden: Tensor) -> Tensor:
        """The decoder's output for the last layer's output `hidden` `[rows, tokens, width]`."""
        *others, last = [_TorchLayerProbe() for _ in self.layers]
        last.output = hidden
        with self._replaced([*others, last]):
            embeds = hidden.detach()[:, :, :1]
            return self._decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state

    @contextmanager
    def _replaced(self, stand_ins: list[_TorchLayerProbe]) -> Iterator[None]:
        real = self._decoder.layers
        self._decoder.layers = nn.ModuleList(stand_ins)
        try:
            yield
        finally:
            self._decoder.layers = real


class LayerArguments:
    """A layer's other arguments for a whole sequence; `slice_tokens` returns those of a chunk."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], length: int) -> None:
        self._args, self._kwargs, self._length = args, kwargs, length

    def full_masks(self) -> list[str]:
        """Arguments that are `[…, length, length]` masks: chunks can't be cut from them by position alone."""
        return [name for name, value in self._kwargs.items() if isinstance(value, Tensor) and value.ndim == 4]

    def slice_tokens(self, start: int, end: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = tuple(self._part(value, start, end) for value in self._args)
        return args, {name: self._part(value, start, end) for name, value in self._kwargs.items()}

    def _part(self, value: Any, start: int, end: int) -> Any:
        if isinstance(value, Tensor):
            dimension = min(1, value.ndim - 1)  # [rows, tokens, …], or [tokens]
            if value.ndim and value.shape[dimension] == self._length:
                return value.narrow(dimension, start, end - start)
        elif isinstance(value, tuple | list):
            return type(value)(self._part(inner, start, end) for inner in value)
        return value


Spans = list[tuple[int, int]]
ChunkContext = Callable[
    [int], AbstractContextManager[None]
]  # where a chunk begins, for what depends on positions (dropout)


class TorchLayerPass:
    """Computes one layer over the chunks of a sequence.

    `keys`, `values` `[rows, kv heads, tokens, head width]`: of the whole sequence, None if the layer has none; filled
    by `forward`. `states`: what a recurrent layer leaves for the chunk that is computed next; in the backward pass the
    caller sets them."""

    def __init__(
        self,
        layer: Any,
        arguments: LayerArguments,
        spans: Spans,
        at: ChunkContext,
        keys: Tensor | None = None,
        values: Tensor | None = None,
    ) -> None:
        self._layer, self._arguments, self._spans, self._at = layer, arguments, spans, at
        self.keys, self.values = keys, values
        self.states: LayerStates = {}
        self._windows: list[int | None] | None = None
        self._key_gradients: Tensor | None = None
        self._value_gradients: Tensor | None = None
        self._state_gradients: LayerStates = {}

    @torch.no_grad()
    def forward(self, index: int, hidden: Tensor) -> Tensor:
        """Return the layer's output for chunk `index` with input `hidden` `[rows, chunk, width]`, chunks in order."""
        start, end = self._spans[index]
        first = self._first_key(start)
        keys, values = (self._between(t, first, start) for t in (self.keys, self.values))
        cache = TorchChunkCache(keys, values, self.states)
        output = self._run(hidden, start, end, cache)
        if cache.own is None and not cache.own_states:
            raise TypeError("a layer did not ask its cache")
        if cache.own is not None:
            self._keep(*cache.own, start, end)
        # Copies: a state may be a view of a tensor as long as the chunk.
        self.states = {name: state.clone() for name, state in cache.own_states.items()}
        return output

    def skip_forward(self, index: int, hidden: Tensor) -> Tensor:
        """As `forward`, but the results have any values: for a dry run."""
        self.states = {name: torch.empty_like(state) for name, state in self.states.items()}
        return torch.empty_like(hidden)

    def backward(self, index: int, hidden: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of chunk `index`'s input, given that of its output; parameters accumulate theirs.

        Chunks come from last to first: when a chunk's turn comes, the gradients of its keys and values and of the
        states that it leaves are complete.
        """
        start, end = self._spans[index]
        first = self._first_key(start)
        hidden = hidden.detach().requires_grad_()
        keys, values = (_leaf(self._between(t, first, start)) for t in (self.keys, self.values))
        states = {name: state.detach().requires_grad_() for name, state in self.states.items()}
        cache = TorchChunkCache(keys, values, states)
        with torch.enable_grad():
            output = self._run(hidden, start, end, cache)
        outputs = [(output, gradient), *((cache.own_states[name], g) for name, g in self._state_gradients.items())]
        totals = self._gradients_of_keys() if cache.own is not None else ()
        for own, total in zip(cache.own or (), totals, strict=True):
            outputs.append((own, total[:, :, start:end].to(own.dtype)))
        tensors, gradients = zip(*outputs, strict=True)
        torch.autograd.backward(tensors, gradients)
        for leaf, total in zip((keys, values), totals, strict=False):
            if leaf is not None and leaf.grad is not None:
                total[:, :, first:start] += leaf.grad
        self._state_gradients = {name: leaf.grad for name, leaf in states.items() if leaf.grad is not None}
        assert hidden.grad is not None
        return hidden.grad

    def _keep(self, keys: Tensor, values: Tensor, start: int, end: int) -> None:
        if self.keys is None or self.values is None:
            tokens = self._spans[-1][1]
            self.keys, self.values = (own.new_empty((*own.shape[:2], tokens, own.shape[3])) for own in (keys, values))
        self.keys[:, :, start:end], self.values[:, :, start:end] = keys, values

    def _gradients_of_keys(self) -> tuple[Tensor, Tensor]:
        """What later chunks left to all keys and values so far, in float32."""
        if self._key_gradients is None or self._value_gradients is None:
            assert self.keys is not None and self.values is not None
            self._key_gradients, self._value_gradients = (
                torch.zeros_like(t, dtype=torch.float32) for t in (self.keys, self.values)
            )
        return self._key_gradients, self._value_gradients

    def _run(self, hidden: Tensor, start: int, end: int, cache: TorchChunkCache) -> Tensor:
        args, kwargs = self._arguments.slice_tokens(start, end)
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


def _leaf(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().requires_grad_()


class TorchCodec:
    """Tensors of `device` as bytes on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def to_bytes(self, tensor: Tensor) -> memoryview:
        return memoryview(_bytes_of(tensor.detach().to("cpu").contiguous()))

    def from_bytes(self, read: Callable[[memoryview], None], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        read(memoryview(_bytes_of(tensor)))
        return tensor.to(self._device)


def _bytes_of(tensor: Tensor) -> Any:
    return tensor.view(-1).view(torch.uint8).numpy()


Head = Callable[[Tensor], Tensor]


class TorchChunkedStep:
    """Computes exact steps in chunks. `dtype`: of matrix products. `at`: see `ChunkContext`. `observer`: follows each
    step."""

    def __init__(
        self, decoder: nn.Module, head: Head, device: torch.device, dtype: torch.dtype, at: ChunkContext
    ) -> None:
        register_attention()
        self._ends, self._head, self._at = TorchEmbeddingAndHead(decoder), head, at
        self._device, self._dtype = device, dtype
        self._kept: dict[int, tuple[list[str], list[str]]] = {}  # what a layer left in the store: once, and by chunk
        self.observer = StepObserver()

    def accumulate(
        self, batch: Batch, normalizer: float, method: StepMethod, store: ActivationStore[Tensor]
    ) -> list[Tensor]:
        """Add the gradient of `sum(weight * nll) / normalizer` to what is held; return the parts of
        `sum(weight * nll)`. Tokens after the last scored one are left out: nothing depends on them."""
        scored = np.flatnonzero(batch.loss_weights[:, 1:].any(axis=0))
        if not len(scored):
            return []
        tokens = int(scored[-1]) + 1
        ids = torch.from_numpy(batch.input_ids[:, :tokens]).to(self._device)
        spans = chunk_spans(tokens, method.chunk)
        arguments = self._arguments(ids, tokens)
        totals: list[Tensor] = []
        gradients: list[Tensor] = []

        def forward(number: int, keep_input: bool, keep_cache: bool, discard_output: bool) -> None:
            self.observer.enter("recompute" if gradients else "forward")
            self._forward(number, arguments[number], spans, store, keep_input, keep_cache, discard_output)

        def head() -> None:
            self.observer.enter("head")
            found = self._head_backward(batch, spans, len(arguments), normalizer, store)
            totals.extend(found[0])
            gradients.extend(found[1])

        def backward(number: int) -> None:
            self.observer.enter("backward")
            self._backward(number, arguments[number], spans, gradients, store)

        try:
            self._embed(ids, spans, store)
            run_schedule(method, len(arguments), forward, head, backward)
            self._embedding_backward(ids, spans, gradients)
        finally:
            store.clear()
        return totals

    @torch.no_grad()
    def hidden(self, ids: Tensor, chunk: int) -> Iterator[tuple[int, int, Tensor]]:
        """(start, end, the decoder's output `[rows, end - start, width]`) of each chunk, without a graph."""
        spans, store = chunk_spans(ids.shape[1], chunk), MemoryStore[Tensor]()
        self._embed(ids, spans, store)
        arguments = self._arguments(ids, ids.shape[1])
        for number, of_layer in enumerate(arguments):
            self._forward(number, of_layer, spans, store, False, False)
        for index, (start, end) in enumerate(spans):
            yield start, end, self._ends.finish(store.get(("input", len(arguments), index)))

    @torch.no_grad()
    def _embed(self, ids: Tensor, spans: Spans, store: ActivationStore[Tensor]) -> None:
        for index, (start, end) in enumerate(spans):
            skipped = self.observer.skips(index, len(spans))
            first = store.get(("input", 0, 0)) if skipped else None
            embedded = self._ends.embed(ids[:, start:end]) if first is None else torch.empty_like(first)
            store.put(("input", 0, index), embedded)

    def _arguments(self, ids: Tensor, tokens: int) -> list[LayerArguments]:
        table_dtype = self._ends.embed(ids[:, :1]).dtype
        return self._ends.arguments(tokens, ids.device, table_dtype)

    def _forward(
        self,
        number: int,
        arguments: LayerArguments,
        spans: Spans,
        store: ActivationStore[Tensor],
        keep_input: bool,
        keep_cache: bool,
        discard_output: bool = False,
    ) -> None:
        layer = self._ends.layers[number]
        passing = TorchLayerPass(layer, arguments, spans, self._at)
        with fused_lora_forward(layer, self._dtype):
            for index in range(len(spans)):
                key = ("input", number, index)
                hidden = store.get(key) if keep_input else store.take(key)
                run = passing.skip_forward if self.observer.skips(index, len(spans)) else passing.forward
                output = run(index, hidden)
                if not discard_output:
                    store.put(("input", number + 1, index), output)
                if keep_cache and index + 1 < len(spans):
                    for name, state in passing.states.items():
                        store.put((name, number, index), state)
        if keep_cache:
            whole = {"keys": passing.keys, "values": passing.values}
            self._kept[number] = [name for name, tensor in whole.items() if tensor is not None], list(passing.states)
            for name, tensor in whole.items():
                if tensor is not None:
                    store.put((name, number, 0), tensor)

    def _head_backward(
        self, batch: Batch, spans: Spans, layers: int, normalizer: float, store: ActivationStore[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parts of the loss, and the gradient of the last layer's output by chunk."""
        totals: list[Tensor] = []
        gradients = []
        for index, (start, end) in enumerate(spans):
            leaf = store.take(("input", layers, index)).detach().requires_grad_()
            if self.observer.skips(index, len(spans)):
                gradients.append(torch.zeros_like(leaf))
                continue
            with torch.enable_grad():
                hidden = self._ends.finish(leaf).flatten(0, 1)
            scored = TorchScoredPositions.of(batch.input_ids, batch.loss_weights, start, end, self._device)
            totals += backward_weighted_nll(self._head, hidden, scored, normalizer)
            gradients.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
        return totals, gradients

    def _backward(
        self,
        number: int,
        arguments: LayerArguments,
        spans: Spans,
        gradients: list[Tensor],
        store: ActivationStore[Tensor],
    ) -> None:
        """Replace each chunk's gradient of the layer's output by that of its input."""
        layer = self._ends.layers[number]
        whole, states = self._kept.pop(number)
        passing = TorchLayerPass(
            layer, arguments, spans, self._at, **{name: store.take((name, number, 0)) for name in whole}
        )
        with fused_lora_forward(layer, self._dtype):
            for index in reversed(range(len(spans))):
                hidden = store.take(("input", number, index))
                passing.states = {name: store.take((name, number, index - 1)) for name in states if index}
                skipped = self.observer.skips(index, len(spans))
                gradients[index] = (
                    torch.empty_like(hidden) if skipped else passing.backward(index, hidden, gradients[index])
                )

    def _embedding_backward(self, ids: Tensor, spans: Spans, gradients: list[Tensor]) -> None:
        for index, ((start, end), gradient) in enumerate(zip(spans, gradients, strict=True)):
            if self.observer.skips(index, len(spans)):
                continue
            with torch.enable_grad():
                embedded = self._ends.embed(ids[:, start:end])
            if not embedded.requires_grad:
                return
            embedded.backward(gradient)


@contextmanager
def chunked_mode(decoder: Any) -> Iterator[None]:
    """While entered, the decoder's layers attend through `longrepo.engines.torch.attention` and don't
    checkpoint themselves (transformers takes the cache away from a layer that does)."""
    attention = decoder.config._attn_implementation
    checkpointed = [layer for layer in decoder.layers if getattr(layer, "gradient_checkpointing", False)]
    decoder.config._attn_implementation = ATTENTION_NAME
    for layer in checkpointed:
        layer.gradient_checkpointing = False
    try:
        yield
    finally:
        decoder.config._attn_implementation = attention
        for layer in checkpointed:
            layer.gradient_checkpointing = True


class _PassThrough(nn.Module):
    """Returns its input, and asks its cache, if it gets one, as a layer does: with keys of no width."""

    def forward(self, hidden: Tensor, *_: Any, past_key_values: Any = None, **__: Any) -> Tensor:
        if past_key_values is not None:
            nothing = hidden[:, None, :, :0]
            past_key_values.update(nothing, nothing)
        return hidden


@torch.no_grad()
def unsupported_reason(decoder: Any, device: torch.device, dtype: torch.dtype, at: ChunkContext) -> str | None:
    """See `longrepo.engines.chunked.probe_layers`."""
    ids = torch.arange(PROBE_TOKENS, device=device)[None]

    def whole() -> Tensor:
        return decoder(input_ids=ids, use_cache=False).last_hidden_state.float()

    def chunks() -> Tensor:
        with chunked_mode(decoder):
            for one in TorchEmbeddingAndHead(decoder).arguments(PROBE_TOKENS, device, dtype):
                for name in one.full_masks():
                    raise UnsupportedLayers(f"its layers want a whole attention mask ({name})")
            step = TorchChunkedStep(decoder, nn.Identity(), device, dtype, at)
            return torch.cat([hidden for _, _, hidden in step.hidden(ids, PROBE_CHUNK)], dim=1).float()

    def differs(plain: Tensor, parts: Tensor) -> bool:
        return bool((parts - plain).norm() > probe_tolerance(dtype == torch.float32) * plain.norm())

    return probe_layers(
        decoder, nn.ModuleList, lambda: layer_types(decoder.config), lambda _: _PassThrough(), whole, chunks, differs
    )
