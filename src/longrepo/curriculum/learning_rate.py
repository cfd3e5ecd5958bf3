"""The learning rate of one update: a pure function of where the update lies in its phase."""

from __future__ import annotations

import math

from longrepo.config.schema import TrainingSettings
from longrepo.curriculum.phases import Phase


def learning_rate(training: TrainingSettings, phase: Phase, update: int, updates: int) -> float:
    """Linear warm-up over `warmup_ratio` of the phase's updates, then half a cosine down to
    `final_learning_rate_ratio`; times base × multiplier. `update` counts from 0 in the phase of `updates` updates.

    Every phase warms up anew: its sequences are longer than any before, and the loss may spike at its start.
    """
    peak = training.base_learning_rate * phase.lr_multiplier
    warmup = math.ceil(training.warmup_ratio * updates)
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = min(1.0, (update - warmup + 1) / max(1, updates - warmup))
    final = training.final_learning_rate_ratio
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
