"""Estimate the seconds of a step on this machine: a few of its operations are timed, the rest is arithmetic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from longrepo.engines.base import StepMethod, probe_depths
from longrepo.errors import InputError
from longrepo.memory.estimate import code_identity
from longrepo.memory.planner import MemoryPlanner
from longrepo.utils.cache import JsonCache
from longrepo.utils.process import return_freed_memory

if TYPE_CHECKING:
    from longrepo.engines.registry import EngineName


CALIBRATION_CHUNK = 256
MLX_CPU_CHUNK = 32  # MLX is some hundred times slower on a CPU
SHORT_CHUNKS, LONG_CHUNKS = 2, 6  # chunks
CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True)
class CalibratedRates:
    """Seconds per token: of a layer, of a layer for each key that it attends to, and of embedding, head and loss.
    `forward`: the share of a layer's time that is its first forward pass."""

    layer: float
    key: float
    ends: float
    forward: float

    def seconds(self, passes: float, tokens: int, layers: int, window: int | None) -> float:
        """Seconds of one sequence. `passes`: the time of its layers relative to computing each forward twice and
        backward once."""
        span = min(tokens, window or tokens)
        keys = span - span * span / (2 * tokens)  # the mean: i keys at token i, up to the window
        return tokens * (layers * (self.layer + self.key * keys) * passes + self.ends)

    def passes(self, method: StepMethod, layers: int, checkpointing: bool) -> float:
        """The relative time of layers that are computed once more or once less. A disk's time isn't counted."""
        if method.store == "recompute":
            return 1 + self.forward * max(0.0, 1 - method.every / layers)
        return 1 - self.forward if method.step == "plain" and not checkpointing else 1.0


def calibrated_seconds(planner: MemoryPlanner, remeasure: bool = False) -> Callable[[StepMethod, int], float | None]:
    """Return a function: method, length → seconds of a micro-batch, or None until the machine was timed once."""
    kept = JsonCache(CALIBRATION_FILE)
    if remeasure:
        kept.put(_key(planner), asdict(_calibrate(planner)))
    found = kept.get(_key(planner))
    rates = CalibratedRates(**found) if found else None
    training, layers = planner.settings.training, planner.shape.layers

    def seconds(method: StepMethod, tokens: int) -> float | None:
        if rates is None:
            return None
        passes = rates.passes(method, layers, training.use_gradient_checkpointing)
        return training.batch_size_reference * rates.seconds(passes, tokens, layers, planner.estimator.window)

    return seconds


def with_calibration(planner: MemoryPlanner, remeasure: bool = False) -> MemoryPlanner:
    """The planner with this machine's times and, on a CPU, its overhead; as it is if it plans for another machine.

    Raises InputError for `remeasure` on another machine."""
    one = planner.estimator
    if not planner.here:
        if remeasure:
            another = f"--device {one.device} with --budget-gb"
            raise InputError(f"--calibrate times this machine, and {another} plans for another")
        return planner
    time = calibrated_seconds(planner, remeasure)
    overhead = max(planner.overhead, step_overhead(one.engine)) if one.device == "cpu" else 0
    return replace(planner, time=time, overhead=overhead)


def step_overhead(engine: EngineName = "torch") -> int:
    """Bytes that a process on this CPU held above its tensors in a calibrated step; 0 before there was one."""
    return int(JsonCache("process.json").get(f"step {code_identity(engine)}") or 0)


def _calibrate(planner: MemoryPlanner) -> CalibratedRates:
    """Time a layer of the real width with random weights, or several if layers differ, at two lengths, and derive the
    rates."""
    of = planner.estimator
    chunk = MLX_CPU_CHUNK if (of.engine, of.device) == ("mlx", "cpu") else CALIBRATION_CHUNK
    run: Any = of.dry_run(StepMethod("chunked", chunk))
    if of.device == "cpu":
        return_freed_memory()  # as a run does that needs most of its budget
    layers, _ = probe_depths(of.config, StepMethod())
    step = _timed_step(of.engine, run, layers)
    few, many = SHORT_CHUNKS * chunk, LONG_CHUNKS * chunk
    beside = step.overhead(few)  # also warms up
    if of.device == "cpu":
        JsonCache("process.json").put(f"step {code_identity(of.engine)}", beside)
    short, long = step.seconds(few), step.seconds(many)
    at_few, at_many = ((one.forward + one.backward) / layers / n for one, n in ((short, few), (long, many)))
    key = max(0.0, at_many - at_few) / ((many - few) / 2)
    forward, ends = long.forward / (long.forward + long.backward), long.head / many
    layer = max(0.0, at_many - key * many / 2)
    return CalibratedRates(layer, key, ends, forward)


def _timed_step(engine: EngineName, run: Any, layers: int) -> Any:
    if engine == "mlx":
        from longrepo.engines.mlx import measure as on_mlx

        return on_mlx.MlxTimedStep(run, layers)
    from longrepo.engines.torch import dry_run as on_torch

    return on_torch.TorchTimedStep(run, layers)


def _key(planner: MemoryPlanner) -> str:
    one, settings = planner.estimator, planner.settings
    facts = [one.config.to_dict(), one.device, one.dtype, settings.model.quantization, settings.lora.r]
    facts.append(settings.training.weights)
    facts.append(code_identity(one.engine))
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
