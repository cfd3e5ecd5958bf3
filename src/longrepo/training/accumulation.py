"""The gradient of one update: a window's micro-batches, accumulated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from longrepo.errors import InputError
from longrepo.training.batches import batch_of, micro_key, with_weight
from longrepo.training.session import Session


@dataclass(frozen=True)
class Accumulated:
    """`loss` is the sum of weight × nll (nats), `weight` the sum of weights; `tokens` in all and in the `longest`
    sequence; `skipped`: sequences left without a loss weight where they were cut."""

    loss: float
    weight: float
    tokens: int
    longest: int
    skipped: int


def accumulate_window(session: Session, window: list[tuple[int, ...]]) -> Accumulated:
    """Hold the window's gradient in the engine, normalised by the weight of the whole window. Done again after
    `drop_gradients` it gives the same: dropout follows from each micro-batch's place."""
    engine, source, cut_to = session.engine, session.plan.source, session.state.memory.max_length
    kept = [with_weight(source, indices, cut_to) for indices in window]
    batches = {micro: batch_of(source, indices, engine.pad_id, cut_to) for micro, indices in enumerate(kept) if indices}
    weight = math.fsum(batch.weight for batch in batches.values())
    if weight == 0 and cut_to is None:
        raise InputError(f"sequences {window} of the sequence file have no loss weight at all: build them anew")
    loss, seed = 0.0, session.plan.settings.training.seed
    for micro, batch in batches.items():
        key = micro_key(seed, session.epoch, session.state.update, micro)
        loss += engine.accumulate(batch, weight, key)
    return Accumulated(
        loss=loss,
        weight=weight,
        tokens=sum(int(batch.lengths.sum()) for batch in batches.values()),
        longest=max((int(batch.lengths.max()) for batch in batches.values()), default=0),
        skipped=sum(map(len, window)) - sum(map(len, kept)),
    )
