"""Intervals for a mean over things that come in groups: several held-out pieces of one commit are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_interval(
    sums: Sequence[float], counts: Sequence[float], groups: Sequence[str], seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """The 95 % percentile interval of `sum(sums) / sum(counts)`, resampling whole groups (Efron 1979, cluster form).

    With one group there is nothing to resample: the interval is the mean itself, twice.
    """
    names = sorted(set(groups))
    place = {name: index for index, name in enumerate(names)}
    rows = np.array([place[group] for group in groups])
    totals = np.zeros((len(names), 2))
    np.add.at(totals, rows, np.stack([np.asarray(sums, float), np.asarray(counts, float)], axis=1))
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    resampled = totals[drawn].sum(axis=1)
    low, high = np.percentile(resampled[:, 0] / resampled[:, 1], [2.5, 97.5])
    return float(low), float(high)
