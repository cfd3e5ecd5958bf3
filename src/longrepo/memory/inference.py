"""What answering needs, tier by tier: weights, keys and values, and its highest moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from longrepo.config.schema import ContextSettings, Settings
from longrepo.context.recorded import said
from longrepo.context.tiers import Tier, Tiers
from longrepo.engines.measured import Measured
from longrepo.engines.method import Method
from longrepo.memory.budget import Budget
from longrepo.memory.estimate import Estimator, code_identity
from longrepo.memory.kept import Kept
from longrepo.memory.planner import Planner
from longrepo.memory.shape import read_config

BITS = (16, 8, 4)


def inference_outlook(planner: Planner, tiers: Tiers, budget: Budget) -> dict[str, Any]:
    """`planner` is that of the trained positions. Bytes.

    `together` is the model, a cache as computed and the process's libraries. `peak` adds what reading a prompt that
    fills the tier works with, from a dry run; None on MLX, which has none for answers: there `together` is a lower
    bound. `cache` by bits; None where the engine's library has none, and `why_not` says why. Text that was read is kept
    in `dtype`, which `16` stands for.
    """
    one, step = planner.estimator, planner.estimator.step(Method(), 2)
    model = step.weights + step.adapter
    estimators = {tier.context: _at(one, planner.settings, tier.context) for tier in tiers.every}
    rows = [_row(tier, estimators[tier.context], model, planner.overhead, budget) for tier in tiers.every]
    return {
        "model": planner.settings.model.name,
        "engine": one.engine,
        "device": one.device,
        "dtype": one.dtype,
        "weights": step.weights,
        "adapter": step.adapter,
        "overhead": planner.overhead,
        "budget": {"bytes": budget.bytes, "reason": budget.reason},
        "tiers": rows,
        "why_not": _why_not(estimators),
    }


def _at(one: Estimator, settings: Settings, context: ContextSettings) -> Estimator:
    config = read_config(settings.model.name, settings.model.revision, context)
    return Estimator(config, settings, one.device, one.dtype, one.added, one.engine)


def _row(tier: Tier, of: Estimator, model: int, overhead: int, budget: Budget) -> dict[str, Any]:
    library: Any = import_module(f"longrepo.engines.{of.engine}.key_values")
    cache = {
        bits: None if library.why_not(of.config, bits, of.device) else _bytes(library, of, tier.length, bits)
        for bits in BITS
    }
    together = model + _bytes(library, of, tier.length, 16) + overhead
    peak = _peak(of, tier.length) + overhead if of.engine == "torch" else None
    return {
        "length": tier.length,
        "positions": said(tier.context),
        "context": tier.context.model_dump(mode="json"),
        "cache": cache,
        "together": together,
        "peak": peak,
        "fits": (together if peak is None else max(peak, together)) <= budget.bytes,
    }


def _bytes(library: Any, of: Estimator, tokens: int, bits: int) -> int:
    return int(library.cache_bytes(of.config, tokens, of.dtype, bits))


def _peak(of: Estimator, tokens: int) -> int:
    """Bytes of tensors at the highest moment of an answer, from dry runs that are kept."""
    kept, key = Kept("answers.json"), _key(of, tokens)
    found: Measured | None = kept.get(key)
    if found is None:
        answering = import_module(f"longrepo.engines.{of.engine}.answering").answering
        found = answering(of.dry_run(Method()), tokens)
        kept.put(key, found)
    return found["peak"]


def _key(of: Estimator, tokens: int) -> str:
    model, lora = of.settings.model, of.settings.lora
    matters = [
        of.config.to_dict(), tokens, of.device, of.dtype, of.added, model.quantization, model.double_quantization,
        lora.r, lora.target_modules, of.settings.training.weights, code_identity(of.engine),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(matters, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _why_not(estimators: Mapping[ContextSettings, Estimator]) -> dict[int, str]:
    """Of the bits that some tier can't have."""
    found: dict[int, str] = {}
    for of in estimators.values():
        library: Any = import_module(f"longrepo.engines.{of.engine}.key_values")
        found |= {bits: reason for bits in BITS if (reason := library.why_not(of.config, bits, of.device))}
    return found
