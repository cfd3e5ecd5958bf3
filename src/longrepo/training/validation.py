"""Micro-batches of an epoch's order, with the key that seeds each one's dropout, and the fixed validation set of a run.

The validation set spans all lengths, so that `best` doesn't favor the last phase.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from longrepo.config.schema import Settings, TrainingSettings
from longrepo.curriculum.sampler import SequenceCatalog, SequenceSource
from longrepo.curriculum.schedule import Schedule
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.engines.base import Batch, Engine
from longrepo.errors import InputError, RunError
from longrepo.training.events import Validation


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


VALIDATION_SHARE = 0.05  # of the training sequences of each length, if the file has no validation split


@dataclass(frozen=True)
class ValidationSet:
    """Sequence indices by length group (`≤1024`, …), the same at every validation of a run."""

    groups: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        return sum(len(indices) for indices in self.groups.values())


def with_validation_split(catalog: SequenceCatalog, schedule: Schedule) -> tuple[SequenceCatalog, str | None]:
    """Return the catalog with a validation split: its own, or every 20th training sequence of each length (at least one
    of two or more), and a sentence that says so. Deterministic: evenly spaced in file order."""
    if "validation" in catalog.split:
        return catalog, None
    split, held_out = list(catalog.split), 0
    for phase in schedule.phases:
        here = catalog.indices("train", phase.above, phase.max_length)
        if len(here) >= 2:
            for index in _evenly_spaced(here, max(1, round(VALIDATION_SHARE * len(here)))):
                split[index] = "validation"
                held_out += 1
    if held_out == 0:
        raise InputError("the sequences have no validation split and too few to hold any out: build more sequences")
    note = (
        f"the sequences have no validation split: {held_out} of {len(split)} ({VALIDATION_SHARE:.0%} of each length) "
        "are held out"
    )
    return replace(catalog, split=tuple(split)), note


def make_validation_set(catalog: SequenceCatalog, schedule: Schedule, settings: Settings) -> ValidationSet:
    """Choose every validation sequence that fits a phase, or `training.max_validation_sequences` of them: an equal
    number of each length, evenly spaced in file order. Raises InputError if none fits."""
    groups = {
        f"≤{phase.max_length}": catalog.indices("validation", phase.above, phase.max_length)
        for phase in schedule.phases
    }
    groups = {name: indices for name, indices in groups.items() if indices}
    if not groups:
        raise InputError(
            f"no validation sequence has at most {schedule.phases[-1].max_length} tokens; build sequences with a "
            "--sequence-length of the phases"
        )
    limit = settings.training.max_validation_sequences
    if limit is not None:
        each = max(1, limit // len(groups))
        groups = {name: _evenly_spaced(indices, min(each, len(indices))) for name, indices in groups.items()}
    return ValidationSet({name: tuple(indices) for name, indices in groups.items()})


def validate(
    engine: Engine,
    source: SequenceSource,
    chosen: ValidationSet,
    progress: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> Validation | None:
    """Score the set one sequence at a time (the widest batch that always fits). Return None once `stop()` is true.

    Raises RunError if a loss isn't finite, InputError if the set has no target.
    """
    sums: dict[str, tuple[float, int]] = {}
    done = 0
    for name, indices in chosen.groups.items():
        total, count = 0.0, 0
        for index in indices:
            if stop():
                return None
            batch = make_batch(source, [index], engine.pad_id)
            target = batch.loss_weights >= TARGET_WEIGHT
            total += float(engine.score(batch)[target].sum(dtype=np.float64))
            count += int(target.sum())
            done += 1
            progress(done, chosen.size)
        sums[name] = (total, count)
    tokens = sum(count for _, count in sums.values())
    if tokens == 0:
        raise InputError("no token of the validation sequences counts (all loss weights are below 1): rebuild them")
    loss = sum(total for total, _ in sums.values()) / tokens
    if not np.isfinite(loss):
        raise RunError(f"the validation loss is {loss}: the weights have diverged")
    return Validation(loss, {name: total / count for name, (total, count) in sums.items() if count}, tokens)


def _evenly_spaced(indices: Sequence[int], count: int) -> list[int]:
    return [indices[(place * len(indices)) // count] for place in range(count)]
