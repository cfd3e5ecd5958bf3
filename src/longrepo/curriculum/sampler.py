"""Which sequences an epoch trains on, and in which order: a pure function of seed, phase, epoch and data.

There is no sampler state, so a run resumes from a position alone. `SequenceSource` is what the curriculum needs of a
file of sequences, `SequenceCatalog` the table that it reads from it once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from longrepo.config.schema import Settings
from longrepo.curriculum.schedule import Phase, make_schedule
from longrepo.data.sequence import DIFFICULTIES
from longrepo.errors import InputError


class SequenceSource(Protocol):
    """A file of sequences, as `longrepo.data.dataset.read_sequences` returns it, or one in memory."""

    @property
    def content_sha256(self) -> str:
        """A hash of every token and weight."""
        ...

    def __len__(self) -> int: ...

    def column(self, name: str) -> list[Any]:
        """Return a column, one value a sequence: `difficulty`, `difficulty_score`, `split`, `files`, …"""
        ...

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the length of every sequence in tokens, `[sequences]`."""
        ...

    def tokens(self, index: int) -> npt.NDArray[np.int32]:
        """Return the token ids of one sequence, `[tokens]`."""
        ...

    def weights(self, index: int) -> npt.NDArray[np.float32]:
        """Return the loss weight of each token as a target, `[tokens]`; 1 marks a target that validation counts."""
        ...


@dataclass(frozen=True)
class SequenceCatalog:
    """The columns that decide when a sequence is trained on, one entry a sequence: length in tokens, difficulty, score
    0..1, split, target file."""

    lengths: npt.NDArray[np.int64]
    difficulty: tuple[str, ...]
    score: npt.NDArray[np.float64]
    split: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.split)

    def indices(self, split: str, above: int = 0, at_most: int | None = None) -> list[int]:
        """Return the sequences of a split longer than `above` and of at most `at_most` tokens, in file order."""
        return [
            index
            for index, name in enumerate(self.split)
            if name == split and above < self.lengths[index] and (at_most is None or self.lengths[index] <= at_most)
        ]


def read_catalog(source: SequenceSource) -> SequenceCatalog:
    """Read the columns once. Raises InputError for an unknown difficulty."""
    difficulty = tuple(source.column("difficulty"))
    unknown = sorted(set(difficulty) - set(DIFFICULTIES))
    if unknown:
        raise InputError(f"the sequences have difficulty {unknown[0]!r}; expected one of {', '.join(DIFFICULTIES)}")
    return SequenceCatalog(
        lengths=source.lengths(),
        difficulty=difficulty,
        score=np.array(source.column("difficulty_score"), dtype=np.float64),
        split=tuple(source.column("split")),
        files=tuple(files[-1] if files else "" for files in source.column("files")),
    )


FIRST_EPOCH_JITTER = 0.3  # the share of chance in the first epoch's order; the last epoch's order is all chance


@dataclass(frozen=True)
class EpochOrder:
    """Sequence indices in training order, how many of them are replay, and how many were left out, by reason."""

    indices: tuple[int, ...]
    replayed: int
    tokens: int
    by_difficulty: dict[str, int]
    left_out: dict[str, int]


def epoch_order(catalog: SequenceCatalog, phase: Phase, epoch: int, settings: Settings) -> EpochOrder:
    """Return the order of the phase's `epoch`-th epoch (from 1).

    *Order*: each sequence has a rank 0..1 by difficulty (class, then score) within the phase and a random number 0..1
    of (seed, phase, epoch). Sorted by (1 - j) × rank + j × random, where j grows evenly from 0.3 in the phase's first
    epoch to 1 in its last: first from easy to hard with some jitter, at the end a plain shuffle; in a
    `shuffled` phase it is one from the start.

    *Cap*: with `training.max_tokens_per_epoch` or `phase.max_tokens` each epoch takes the next stretch of one fixed
    permutation, so that over the epochs all sequences are used. Files are dealt out to the phases by chance, in
    proportion to their epochs. A phase's permutation begins with the sequences of its own files (of these, with those
    in its difficulty bands), so that little is learnt twice before everything was learnt once.

    *Replay*: after phase 1 the share `phase.replay_share` of the epoch's tokens comes from shorter sequences, again by
    stretches of a fixed permutation, spread evenly by chance.
    """
    own, left_out = _phase_sequences(catalog, phase, settings)
    shorter = catalog.indices("train", at_most=phase.above) if phase.replay_share > 0 else []
    share = phase.replay_share if shorter else 0.0
    caps = [tokens for tokens in (settings.training.max_tokens_per_epoch, phase.max_tokens) if tokens is not None]
    cap = min(caps, default=None)
    seed = settings.training.seed
    chosen, dealt = own, set[str]()
    if cap is not None:
        pool = _permute(own, seed, phase.number, 1)
        dealt = _phase_files(catalog, phase, settings)
        pool.sort(key=lambda index: (catalog.files[index] not in dealt, catalog.difficulty[index] not in phase.bands))
        chosen = take_from_pool(pool, catalog.lengths, cap * (1 - share), epoch - 1)
        left_out["token cap"] = len(own) - len(chosen)
    replay: list[int] = []
    if share and chosen:
        wanted = _count_tokens(catalog, chosen) * share / (1 - share)
        again = _permute(shorter, seed, phase.number, 2)
        again.sort(key=lambda index: catalog.files[index] not in dealt)
        replay = take_from_pool(again, catalog.lengths, wanted, epoch - 1)
    left_out["length"] -= len(replay)
    indices = _arrange(catalog, chosen, replay, phase, epoch, seed)
    counts = Counter(catalog.difficulty[index] for index in indices)
    return EpochOrder(
        indices=tuple(indices),
        replayed=len(replay),
        tokens=_count_tokens(catalog, indices),
        by_difficulty={name: counts[name] for name in DIFFICULTIES},
        left_out=left_out,
    )


def limit_updates(
    order: EpochOrder, updates: int, catalog: SequenceCatalog, phase: Phase, settings: Settings
) -> EpochOrder:
    """Return the first `updates` updates of an epoch; the rest counts as left out."""
    training = settings.training
    indices = order.indices[: updates * training.batch_size_reference * training.gradient_accumulation_steps]
    counts = Counter(catalog.difficulty[index] for index in indices)
    return EpochOrder(
        indices=indices,
        replayed=sum(int(catalog.lengths[index]) <= phase.above for index in indices),
        tokens=_count_tokens(catalog, indices),
        by_difficulty={name: counts[name] for name in DIFFICULTIES},
        left_out=order.left_out | {"update limit": len(order.indices) - len(indices)},
    )


def count_updates(order: EpochOrder, settings: Settings) -> int:
    """Return the optimizer updates of an epoch; the last may accumulate fewer batches."""
    batches = math.ceil(len(order.indices) / settings.training.batch_size_reference)
    return math.ceil(batches / settings.training.gradient_accumulation_steps)


def _phase_sequences(catalog: SequenceCatalog, phase: Phase, settings: Settings) -> tuple[list[int], dict[str, int]]:
    in_split = catalog.indices("train")
    fits = [index for index in in_split if phase.takes(int(catalog.lengths[index]))]
    own = fits
    if settings.long_context.strict_difficulty:
        own = [index for index in fits if catalog.difficulty[index] in phase.bands]
    return own, {"length": len(in_split) - len(fits), "difficulty": len(fits) - len(own), "token cap": 0}


def _phase_files(catalog: SequenceCatalog, phase: Phase, settings: Settings) -> set[str]:
    """Return the files dealt out to a phase."""
    others = [one for one in make_schedule(settings) if one.number != phase.number]
    before = sum(one.epochs for one in others if one.number < phase.number)
    every = sum(one.epochs for one in others) + phase.epochs
    names = sorted(set(catalog.files))
    places = _uniform_numbers(len(names), settings.training.seed, 5) * every
    return {name for name, place in zip(names, places, strict=True) if before <= place < before + phase.epochs}


def take_from_pool(pool: Sequence[int], lengths: npt.NDArray[np.int64], budget: float, turn: int) -> list[int]:
    """Return the `turn`-th helping (from 0) of the pool: each begins where the previous one stopped, wraps around at
    the end, and holds at most `budget` tokens, but at least one sequence and none twice."""
    start, taken = 0, list[int]()
    for _ in range(turn + 1 if pool else 0):
        taken, total = [], 0
        for step in range(len(pool)):
            index = pool[(start + step) % len(pool)]
            if taken and total + lengths[index] > budget:
                break
            taken.append(index)
            total += int(lengths[index])
        start = (start + len(taken)) % len(pool)
    return taken


def _arrange(
    catalog: SequenceCatalog, chosen: list[int], replay: list[int], phase: Phase, epoch: int, seed: int
) -> list[int]:
    progress = (epoch - 1) / (phase.epochs - 1) if phase.epochs > 1 else 0.0
    jitter = 1.0 if phase.shuffled else FIRST_EPOCH_JITTER + (1 - FIRST_EPOCH_JITTER) * min(1.0, progress)
    chance = _uniform_numbers(len(chosen), seed, phase.number, 3, epoch)
    ranked = sorted(
        chosen, key=lambda index: (DIFFICULTIES.index(catalog.difficulty[index]), catalog.score[index], index)
    )
    keys = {
        index: (1 - jitter) * rank / max(1, len(ranked) - 1) + jitter * chance[rank]
        for rank, index in enumerate(ranked)
    }
    own = sorted(chosen, key=lambda index: (keys[index], index))
    places = [((place + 0.5) / len(own), 0, index) for place, index in enumerate(own)]
    spread = _uniform_numbers(len(replay), seed, phase.number, 4, epoch)
    places += [(float(place), 1, index) for place, index in zip(spread, replay, strict=True)]
    return [index for _, _, index in sorted(places)]


def _permute(pool: list[int], seed: int, *path: int) -> list[int]:
    return [pool[place] for place in np.argsort(_uniform_numbers(len(pool), seed, *path), kind="stable")]


def _uniform_numbers(count: int, seed: int, *path: int) -> npt.NDArray[np.float64]:
    return np.random.Generator(np.random.PCG64([seed, *path])).random(count)


def _count_tokens(catalog: SequenceCatalog, indices: Sequence[int]) -> int:
    return int(catalog.lengths[list(indices)].sum()) if indices else 0
