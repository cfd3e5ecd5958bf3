"""Intervals for a mean over things that come in groups: several held-out pieces of one commit are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
Values = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A ratio of sums and the ends of its interval."""

    value: float
    low: float
    high: float


def mean_interval(
    sums: Sequence[float], counts: Sequence[float], groups: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95 % percentile interval of `sum(sums) / sum(counts)`, resampling whole groups (Efron 1979, cluster form).

    With one group there is nothing to resample: the interval is the mean itself, twice.
    """
    interval = paired_intervals([sums], counts, groups, seed, resamples)[0]
    return interval.low, interval.high


def paired_intervals(
    columns: Sequence[Sequence[float]],
    counts: Sequence[float],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
    transform: Callable[[Values], Values] = lambda values: values,
) -> list[Interval]:
    """The interval of `transform(sum(column) / sum(counts))` of each column, and last, of two columns, that of the
    second minus the first; every column sees the same resamples of groups, so that what they share cancels out.

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
