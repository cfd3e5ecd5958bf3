"""Figures out of rows: means over all rows of one kind, with their intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from longrepo.evaluation.bootstrap import Interval, Values, paired_intervals
from longrepo.evaluation.compare import PREPARED
from longrepo.evaluation.layout import CONTEXTS
from longrepo.evaluation.line_class import CLASSES
from longrepo.evaluation.measured import Row
from longrepo.evaluation.result import Estimate, Figure


class Metric(NamedTuple):
    """`transform`: of the mean. `of_tokens`: the mean runs over tokens."""

    unit: str
    better: Literal["lower", "higher"]
    of_tokens: bool
    transform: Callable[[Values], Values] = lambda values: values


_SHARE = Metric("share", "higher", False)
METRICS = {
    "loss": Metric("nats a token", "lower", True),
    "gain": Metric("nats a token", "higher", True),
    "longppl": Metric("perplexity", "lower", True, np.exp),
    "exact": _SHARE,
    "right": _SHARE,
    "edit": _SHARE,
    "identifiers": _SHARE,
}
MEASURES = (
    "context", "gain", "line", "completion", "question", "needle", "longppl", "distance", "position", "short", "other",
)  # fmt: skip
_ORDER = (*CONTEXTS, *CLASSES, "line", "block", "fim", "cross_file", "new", "seen", "all")  # of parts that are words


def figures_of(rows: Iterable[Row], seed: int) -> list[Figure]:
    """One figure for each measure, metric and parts, in the order they are to be read in."""
    found: defaultdict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.count and row.measure != PREPARED:
            found[row.measure, row.metric, *sorted(row.parts.items())].append(row)
    return sorted((_figure(some, seed) for some in found.values()), key=_place)


def _place(figure: Figure) -> tuple[object, ...]:
    parts = [_rank(value) for _, value in sorted(figure.parts.items())]
    return MEASURES.index(figure.measure), list(METRICS).index(figure.metric), parts


def _rank(value: str | int) -> tuple[float, str]:
    """Numbers as they are, negative ones (all, no limit) last; words in the order they are explained in."""
    if isinstance(value, int):
        return (value if value >= 0 else np.inf, "")
    return (_ORDER.index(value) if value in _ORDER else -1, value)


def _figure(rows: Sequence[Row], seed: int) -> Figure:
    first, metric = rows[0], METRICS[rows[0].metric]
    counts, groups = [row.count for row in rows], [row.group for row in rows]
    columns = [[row.base for row in rows], [row.tuned for row in rows]]
    base, tuned, difference = paired_intervals(columns, counts, groups, seed, transform=metric.transform)
    return Figure(
        measure=first.measure,
        metric=first.metric,
        parts=dict(first.parts),
        unit=metric.unit,
        better=metric.better,
        base=_estimate(base),
        tuned=_estimate(tuned),
        difference=_estimate(difference),
        samples=len(rows),
        tokens=round(sum(counts)) if metric.of_tokens else 0,
        groups=len(set(groups)),
        seed=seed,
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(*interval)
