"""Losses of the same tokens under base and tuned, bootstrap intervals, and the measurements they are made of.

A measurement gives rows of sums that can be added up later. Intervals resample whole groups, as several held-out
pieces of one commit are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from longrepo.engines.base import Batch, Engine
from longrepo.evaluation.results import Example, FigureParts

LossArray = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.int32]
MaskArray = npt.NDArray[np.bool_]


class PairedLosses(NamedTuple):
    """Nats of each token, `[tokens]`, under each model."""

    base: LossArray
    tuned: LossArray

    def at(self, where: slice | MaskArray | npt.NDArray[np.intp]) -> PairedLosses:
        """Return the losses of some of the tokens."""
        return PairedLosses(self.base[where], self.tuned[where])

    def sums(self) -> tuple[float, float]:
        """Return the sums over the tokens, base first."""
        return float(self.base.sum()), float(self.tuned.sum())


def score_both(engine: Engine, ids: IdArray, wanted: MaskArray) -> PairedLosses:
    """Return the loss of each token `[tokens]` given those before it; 0 for the first and for tokens not `wanted`."""
    batch = Batch.of([(ids, wanted.astype(np.float32))], engine.pad_id)
    tuned = engine.score(batch)[0].astype(np.float64)
    with engine.base_only():
        base = engine.score(batch)[0].astype(np.float64)
    return PairedLosses(base, tuned)


def generate_both(engine: Engine, prompt: IdArray, tokens: int) -> tuple[list[int], list[int]]:
    """Return what base and tuned generate greedily after a prompt: at most `tokens` ids each."""
    tuned = engine.generate(prompt.tolist(), tokens)
    with engine.base_only():
        base = engine.generate(prompt.tolist(), tokens)
    return base, tuned


RESAMPLES = 2000
FloatArray = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A ratio of sums and the ends of its interval."""

    value: float
    low: float
    high: float


def mean_interval(
    sums: Sequence[float], counts: Sequence[float], groups: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % percentile interval of `sum(sums) / sum(counts)`, resampling whole groups (Efron 1979, cluster
    form).

    With one group there is nothing to resample: both ends are the mean.
    """
    interval = paired_intervals([sums], counts, groups, seed, resamples)[0]
    return interval.low, interval.high


def paired_intervals(
    columns: Sequence[Sequence[float]],
    counts: Sequence[float],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
    transform: Callable[[FloatArray], FloatArray] = lambda values: values,
) -> list[Interval]:
    """Return the interval of `transform(sum(column) / sum(counts))` for each column and, if there are two, of the
    second minus the first. Every column sees the same resamples of groups, so that what they share cancels out.

    A resample in which nothing was counted is left out.
    """
    names = sorted(set(groups))
    place = {name: index for index, name in enumerate(names)}
    rows = np.array([place[group] for group in groups])
    totals = np.zeros((len(names), len(columns) + 1))
    np.add.at(totals, rows, np.column_stack([*(np.asarray(one, float) for one in columns), np.asarray(counts, float)]))
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    resampled = totals[drawn].sum(axis=1)
    resampled = np.vstack([totals.sum(axis=0), resampled[resampled[:, -1] > 0]])
    means = transform(resampled[:, :-1] / resampled[:, -1:])
    if len(columns) == 2:
        means = np.column_stack([means, means[:, 1] - means[:, 0]])
    low, high = np.percentile(means[1:] if len(means) > 1 else means, [2.5, 97.5], axis=0)
    return [Interval(*map(float, one)) for one in zip(means[0], low, high, strict=True)]


@dataclass(frozen=True)
class MeasurementRow:
    """Part of a figure: the sums of base and tuned over `count` tokens (or samples), all of one group."""

    measure: str
    metric: str
    parts: FigureParts
    group: str
    count: float
    base: float
    tuned: float


@dataclass(frozen=True)
class Measurements:
    """The result of one measurement."""

    rows: Sequence[MeasurementRow] = ()
    examples: Sequence[Example] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> Measurements:
        """Read back what `as_dict` gave."""
        return Measurements(
            [MeasurementRow(**one) for one in tree["rows"]], [Example(**one) for one in tree["examples"]]
        )


@dataclass(frozen=True)
class Measurement:
    """A piece of work of some seconds. For the same data, adapter and seed, equal keys mean equal results; `length`:
    the most tokens that its texts have."""

    key: str
    run: Callable[[Engine], Measurements]
    length: int
