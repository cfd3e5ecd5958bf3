"""Seconds of a step on this machine: a few of its operations timed, the rest by arithmetic."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longrepo.config.files import write_text
from longrepo.engines.method import Method
from longrepo.memory.estimate import code_identity
from longrepo.memory.planner import Planner
from longrepo.sequences.cache import cache_folder

CHUNK = 256
SHORT, LONG = 2, 4  # chunks
FORWARD_SHARE = 0.3  # of a layer's chunk: forward once, then forward again with the backward pass


@dataclass(frozen=True)
class Rates:
    """Seconds a token: of a layer, of a layer for each key that it attends to, and of embedding, head and loss."""

    layer: float
    key: float
    ends: float

    def seconds(self, method: Method, tokens: int, layers: int, window: int | None) -> float:
        """Of one sequence. A layer that is recomputed costs its forward pass once more; a disk's time isn't counted."""
        keys = (min(tokens, window) if window else tokens) / 2 if not window or tokens <= window else float(window)
        again = FORWARD_SHARE * (1 - 1 / method.every) if method.store == "recompute" else 0.0
        return tokens * (layers * (self.layer + self.key * keys) * (1 + again) + self.ends)


def calibration(planner: Planner, anew: bool = False) -> Callable[[Method, int], float | None]:
    """Seconds of a micro-batch by method and length. Unknown (None) until the machine was timed once."""
    rates = _measure(planner) if anew else _read(planner)
    rows, shape = planner.settings.training.batch_size_reference, planner.shape

    def seconds(method: Method, tokens: int) -> float | None:
        if rates is None:
            return None
        return rows * rates.seconds(method, tokens, shape.layers, planner.estimator.window)

    return seconds


def _measure(planner: Planner) -> Rates:
    """Time one layer and two of true width with random weights at two lengths; keep what follows from it."""
    from longrepo.engines.torch.timed import step_seconds

    def timed(layers: int, chunks: int) -> float:
        run = planner.estimator.dry_run(Method("chunked", CHUNK))
        return step_seconds(run, layers, chunks * CHUNK)

    timed(1, 1)  # what is only done at a first time
    one, two, longer = timed(1, SHORT), timed(2, SHORT), timed(2, LONG)
    tokens = SHORT * CHUNK
    layer_short = (two - one) / tokens
    ends = max(0.0, one / tokens - layer_short)
    layer_long = max(0.0, longer / (LONG * CHUNK) - ends) / 2
    key = max(0.0, (layer_long - layer_short) / ((LONG - SHORT) * CHUNK / 2))
    rates = Rates(max(0.0, layer_short - key * tokens / 2), key, ends)
    folder = cache_folder()
    if folder is not None:
        kept = _kept() | {_key(planner): [rates.layer, rates.key, rates.ends, time.time()]}
        write_text(folder / "calibration.json", json.dumps(kept))
    return rates


def _read(planner: Planner) -> Rates | None:
    found = _kept().get(_key(planner))
    return Rates(*found[:3]) if found else None


def _kept() -> dict[str, Any]:
    folder = cache_folder()
    try:
        return dict(json.loads((folder / "calibration.json").read_text())) if folder else {}
    except (OSError, ValueError):
        return {}


def _key(planner: Planner) -> str:
    one, settings = planner.estimator, planner.settings
    facts = [one.config.to_dict(), one.device, one.dtype, settings.model.quantization, settings.lora.r, code_identity()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
