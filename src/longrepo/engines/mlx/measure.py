"""What a step needs and how long it takes on this device: real steps of one and two layers of the real shape, with
random weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from longrepo.config.schema import Settings
from longrepo.engines.base import (
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
    STEP_PARTS,
    STEP_PHASES,
    CountingStore,
    MemoryStore,
    StepClock,
    StepObserver,
    StepPart,
    StepSeconds,
    first_of_each_kind,
    is_middle_chunk,
)
from longrepo.engines.lora_targets import with_lora_targets
from longrepo.engines.mlx.device import mlx_dtype_name
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.load import count_parameters, meta_model
from longrepo.engines.mlx.lora import add_trained_tokens
from longrepo.utils import process

WARM_UP_TOKENS = 8
MEASURED_STEPS = 2  # how far MLX dispatches ahead differs from step to step
HELD_PARTS = ("weights", "adapter", "gradients", "moments", "kept")  # these grow with the layers


@dataclass(frozen=True)
class MlxMeasurement:
    """Steps by `method` of a model of transformers' `config`, with `added` structure tokens beyond its vocabulary,
    computing in `dtype` on `device` (`cpu` or `metal`), which this machine has."""

    config: Any
    settings: Settings
    method: StepMethod
    device: str
    dtype: mx.Dtype
    added: int

    def whole(self, tokens: int) -> StepBytes:
        """Bytes of a step of the whole model, extrapolated from two small numbers of its layers."""
        small, large = probe_depths(self.config, self.method)
        layers = self.config.num_hidden_layers
        if layers <= large:
            return self.at(layers, tokens)
        few, more = self.at(small, tokens), self.at(large, tokens)
        line = extrapolate(small, few, large, more, layers)
        if self.method.step == "plain" and not self.settings.training.use_gradient_checkpointing:
            return line  # one graph of all layers
        # A chunked step's peaks grow by what is held of a layer. A line through two measured peaks would multiply
        # the noise of MLX's dispatching by the number of layers.
        held = sum(line[name] - more[name] for name in HELD_PARTS)
        peaks = {f"peak {name}": more[f"peak {name}"] for name in STEP_PARTS}
        return line | {name: peak + held for name, peak in peaks.items() if peak}

    def at(self, layers: int, tokens: int, every_chunk: bool = False, scored: int | None = None) -> StepBytes:
        """Measure a micro-batch of `batch_size_reference` sequences and its update with `layers` layers: gradients and
        moments exist. `every_chunk`: skip none. `scored`: how many of the last tokens have a loss; None: all."""
        with self._engine(layers) as (engine, before):
            adapter = sum(slot.value.nbytes for slot in engine.slots)
            weights = mx.get_active_memory() - before - adapter
            self._warm_up(engine)
            batch = Batch.dummy(tokens, self.settings.training.batch_size_reference, scored)
            peaks = _PeakObserver(before, sampled=not every_chunk)
            disk = CountingStore(_blank)
            for _ in range(MEASURED_STEPS):
                disk, peaks.store = CountingStore(_blank), MemoryStore[mx.array]()
                engine.observe(self.method, peaks, disk if self.method.store == "disk" else peaks.store)
                peaks.start()
                engine.accumulate(batch, 1.0, 0)
                peaks.stop()
            engine.apply_update(1e-4, 1.0)
            peaks.stop("update")
            kept = peaks.kept
            if self.method.store == "disk":  # in memory: the gradient of a layer's output, a layer's keys and values
                kept = batch.input_ids.size * self.config.hidden_size * self.dtype.size
                kept += max(disk.kept_by_layer.values())
        highest = {f"peak {name}": peaks.highest.get(name, 0) for name in STEP_PHASES}
        fixed = {"weights": weights, "adapter": adapter, "gradients": adapter, "moments": 2 * adapter}
        return fixed | highest | {"kept": kept, "disk_written": disk.written, "disk_held": disk.written}

    def chunked_unsupported_reason(self) -> str | None:
        """Return why the architecture's layers can't be walked in chunks, or None if they can."""
        whole = meta_model(self.config.to_dict(), self.settings, self.dtype)
        layers = first_of_each_kind(whole.model.layers, layer_types(self.config))
        with self._engine(max(layers) + 1) as (engine, _):
            return engine.chunked_unsupported_reason()

    def make_engine(self, layers: int) -> MlxEngine:
        """An engine with random weights, all of them evaluated."""
        tree = truncate_config(self.config, layers).to_dict()
        tree["vocab_size"] += self.added
        model = meta_model(tree, self.settings, self.dtype)
        mx.eval(model.parameters())
        ids = range(tree["vocab_size"] - self.added, tree["vocab_size"])
        rows = add_trained_tokens(model, ids, tree["vocab_size"]) if ids else None
        engine = MlxEngine(model, rows, self.settings, Placement(self.device, mlx_dtype_name(self.dtype)))
        mx.eval([slot.value for slot in engine.slots])
        mx.clear_cache()
        return engine

    @contextmanager
    def _engine(self, layers: int) -> Iterator[tuple[MlxEngine, int]]:
        """An engine, and the bytes that MLX held before it."""
        before = mx.get_active_memory()
        yield self.make_engine(layers), before
        mx.clear_cache()

    def _warm_up(self, engine: MlxEngine) -> None:
        """Take an update and add gradients: from then on gradients and moments exist."""
        small = Batch.dummy(WARM_UP_TOKENS, self.settings.training.batch_size_reference)
        method = StepMethod() if self.method.step == "plain" else StepMethod("chunked", WARM_UP_TOKENS)
        engine.observe(method, StepObserver())
        engine.accumulate(small, 1.0, 0)
        engine.apply_update(1e-4, 1.0)
        engine.accumulate(small, 1.0, 0)
        mx.clear_cache()


def model_bytes(config: Any, settings: Settings, dtype: mx.Dtype, added: int) -> tuple[int, int]:
    """Bytes of a base's weights with `added` tokens, and of its adapter with their trained rows (in float32), from
    its shape: nothing is evaluated."""
    tree = config.to_dict()
    tree["vocab_size"] += added
    model = meta_model(tree, settings, dtype)
    arrays: list[Any] = tree_flatten(model.parameters())  # type: ignore[assignment]
    counted = count_parameters(tree)
    modules = with_lora_targets(settings, counted["targets"]).lora.module_names
    trained = settings.lora.r * sum(counted["lora"][name] for name in modules)
    trained += added * config.hidden_size
    return sum(array.nbytes for _, array in arrays), trained * mx.float32.size


class _PeakObserver(StepObserver):
    """`highest`: bytes above `before` at the peak of each part; `kept`: bytes in `store` when the head begins."""

    def __init__(self, before: int, sampled: bool) -> None:
        self._before, self._sampled = before, sampled
        self.store = MemoryStore[mx.array]()
        self._part: str = "forward"
        self.highest: dict[str, int] = {}
        self.kept = 0

    def start(self) -> None:
        self._part = "forward"
        mx.reset_peak_memory()

    def stop(self, part: str | None = None) -> None:
        """Note the peak since the last note as that of `part`, or of the part that runs."""
        part = part or self._part
        self.highest[part] = max(self.highest.get(part, 0), mx.get_peak_memory() - self._before)
        mx.reset_peak_memory()

    def enter(self, part: StepPart) -> None:
        self.stop()
        self._part = part
        if part == "head":
            self.kept = self.store.nbytes

    def skips(self, index: int, chunks: int) -> bool:
        return self._sampled and is_middle_chunk(index, chunks)


def _blank(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    array = mx.zeros(shape, dtype)
    mx.eval(array)
    return array


class MlxTimedStep:
    """An engine with `layers` layers on the default device, which is `run.device`."""

    def __init__(self, run: MlxMeasurement, layers: int) -> None:
        self._before = mx.get_active_memory()
        self._engine, self._clock = run.make_engine(layers), StepClock()
        self._engine.observe(run.method, self._clock)

    def seconds(self, tokens: int) -> StepSeconds:
        """Time a step of one sequence."""
        return self._clock.time(lambda: self._engine.accumulate(Batch.dummy(tokens), 1.0, 0))

    def overhead(self, tokens: int) -> int:
        """Bytes that the process holds above MLX's arrays at the peak of a step on the CPU."""
        batch = Batch.dummy(tokens)
        self._engine.accumulate(batch, 1.0, 0)
        process.reset_peak_resident()
        mx.reset_peak_memory()
        self._engine.accumulate(batch, 1.0, 0)
        return process.peak_resident() - (mx.get_peak_memory() - self._before)
