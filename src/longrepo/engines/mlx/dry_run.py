"""One training step on arrays without bytes: the real operations, sizes and order, and MLX's allocator beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import mlx.core as mx

from longrepo.config.schema import Settings
from longrepo.engines.base import Batch, StepBytes, StepMethod, extrapolate, probe_depths, truncate_config
from longrepo.engines.chunked import UNSUPPORTED_ERRORS
from longrepo.engines.mlx import engine as engine_module
from longrepo.engines.mlx.allocator import Allocator
from longrepo.engines.mlx.chunked import MlxChunkedStep
from longrepo.engines.mlx.device import MlxPlacement
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.fake import FakeArrays
from longrepo.engines.mlx.load import meta_model
from longrepo.engines.mlx.lora import add_trained_tokens as patch_rows
from longrepo.engines.mlx.sampled import skip_middle_chunks

STEP_PHASES = ("forward", "head", "recompute", "backward", "update")


@dataclass(frozen=True)
class MlxDryRun:
    """What is run: `config` of transformers, with `added` structure tokens beyond its vocabulary; computing in
    `dtype` as on `device` (`cpu` or `metal`).

    The allocator's rules are those of MLX's CPU backend. Metal's frees what a command buffer used when all of it has
    run, and has fused operations: a plan for it holds as far as `longrepo plan --calibrate` finds there.
    """

    config: Any
    settings: Settings
    method: StepMethod
    device: str
    dtype: mx.Dtype
    added: int

    def whole(self, tokens: int) -> StepBytes:
        """The whole model's, from two small numbers of its layers: every peak grows by the same for each."""
        small, large = probe_depths(self.config, self.method)
        layers = self.config.num_hidden_layers
        if layers <= large:
            return self.at(layers, tokens)
        return extrapolate(small, self.at(small, tokens), large, self.at(large, tokens), layers)

    def at(self, layers: int, tokens: int, every_chunk: bool = False, scored: int | None = None) -> StepBytes:
        """Measure the last micro-batch of a window and its update: gradients and moments exist. `scored`: how many of
        the last tokens are; None: all. `every_chunk`: leave none out, for a look at whether the highest moment lies
        where it is looked for, and where chunks differ in what is scored."""
        fakes = FakeArrays(Allocator())
        with self._engine(layers, fakes) as engine, ExitStack() as stack:
            if self.method.step == "chunked" and not every_chunk:
                predicting = tokens - 1  # the last token predicts nothing
                stack.enter_context(skip_middle_chunks(-(-predicting // self.method.chunk), fakes.like))
            return _MlxDryStep(fakes, engine, self.method).measure(self._batch(tokens, scored or tokens), stack)

    def without_moments(self, tokens: int) -> int:
        """Bytes at the highest moment of a micro-batch of one layer before the first update: gradients exist."""
        found = self.at(1, tokens)
        peaks = [found[f"peak {phase}"] for phase in STEP_PHASES if phase != "update"]
        return max(peaks) - found["moments"]

    def chunked_unsupported_reason(self) -> str | None:
        """Why the architecture's layers can't be walked in chunks. Their values aren't compared."""
        fakes = FakeArrays(Allocator())
        with self._engine(min(2, self.config.num_hidden_layers), fakes) as engine:
            try:
                list(engine._chunks.hidden(mx.zeros((1, 24), mx.int32), 10))
            except UNSUPPORTED_ERRORS as error:
                return next(iter(str(error).splitlines()), type(error).__name__)
        return None

    @contextmanager
    def _engine(self, layers: int, fakes: FakeArrays) -> Iterator[MlxEngine]:
        config = truncate_config(self.config, layers).to_dict()
        vocabulary = config["vocab_size"] + self.added
        with fakes.evaluating(), patch.object(engine_module, "unsupported_reason", lambda *_: None):
            model = meta_model(config | {"vocab_size": vocabulary}, self.settings, self.dtype)
            model.update(fakes.like_all(model.parameters()))
            ids = range(vocabulary - self.added, vocabulary)
            rows = patch_rows(model, ids, vocabulary) if ids else None
            yield MlxEngine(model, rows, self.settings, MlxPlacement(self.device, self.dtype, ()))

    def _batch(self, tokens: int, scored: int) -> Batch:
        row = ([1] * tokens, [0.0] * (tokens - scored) + [1.0] * scored)
        return Batch.of([row] * self.settings.training.batch_size_reference, 0)


@dataclass
class _MlxDryStep:
    fakes: FakeArrays
    engine: MlxEngine
    method: StepMethod
    kept: int = 0

    def measure(self, batch: Batch, stack: ExitStack) -> StepBytes:
        engine, allocator = self.engine, self.fakes.allocator
        trained = {slot.name: slot.value for slot in engine.slots}
        adapter = sum(array.nbytes for array in trained.values())
        self.fakes.settle()
        weights = allocator.live - adapter
        engine._gradients.by_name = {name: self.fakes.like(array) for name, array in trained.items()}
        engine._optimizer.moments = {n: (self.fakes.like(a), self.fakes.like(a)) for n, a in trained.items()}
        fixed = {"weights": weights, "adapter": adapter, "gradients": adapter, "moments": 2 * adapter}
        del trained
        engine.method = self.method
        store = MlxCountingStore()
        if self.method.store == "disk":
            engine._store = store
        for name, phase in (("_forward", None), ("_head", "head"), ("_backward", "backward")):
            stack.enter_context(
                patch.object(MlxChunkedStep, name, self._entering(getattr(MlxChunkedStep, name), phase))
            )
        allocator.enter("forward")
        engine.accumulate(batch, 1.0, 0)
        allocator.enter("update")
        engine.apply_update(1e-4, 1.0)
        peaks = {f"peak {name}": allocator.peaks.get(name, 0) for name in STEP_PHASES}
        kept = max(0, self.kept - sum(fixed.values()))
        return fixed | peaks | {"kept": kept, "disk_written": store.written, "disk_held": store.held}

    def _entering(self, method: Callable[..., Any], phase: str | None) -> Callable[..., Any]:
        """The step's method, telling its phase when it begins."""
        allocator = self.fakes.allocator

        def entering(*args: Any, **kwargs: Any) -> Any:
            self.fakes.settle()
            if phase == "head" and not self.kept:
                self.kept = allocator.live
            allocator.enter(phase or ("recompute" if self.kept else "forward"))
            result = method(*args, **kwargs)
            if result is not None:
                mx.eval(result)  # a view that wasn't evaluated holds what it is of all the same
            return result

        return entering


@dataclass
class MlxCountingStore:
    """Stands in for a `DiskStore`: forgets the arrays and counts the bytes."""

    written: int = 0
    held: int = 0
    _shapes: dict[Any, tuple[tuple[int, ...], mx.Dtype]] = field(default_factory=dict)

    def put(self, key: Any, array: mx.array) -> None:
        self._shapes[key] = array.shape, array.dtype
        self.written += array.nbytes
        self.held = max(self.held, self.written)

    def get(self, key: Any) -> mx.array:
        array = mx.zeros(*self._shapes[key])
        mx.eval(array)
        return array

    def take(self, key: Any) -> mx.array:
        array = self.get(key)
        del self._shapes[key]
        return array

    def clear(self) -> None:
        self._shapes.clear()
