"""The plain step: one graph for a whole sequence. What the chunked step is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from longrepo.engines.base import Batch
from longrepo.engines.mlx.gradients import Gradients
from longrepo.engines.mlx.lora import Slot, placed
from longrepo.engines.mlx.loss import Scored


def plain_step(
    model: Any, slots: Sequence[Slot], batch: Batch, normaliser: float, gradients: Gradients
) -> list[mx.array]:
    """Add the gradient of `sum(weight * nll) / normaliser` to `gradients`; return `sum(weight * nll)`."""
    ids = mx.array(batch.input_ids.astype(np.int32))
    scored = Scored.of(batch.input_ids, batch.loss_weights, 0, ids.shape[1])
    if not scored.at.size:
        return []

    def loss(*values: mx.array) -> mx.array:
        with placed(slots, values):
            logits = model(ids)
        logits = logits.reshape(-1, logits.shape[-1])[scored.at].astype(mx.float32)
        return (nn.losses.cross_entropy(logits, scored.targets) * scored.weights).sum()

    total, found = mx.vjp(loss, [slot.value for slot in slots], [mx.array(1 / normaliser)])
    gradients.add(slots, found)
    mx.eval(total, gradients.of(slots))
    return list(total)
