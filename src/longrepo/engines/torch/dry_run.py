"""What a step needs and how long it takes, before a base is loaded.

Memory: one training step, or an answer to a prompt, on fake tensors: the real operations, sizes and order, without
weights or arithmetic. Time: a real step of a few layers of the true width, with random weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils
from transformers.integrations import sdpa_attention

from longrepo.config.schema import Settings
from longrepo.engines.base import (
    FIXED_PARTS,
    Batch,
    Placement,
    StepBytes,
    StepMethod,
    extrapolate,
    layer_types,
    probe_depths,
    truncate_config,
)
from longrepo.engines.chunked import (
    STEP_PHASES,
    CountingStore,
    StepClock,
    StepObserver,
    StepPart,
    StepSeconds,
    first_of_each_kind,
    is_middle_chunk,
)
from longrepo.engines.torch.attention import Kernel, force_kernel
from longrepo.engines.torch.device import torch_dtype_name
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker, materialize, meta_model, tensors_of
from longrepo.engines.torch.kv_cache import fill, last_part, make_cache, takes_parts
from longrepo.utils.process import peak_resident, reset_peak_resident

Tensor = torch.Tensor


@dataclass(frozen=True)
class TorchDryRun:
    """Runs steps by `method` of a model of transformers' `config`, with `added` structure tokens beyond its vocabulary,
    computing in `dtype` as on `device` (`cpu`, `cuda` or `mps`; it needn't be there)."""

    config: Any
    settings: Settings
    method: StepMethod
    device: str
    dtype: torch.dtype
    added: int

    def at(self, layers: int, tokens: int, every_chunk: bool = False) -> StepBytes:
        """Measure the last micro-batch of an accumulation window and its update: gradients and moments exist.
        `every_chunk`: skip none, to check that the peak isn't in a skipped chunk."""
        with self.fake_engine(layers) as engine, ExitStack() as stack:
            if self.device == "mps" and self.method.step == "plain":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # Metal has no derivative for its fused kernel
            batch = Batch.dummy(tokens, self.settings.training.batch_size_reference)
            return _measure_step(engine, batch, self.method, self.device, not every_chunk)

    def chunked_unsupported_reason(self) -> str | None:
        """Return why the architecture's layers can't be computed in chunks, or None if they can. On fake tensors the
        values aren't compared."""
        with torch.device("meta"):
            whole: Any = transformers.AutoModelForCausalLM.from_config(self.config)
        layers = getattr(whole.get_decoder(), "layers", ())
        last = max(first_of_each_kind(layers, layer_types(self.config)), default=0)
        with self.fake_engine(last + 1, yes=False) as engine:
            return engine.chunked_unsupported_reason()

    @contextmanager
    def fake_engine(self, layers: int, yes: bool = True) -> Iterator[TorchEngine]:
        """Make an engine with `layers` layers on fake tensors; `yes` is the answer to any test of a value."""
        model, rows = meta_model(self.truncated_config(layers), self.settings, self.dtype, self.added)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with _tracing_disabled(), fake, _FakeValues(yes), force_kernel(self._kernel()):
            materialize(model)
            yield TorchEngine(model, rows, self.settings, Placement("cpu", torch_dtype_name(self.dtype)))

    def whole(self, tokens: int) -> StepBytes:
        """Bytes of a step of the whole model, extrapolated from two small numbers of layers: every peak grows by the
        same amount with each layer."""
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


def _measure_step(engine: TorchEngine, batch: Batch, method: StepMethod, device: str, sampled: bool) -> StepBytes:
    _set_foreach(engine, device == "cuda")
    _allocate_gradients(engine)
    engine.apply_update(1e-4, 1.0)
    _allocate_gradients(engine)
    tracker = PeakTracker()
    observer = _PhaseTracker(tracker, sampled)
    disk = CountingStore(lambda shape, dtype: torch.empty(shape, dtype=dtype)) if method.store == "disk" else None
    engine.observe(method, observer, disk)
    trained = set(engine.parameters.values())
    adapter = trained if engine.has_adapter else set()
    groups: dict[str, list[Tensor]] = {
        "weights": [t for t in tensors_of(engine.model) if t not in adapter],
        "adapter": list(adapter),
        "gradients": [p.grad for p in trained if p.grad is not None],
        "moments": [t for state in engine.optimizer.state.values() for t in state.values() if torch.is_tensor(t)],
    }
    for name, tensors in groups.items():
        tracker.adopt(tensors, name)
    fixed = {name: tracker.bytes_by_tag[name] for name in FIXED_PARTS}
    with tracker:
        tracker.enter("forward")
        engine.add_gradients(batch, 1.0, 0)
        tracker.enter("update")
        engine.apply_update(1e-4, 1.0)
    peaks = {f"peak {name}": tracker.peaks.get(name, 0) for name in STEP_PHASES}
    written = disk.written if disk else 0
    kept = max(0, observer.kept - sum(fixed.values()))
    return fixed | peaks | {"kept": kept, "disk_written": written, "disk_held": written}


class _FakeValues(TorchDispatchMode):
    """Answers when a step reads a tensor's value, which a fake one doesn't have: `yes` for a bool, 1 for a number.
    Gives experts' products in every dtype, as devices do: torch's own fakes have them in bfloat16 only."""

    def __init__(self, yes: bool) -> None:
        super().__init__()
        self._yes = yes

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if func is torch.ops.aten._local_scalar_dense.default:
            return self._yes if args[0].dtype is torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is torch.ops.aten._grouped_mm.default:
            a, b, *offsets = args
            groups = () if {a.ndim, b.ndim} == {2, 3} else (len(offsets[0]) if a.ndim == 2 else len(a),)
            return a.new_empty(*groups, a.shape[-2], b.shape[-1])
        return func(*args, **(kwargs or {}))


@contextmanager
def _tracing_disabled() -> Iterator[None]:
    """Keep transformers from taking fake tensors for tracing: it would make masks that a real step doesn't have."""
    modules: list[Any] = [module for module in (masking_utils, sdpa_attention) if hasattr(module, "is_tracing")]
    before = [module.is_tracing for module in modules]
    for module in modules:
        module.is_tracing = lambda *_: False
    try:
        yield
    finally:
        for module, answer in zip(modules, before, strict=True):
            module.is_tracing = answer


class _PhaseTracker(StepObserver):
    """Counts peaks by part of the step. `kept`: bytes that live when the head begins."""

    def __init__(self, tracker: PeakTracker, sampled: bool) -> None:
        self._tracker, self._sampled = tracker, sampled
        self.kept = 0

    def enter(self, part: StepPart) -> None:
        if part == "head" and not self.kept:
            self.kept = self._tracker.live
        self._tracker.enter(part)

    def skips(self, index: int, chunks: int) -> bool:
        return self._sampled and is_middle_chunk(index, chunks)


def _set_foreach(engine: TorchEngine, on: bool) -> None:
    """Set whether AdamW updates all parameters at once, as on CUDA, with temporaries for all of them."""
    for group in engine.optimizer.param_groups:
        group["foreach"] = on


def _allocate_gradients(engine: TorchEngine) -> None:
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)


class TorchTimedStep:
    """An engine with `layers` layers on `run.device`, which must be there."""

    def __init__(self, run: TorchDryRun, layers: int) -> None:
        self._clock = StepClock()
        model, rows = meta_model(run.truncated_config(layers), run.settings, run.dtype, run.added)
        materialize(model, run.device)
        _fill_randomly(model)
        self._engine = TorchEngine(model, rows, run.settings, Placement(run.device, torch_dtype_name(run.dtype)))
        self._engine.observe(run.method, self._clock)

    def seconds(self, tokens: int) -> StepSeconds:
        """Time a step of one sequence. Its loss is read from the device: nothing is left in flight."""
        return self._clock.time(lambda: self._engine.accumulate(Batch.dummy(tokens), 1.0, 0))

    def overhead(self, tokens: int) -> int:
        """Bytes that the process holds above its tensors at the peak of a step on the CPU."""
        tracker = PeakTracker()
        tracker.adopt(tensors_of(self._engine.model), "model")
        reset_peak_resident()
        with tracker:
            self._engine.accumulate(Batch.dummy(tokens), 1.0, 0)
        return peak_resident() - tracker.peak


@torch.no_grad()
def _fill_randomly(model: torch.nn.Module) -> None:
    """Fill with values that stay finite; which ones doesn't change the time."""
    for tensor in tensors_of(model):
        if tensor.is_floating_point():
            tensor.normal_(0, 0.02)
        else:
            tensor.zero_()


def generation_memory(run: TorchDryRun, tokens: int, bits: int = 16) -> StepBytes:
    """Bytes of tensors while a prompt of `tokens` tokens is answered: the `model`, and the `peak`."""
    small, large = probe_depths(run.config, StepMethod())
    layers = run.config.num_hidden_layers
    if layers <= large:
        return _generation_bytes(run, layers, tokens, bits)
    return extrapolate(
        small, _generation_bytes(run, small, tokens, bits), large, _generation_bytes(run, large, tokens, bits), layers
    )


def _generation_bytes(run: TorchDryRun, layers: int, tokens: int, bits: int) -> StepBytes:
    with run.fake_engine(layers) as engine, ExitStack() as stack:
        tracker = PeakTracker()
        model: Any = engine.model.eval()
        tracker.adopt(tensors_of(model), "model")
        held = tracker.live
        for entered in (torch.no_grad(), engine.autocast(), tracker):
            stack.enter_context(entered)
        cache, ids = make_cache(engine.base.config, bits), torch.ones(1, tokens, dtype=torch.long)
        if takes_parts(cache):  # the last part of the prompt needs the most
            ids = ids[:, : last_part(tokens)]
            fill(cache, engine.base.config, tokens - ids.shape[1], run.dtype)
        for part, seen in ((ids, tokens), (ids[:, :1], tokens + 1)):
            mask = torch.ones(1, seen, dtype=torch.long)
            asked = {"input_ids": part, "attention_mask": mask, "past_key_values": cache, "logits_to_keep": 1}
            model(**asked, use_cache=True).logits[:, -1].float().argmax(-1)
        return {"model": held, "peak": tracker.peak}
