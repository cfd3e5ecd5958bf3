"""An epoch's order cut into micro-batches, and the key that seeds each one's dropout."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from longrepo.config.schema import TrainingSettings
from longrepo.curriculum.sampler import SequenceSource
from longrepo.engines.base import Batch


def accumulation_groups(indices: Sequence[int], training: TrainingSettings) -> list[list[tuple[int, ...]]]:
    """Accumulation windows of micro-batches of sequence indices: one window an update. The last may be shorter."""
    size, steps = training.batch_size_reference, training.gradient_accumulation_steps
    batches = [tuple(indices[at : at + size]) for at in range(0, len(indices), size)]
    return [batches[at : at + steps] for at in range(0, len(batches), steps)]


def make_batch(source: SequenceSource, indices: Sequence[int], pad_id: int, cut_to: int | None = None) -> Batch:
    """The sequences as a batch, each without what lies beyond `cut_to` tokens."""
    return Batch.of([(source.tokens(index)[:cut_to], source.weights(index)[:cut_to]) for index in indices], pad_id)


def with_loss_weight(source: SequenceSource, indices: Sequence[int], cut_to: int | None) -> tuple[int, ...]:
    """Those that still have a loss weight when they are cut; all where nothing is cut."""
    return tuple(index for index in indices if cut_to is None or source.weights(index)[1:cut_to].any())


def micro_batch_key(seed: int, epoch: int, update: int, micro: int) -> int:
    """A number below 2**63 from the run's seed and the place of a micro-batch: resuming needs no random state."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{update}/{micro}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
