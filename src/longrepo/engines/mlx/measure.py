"""The time and the peak of a real step of a few layers of true width, with weights of any values."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest.mock import patch

import mlx.core as mx

from longrepo.engines.base import Batch, Placement, truncate_config
from longrepo.engines.mlx import engine as engine_module
from longrepo.engines.mlx.chunked import MlxChunkedStep
from longrepo.engines.mlx.device import mlx_dtype_name
from longrepo.engines.mlx.dry_run import MlxDryRun
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.load import meta_model
from longrepo.engines.mlx.lora import add_trained_tokens as patch_rows
from longrepo.utils import process


class MlxStepSeconds(NamedTuple):
    """Of one micro-batch: embedding and layers forward, head and loss, layers backward (computed again before)."""

    forward: float
    head: float
    backward: float


class MlxTimedStep:
    """An engine with `layers` layers on the default device, which is `run.device`."""

    def __init__(self, run: MlxDryRun, layers: int) -> None:
        self._before = mx.get_active_memory()
        tree = truncate_config(run.config, layers).to_dict()
        tree["vocab_size"] += run.added
        model = meta_model(tree, run.settings, run.dtype)
        mx.eval(model.parameters())
        ids = range(tree["vocab_size"] - run.added, tree["vocab_size"])
        rows = patch_rows(model, ids, tree["vocab_size"]) if ids else None
        with patch.object(engine_module, "unsupported_reason", lambda *_: None):
            self._engine = MlxEngine(model, rows, run.settings, Placement(run.device, mlx_dtype_name(run.dtype)))
        self._engine.method = run.method

    def seconds(self, tokens: int) -> MlxStepSeconds:
        """One sequence."""
        spent = {"_head": 0.0, "_backward": 0.0}
        with ExitStack() as stack:
            for name in spent:
                stack.enter_context(
                    patch.object(MlxChunkedStep, name, _time_calls(getattr(MlxChunkedStep, name), name, spent))
                )
            began = time.perf_counter()
            self._engine.accumulate(_timing_batch(tokens), 1.0, 0)
            whole = time.perf_counter() - began
        return MlxStepSeconds(whole - sum(spent.values()), spent["_head"], spent["_backward"])

    def peak(self, tokens: int) -> int:
        """Bytes of MLX's arrays at the highest moment of an accumulated micro-batch: gradients exist."""
        self._engine.accumulate(_timing_batch(tokens), 1.0, 0)
        mx.reset_peak_memory()
        self._engine.accumulate(_timing_batch(tokens), 1.0, 0)
        return mx.get_peak_memory() - self._before

    def overhead(self, tokens: int) -> int:
        """Bytes that the process holds above MLX's arrays at the highest moment of a step on the CPU."""
        process.reset_peak_resident()
        arrays = self.peak(tokens)
        return process.peak_resident() - arrays


def _time_calls(method: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - began

    return timed


def _timing_batch(tokens: int) -> Batch:
    return Batch.of([([1] * tokens, [1.0] * tokens)], 0)
