"""One training step on fake tensors: the real operations, sizes and order, without weights or arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils
from transformers.integrations import sdpa_attention

from longrepo.config.schema import Settings
from longrepo.engines.base import Batch
from longrepo.engines.base_config import shortened, two_depths
from longrepo.engines.measured import Measured, line
from longrepo.engines.method import Method
from longrepo.engines.torch.chunked.attention import Kernel, forced
from longrepo.engines.torch.device import Placement
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import materialise, meta_model, tensors_of
from longrepo.engines.torch.sampled import sampled
from longrepo.engines.torch.tracker import PeakTracker

Tensor = torch.Tensor
FIXED = ("weights", "adapter", "gradients", "moments")
PHASES = ("forward", "head", "recompute", "backward", "update")


@dataclass(frozen=True)
class DryRun:
    """What is run: `config` of transformers, with `added` structure tokens beyond its vocabulary; computing in
    `dtype` as on `device` (`cpu`, `cuda` or `mps`; nothing of that kind needs to be there)."""

    config: Any
    settings: Settings
    method: Method
    device: str
    dtype: torch.dtype
    added: int

    def at(self, layers: int, tokens: int, every_chunk: bool = False) -> Measured:
        """Measure the last micro-batch of a window and its update: gradients and moments exist. `every_chunk`: leave
        none out, for a look at whether the highest moment lies where it is looked for."""
        with self._faked(layers) as engine, ExitStack() as stack:
            if self.device == "mps" and self.method.step == "plain":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # Metal has no derivative for its fused kernel
            if self.method.step == "chunked" and not every_chunk:
                scored = tokens - 1  # the last token predicts nothing
                stack.enter_context(sampled(-(-scored // self.method.chunk)))
            engine.method = self.method
            return _step(engine, self._batch(tokens), self.method, self.device)

    def why_not_chunked(self) -> str | None:
        """Why the architecture's layers can't be walked in chunks. On fake tensors their values aren't compared."""
        with self._faked(min(2, self.config.num_hidden_layers), yes=False) as engine:
            return engine.why_not_chunked()

    @contextmanager
    def _faked(self, layers: int, yes: bool = True) -> Iterator[TorchEngine]:
        """The engine with `layers` layers on fake tensors; `yes` answers any question about values."""
        model, rows = meta_model(self.shortened(layers), self.settings, self.dtype, self.added)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with _untraced(), fake, _Answers(yes), forced(self._kernel()):
            materialise(model)
            yield TorchEngine(model, rows, self.settings, Placement(torch.device("cpu"), self.dtype, ()))

    def whole(self, tokens: int) -> Measured:
        """The whole model's, from two small numbers of its layers: every peak grows by the same for each."""
        small, large = two_depths(self.config, self.method)
        layers = self.config.num_hidden_layers
        if layers <= large:
            return self.at(layers, tokens)
        return line(small, self.at(small, tokens), large, self.at(large, tokens), layers)

    def shortened(self, layers: int) -> Any:
        config = shortened(self.config, layers)
        config.vocab_size += self.added
        return config

    def _kernel(self) -> Kernel:
        return "tiled" if self.device == "mps" else "fused"

    def _batch(self, tokens: int) -> Batch:
        row = ([1] * tokens, [1.0] * tokens)
        return Batch.of([row] * self.settings.training.batch_size_reference, 0)


def _step(engine: TorchEngine, batch: Batch, method: Method, device: str) -> Measured:
    _foreach(engine, device == "cuda")
    _new_gradients(engine)
    engine.apply_update(1e-4, 1.0)
    _new_gradients(engine)
    store = CountingStore()
    if method.store == "disk":
        engine._store = store
    tracker = PeakTracker()
    trained = set(engine.parameters.values())
    adapter = trained if engine.adapted else set()
    groups: dict[str, list[Tensor]] = {
        "weights": [t for t in tensors_of(engine.model) if t not in adapter],
        "adapter": list(adapter),
        "gradients": [p.grad for p in trained if p.grad is not None],
        "moments": [t for state in engine._optimizer.state.values() for t in state.values() if torch.is_tensor(t)],
    }
    for name, tensors in groups.items():
        tracker.adopt(tensors, name)
    fixed = {name: tracker.by_tag[name] for name in FIXED}
    kept = _Kept(tracker)
    with tracker, _phases(engine, tracker, kept):
        with tracker.phase("forward"):
            engine.add_gradients(batch, 1.0, 0)
        with tracker.phase("update"):
            engine.apply_update(1e-4, 1.0)
    peaks = {f"peak {name}": tracker.peaks.get(name, 0) for name in PHASES}
    of_chunks = {"kept": max(0, kept.bytes - sum(fixed.values()))}
    return fixed | peaks | of_chunks | {"disk_written": store.written, "disk_held": store.held}


@dataclass
class CountingStore:
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

    def drop(self, key: Any) -> None:
        del self._shapes[key]

    def clear(self) -> None:
        self._shapes.clear()


class _Answers(TorchDispatchMode):
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
def _untraced() -> Iterator[None]:
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
class _Kept:
    """What lives when the head begins."""

    tracker: PeakTracker
    bytes: int = 0

    def note(self) -> None:
        self.bytes = self.bytes or self.tracker.live


@contextmanager
def _phases(engine: TorchEngine, tracker: PeakTracker, kept: _Kept) -> Iterator[None]:
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


def _foreach(engine: TorchEngine, on: bool) -> None:
    """On CUDA AdamW takes all parameters at once, with temporaries for all of them."""
    for group in engine._optimizer.param_groups:
        group["foreach"] = on


def _new_gradients(engine: TorchEngine) -> None:
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
