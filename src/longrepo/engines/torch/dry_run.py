"""Memory of a step on fake tensors; timed step.

A chunked step in which only the chunks that can need most are computed: the others' results just take their room.

What a chunk needs grows with the keys before it and with what earlier chunks left, up to the window. So of all chunks
of a layer, of the head and of the embedding the highest moment lies in the first (there are no keys before it), in the
last whole one, or in the last.

One training step on fake tensors: the real operations, sizes and order, without weights or arithmetic.

The time of a real step of a few layers of true width, with random weights, and what its process holds beside it.

The memory of an answer, dry: a prompt read and a first token written on fake tensors, as `generate` does it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils
from transformers.integrations import sdpa_attention

from longrepo.config.schema import Settings
from longrepo.engines.base import Batch, StepBytes, StepMethod, extrapolate, probe_depths, truncate_config
from longrepo.engines.torch import chunked
from longrepo.engines.torch.attention import Kernel, force_kernel
from longrepo.engines.torch.chunked import TorchEmbeddingAndHead, TorchLayerPass
from longrepo.engines.torch.device import TorchPlacement
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker, materialize, meta_model, tensors_of
from longrepo.engines.torch.kv_cache import make_cache
from longrepo.engines.torch.loss import backward_weighted_nll
from longrepo.utils.process import peak_resident, reset_peak_resident

Tensor = torch.Tensor


@contextmanager
def skip_middle_chunks(chunks: int) -> Iterator[None]:
    """Within: one micro-batch in `chunks` chunks, on fake tensors."""
    forward, backward, embed, finish = (
        TorchLayerPass.forward,
        TorchLayerPass.backward,
        TorchEmbeddingAndHead.embed,
        TorchEmbeddingAndHead.finish,
    )
    embedded, finished, lost = count(), count(), count()
    like: list[tuple[int, torch.dtype]] = []

    def left_out(index: int) -> bool:
        return 0 < index < chunks - 2

    def in_layer(self: TorchLayerPass, index: int, hidden: Tensor) -> Tensor:
        return torch.empty_like(hidden) if left_out(index) else forward(self, index, hidden)

    def back_in_layer(self: TorchLayerPass, index: int, hidden: Tensor, gradient: Tensor) -> Tensor:
        return torch.empty_like(hidden) if left_out(index) else backward(self, index, hidden, gradient)

    def at_embedding(self: TorchEmbeddingAndHead, ids: Tensor) -> Tensor:
        number = next(embedded)  # every chunk, one token for the tables of positions, every chunk again
        if left_out(number if number < chunks else number - chunks - 1):
            return torch.empty(*ids.shape, like[0][0], dtype=like[0][1])
        hidden = embed(self, ids)
        like.append((hidden.shape[-1], hidden.dtype))
        return hidden

    def at_norm(self: TorchEmbeddingAndHead, hidden: Tensor) -> Tensor:
        return hidden if left_out(next(finished)) else finish(self, hidden)

    def at_head(*arguments: Any) -> list[Tensor]:
        return [] if left_out(next(lost)) else backward_weighted_nll(*arguments)

    places: tuple[tuple[Any, str, Any], ...] = (
        (TorchLayerPass, "forward", in_layer),
        (TorchLayerPass, "backward", back_in_layer),
        (TorchEmbeddingAndHead, "embed", at_embedding),
        (TorchEmbeddingAndHead, "finish", at_norm),
        (chunked, "backward_weighted_nll", at_head),
    )
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, new in places:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for (owner, name, _), old in zip(places, before, strict=True):
            setattr(owner, name, old)


FIXED_PARTS = ("weights", "adapter", "gradients", "moments")
STEP_PHASES = ("forward", "head", "recompute", "backward", "update")


@dataclass(frozen=True)
class TorchDryRun:
    """What is run: `config` of transformers, with `added` structure tokens beyond its vocabulary; computing in
    `dtype` as on `device` (`cpu`, `cuda` or `mps`; nothing of that kind needs to be there)."""

    config: Any
    settings: Settings
    method: StepMethod
    device: str
    dtype: torch.dtype
    added: int

    def at(self, layers: int, tokens: int, every_chunk: bool = False) -> StepBytes:
        """Measure the last micro-batch of a window and its update: gradients and moments exist. `every_chunk`: leave
        none out, for a look at whether the highest moment lies where it is looked for."""
        with self._fake_engine(layers) as engine, ExitStack() as stack:
            if self.device == "mps" and self.method.step == "plain":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # Metal has no derivative for its fused kernel
            if self.method.step == "chunked" and not every_chunk:
                scored = tokens - 1  # the last token predicts nothing
                stack.enter_context(skip_middle_chunks(-(-scored // self.method.chunk)))
            engine.method = self.method
            return _measure_step(engine, self._batch(tokens), self.method, self.device)

    def chunked_unsupported_reason(self) -> str | None:
        """Why the architecture's layers can't be walked in chunks. On fake tensors their values aren't compared."""
        with self._fake_engine(min(2, self.config.num_hidden_layers), yes=False) as engine:
            return engine.chunked_unsupported_reason()

    @contextmanager
    def _fake_engine(self, layers: int, yes: bool = True) -> Iterator[TorchEngine]:
        """The engine with `layers` layers on fake tensors; `yes` answers any question about values."""
        model, rows = meta_model(self.truncated_config(layers), self.settings, self.dtype, self.added)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with _tracing_disabled(), fake, _FakeValues(yes), force_kernel(self._kernel()):
            materialize(model)
            yield TorchEngine(model, rows, self.settings, TorchPlacement(torch.device("cpu"), self.dtype, ()))

    def whole(self, tokens: int) -> StepBytes:
        """The whole model's, from two small numbers of its layers: every peak grows by the same for each."""
        small, large = probe_depths(self.config, self.method)
        layers = self.config.num_hidden_layers
        if layers <= large:
            return self.at(layers, tokens)
        return extrapolate(small, self.at(small, tokens), large, self.at(large, tokens), layers)

    def truncated_config(self, layers: int) -> Any:
        config = truncate_config(self.config, layers)
        config.vocab_size += self.added
        return config

    def _kernel(self) -> Kernel:
        return "tiled" if self.device == "mps" else "fused"

    def _batch(self, tokens: int) -> Batch:
        row = ([1] * tokens, [1.0] * tokens)
        return Batch.of([row] * self.settings.training.batch_size_reference, 0)


def _measure_step(engine: TorchEngine, batch: Batch, method: StepMethod, device: str) -> StepBytes:
    _set_foreach(engine, device == "cuda")
    _allocate_gradients(engine)
    engine.apply_update(1e-4, 1.0)
    _allocate_gradients(engine)
    store = TorchCountingStore()
    if method.store == "disk":
        engine._store = store
    tracker = PeakTracker()
    trained = set(engine.parameters.values())
    adapter = trained if engine.has_adapter else set()
    groups: dict[str, list[Tensor]] = {
        "weights": [t for t in tensors_of(engine.model) if t not in adapter],
        "adapter": list(adapter),
        "gradients": [p.grad for p in trained if p.grad is not None],
        "moments": [t for state in engine._optimizer.state.values() for t in state.values() if torch.is_tensor(t)],
    }
    for name, tensors in groups.items():
        tracker.adopt(tensors, name)
    fixed = {name: tracker.bytes_by_tag[name] for name in FIXED_PARTS}
    kept = _ActivationBytes(tracker)
    with tracker, _track_phases(engine, tracker, kept):
        with tracker.phase("forward"):
            engine.add_gradients(batch, 1.0, 0)
        with tracker.phase("update"):
            engine.apply_update(1e-4, 1.0)
    peaks = {f"peak {name}": tracker.peaks.get(name, 0) for name in STEP_PHASES}
    of_chunks = {"kept": max(0, kept.bytes - sum(fixed.values()))}
    return fixed | peaks | of_chunks | {"disk_written": store.written, "disk_held": store.held}


@dataclass
class TorchCountingStore:
    """Stands in for a `DiskStore`: forgets the tensors and counts the bytes."""

    written: int = 0
    held: int = 0
    _shapes: dict[Any, tuple[torch.Size, torch.dtype]] = field(default_factory=dict)

    def put(self, key: Any, tensor: Tensor) -> None:
        flat = tensor.detach().contiguous()
        self._shapes[key] = (flat.shape, flat.dtype)
        self.written += flat.numel() * flat.element_size()
        self.held = max(self.held, self.written)

    def get(self, key: Any) -> Tensor:
        shape, dtype = self._shapes[key]
        return torch.empty(shape, dtype=dtype)

    def take(self, key: Any) -> Tensor:
        tensor = self.get(key)
        del self._shapes[key]
        return tensor

    def clear(self) -> None:
        self._shapes.clear()


class _FakeValues(TorchDispatchMode):
    """What a step asks a tensor for its value: a fake one has none. `yes` to questions; as a number any will do."""

    def __init__(self, yes: bool) -> None:
        super().__init__()
        self._yes = yes

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if func is torch.ops.aten._local_scalar_dense.default:
            return self._yes if args[0].dtype is torch.bool else 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _tracing_disabled() -> Iterator[None]:
    """transformers takes fake tensors for tracing, and then makes masks that a real step does without."""
    modules: list[Any] = [module for module in (masking_utils, sdpa_attention) if hasattr(module, "is_tracing")]
    before = [module.is_tracing for module in modules]
    for module in modules:
        module.is_tracing = lambda *_: False
    try:
        yield
    finally:
        for module, answer in zip(modules, before, strict=True):
            module.is_tracing = answer


@dataclass
class _ActivationBytes:
    """What lives when the head begins."""

    tracker: PeakTracker
    bytes: int = 0

    def note(self) -> None:
        self.bytes = self.bytes or self.tracker.live


@contextmanager
def _track_phases(engine: TorchEngine, tracker: PeakTracker, kept: _ActivationBytes) -> Iterator[None]:
    """Tell the phases of a step apart by which modules are called, and whether for a gradient."""
    seen_head = False

    def at_head(*_: Any) -> None:
        nonlocal seen_head
        if not seen_head:
            kept.note()
        seen_head = True
        tracker.enter("head")

    def in_layer(*_: Any) -> None:
        if seen_head:
            tracker.enter("backward" if torch.is_grad_enabled() else "recompute")

    hooks = [engine._head.register_forward_pre_hook(at_head)]
    hooks += [next(layer.children()).register_forward_pre_hook(in_layer) for layer in engine._decoder.layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _set_foreach(engine: TorchEngine, on: bool) -> None:
    """On CUDA AdamW takes all parameters at once, with temporaries for all of them."""
    for group in engine._optimizer.param_groups:
        group["foreach"] = on


def _allocate_gradients(engine: TorchEngine) -> None:
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)


class TorchStepSeconds(NamedTuple):
    """Of one micro-batch: embedding and layers forward, head and loss, layers backward (computed again before)."""

    forward: float
    head: float
    backward: float


class TorchTimedStep:
    """An engine with `layers` layers on `run.device`, which must be there."""

    def __init__(self, run: TorchDryRun, layers: int) -> None:
        model, rows = meta_model(run.truncated_config(layers), run.settings, run.dtype, run.added)
        materialize(model, run.device)
        _fill_randomly(model)
        self._engine = TorchEngine(model, rows, run.settings, TorchPlacement(torch.device(run.device), run.dtype, ()))
        self._engine.method = run.method

    def seconds(self, tokens: int) -> TorchStepSeconds:
        """One sequence."""
        base = self._engine.base
        heads: list[float] = []
        layers: list[float] = []
        hooks = [
            base.get_output_embeddings().register_forward_pre_hook(lambda *_: heads.append(time.perf_counter())),
            next(base.get_decoder().layers[-1].children()).register_forward_pre_hook(
                lambda *_: layers.append(time.perf_counter())
            ),
        ]
        began = time.perf_counter()
        self._engine.accumulate(
            _timing_batch(tokens), 1.0, 0
        )  # its loss is read from the device: nothing is left in flight
        ended = time.perf_counter()
        for hook in hooks:
            hook.remove()
        back = next(at for at in layers if at > heads[0])
        return TorchStepSeconds(heads[0] - began, back - heads[0], ended - back)

    def overhead(self, tokens: int) -> int:
        """Bytes that the process holds above its tensors at the highest moment of a step on the CPU."""
        tracker = PeakTracker()
        tracker.adopt(tensors_of(self._engine.model), "model")
        reset_peak_resident()
        with tracker:
            self._engine.accumulate(_timing_batch(tokens), 1.0, 0)
        return peak_resident() - tracker.peak


def _timing_batch(tokens: int) -> Batch:
    return Batch.of([([1] * tokens, [1.0] * tokens)], 0)


@torch.no_grad()
def _fill_randomly(model: torch.nn.Module) -> None:
    """Values that stay finite: what they are doesn't change the time."""
    for tensor in tensors_of(model):
        if tensor.is_floating_point():
            tensor.normal_(0, 0.02)
        else:
            tensor.zero_()


def generation_memory(run: TorchDryRun, tokens: int, bits: int = 16) -> StepBytes:
    """Bytes of tensors for a prompt of `tokens` tokens: the `model`, and at the highest moment (`peak`)."""
    small, large = probe_depths(run.config, StepMethod())
    layers = run.config.num_hidden_layers
    if layers <= large:
        return _generation_bytes(run, layers, tokens, bits)
    return extrapolate(
        small, _generation_bytes(run, small, tokens, bits), large, _generation_bytes(run, large, tokens, bits), layers
    )


def _generation_bytes(run: TorchDryRun, layers: int, tokens: int, bits: int) -> StepBytes:
    with run._fake_engine(layers) as engine, ExitStack() as stack:
        tracker = PeakTracker()
        model: Any = engine.model.eval()
        tracker.adopt(tensors_of(model), "model")
        held = tracker.live
        for entered in (torch.no_grad(), engine._autocast(), tracker):
            stack.enter_context(entered)
        cache, ids = make_cache(engine.base.config, bits), torch.ones(1, tokens, dtype=torch.long)
        for part, seen in ((ids, tokens), (ids[:, :1], tokens + 1)):
            mask = torch.ones(1, seen, dtype=torch.long)
            asked = {"input_ids": part, "attention_mask": mask, "past_key_values": cache, "logits_to_keep": 1}
            model(**asked, use_cache=True).logits[:, -1].float().argmax(-1)
        return {"model": held, "peak": tracker.peak}
