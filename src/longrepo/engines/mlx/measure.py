"""The time and the peak of a real step of a few layers of true width, with weights of any values."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest.mock import patch

import mlx.core as mx

from longrepo.engines.base import Batch, shortened
from longrepo.engines.mlx import engine as engine_module
from longrepo.engines.mlx.chunked import ChunkedStep
from longrepo.engines.mlx.device import Placement
from longrepo.engines.mlx.dry_run import DryRun
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.load import skeleton
from longrepo.engines.mlx.lora import patch as patch_rows
from longrepo.utils import process


class Seconds(NamedTuple):
    """Of one micro-batch: embedding and layers forward, head and loss, layers backward (computed again before)."""

    forward: float
    head: float
    backward: float


class TimedStep:
    """An engine with `layers` layers on the default device, which is `run.device`."""

    def __init__(self, run: DryRun, layers: int) -> None:
        self._before = mx.get_active_memory()
        tree = shortened(run.config, layers).to_dict()
        tree["vocab_size"] += run.added
        model = skeleton(tree, run.settings, run.dtype)
        mx.eval(model.parameters())
        ids = range(tree["vocab_size"] - run.added, tree["vocab_size"])
        rows = patch_rows(model, ids, tree["vocab_size"]) if ids else None
        with patch.object(engine_module, "why_not", lambda *_: None):
            self._engine = MlxEngine(model, rows, run.settings, Placement(run.device, run.dtype, ()))
        self._engine.method = run.method

    def seconds(self, tokens: int) -> Seconds:
        """One sequence."""
        spent = {"_head": 0.0, "_backward": 0.0}
        with ExitStack() as stack:
            for name in spent:
                stack.enter_context(patch.object(ChunkedStep, name, _timed(getattr(ChunkedStep, name), name, spent)))
            began = time.perf_counter()
            self._engine.accumulate(_batch(tokens), 1.0, 0)
            whole = time.perf_counter() - began
        return Seconds(whole - sum(spent.values()), spent["_head"], spent["_backward"])

    def peak(self, tokens: int) -> int:
        """Bytes of MLX's arrays at the highest moment of an accumulated micro-batch: gradients exist."""
        self._engine.accumulate(_batch(tokens), 1.0, 0)
        mx.reset_peak_memory()
        self._engine.accumulate(_batch(tokens), 1.0, 0)
        return mx.get_peak_memory() - self._before

    def overhead(self, tokens: int) -> int:
        """Bytes that the process holds above MLX's arrays at the highest moment of a step on the CPU."""
        process.reset_peak_resident()
        arrays = self.peak(tokens)
        return process.peak_resident() - arrays


def _timed(method: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - began

    return timed


def _batch(tokens: int) -> Batch:
    return Batch.of([([1] * tokens, [1.0] * tokens)], 0)
