"""Cut an epoch's order into micro-batches, and derive the key that seeds each one's dropout."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from longrepo.config.schema import TrainingSettings
from longrepo.curriculum.sampler import SequenceSource
from longrepo.engines.base import Batch


def accumulation_groups(indices: Sequence[int], training: TrainingSettings) -> list[list[tuple[int, ...]]]:
    """Group sequence indices into micro-batches, and these into windows, one per update. The last may be shorter."""
    size, steps = training.batch_size_reference, training.gradient_accumulation_steps
    batches = [tuple(indices[at : at + size]) for at in range(0, len(indices), size)]
    return [batches[at : at + steps] for at in range(0, len(batches), steps)]


def make_batch(source: SequenceSource, indices: Sequence[int], pad_id: int, cut_to: int | None = None) -> Batch:
    """Make a batch of the sequences, each cut to `cut_to` tokens."""
    return Batch.of([(source.tokens(index)[:cut_to], source.weights(index)[:cut_to]) for index in indices], pad_id)


def with_loss_weight(source: SequenceSource, indices: Sequence[int], cut_to: int | None) -> tuple[int, ...]:
    """Select the sequences that still have a loss weight after they are cut; all of them if nothing is cut."""
    return tuple(index for index in indices if cut_to is None or source.weights(index)[1:cut_to].any())


def micro_batch_key(seed: int, epoch: int, update: int, micro: int) -> int:
    """Derive a number below 2**63 from the run's seed and a micro-batch's place: resuming needs no random state."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{update}/{micro}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
