"""Figures from rows: one for each measure, metric and parts, with bootstrap intervals, in reading order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from longrepo.evaluation.context_loss import CONTEXTS, LINE_CLASSES
from longrepo.evaluation.controls import CHANGE, CHANGE_TEXTS, change_rows
from longrepo.evaluation.held_out_loss import PREPARED, make_comparisons
from longrepo.evaluation.results import Comparison, Estimate, Example, Figure
from longrepo.evaluation.scope_tasks import CALL_PARTS
from longrepo.evaluation.scoring import FloatArray, Interval, MeasurementRow, Measurements, paired_intervals
from longrepo.evaluation.tasks import TASK_MEASURES
from longrepo.repository.scopes import SCOPES


class MetricInfo(NamedTuple):
    """A metric. `transform` is applied to its mean; `of_tokens`: the mean runs over tokens."""

    unit: str
    better: Literal["lower", "higher"]
    of_tokens: bool
    transform: Callable[[FloatArray], FloatArray] = lambda values: values


_SHARE_METRIC = MetricInfo("share", "higher", False)
METRICS = {
    "loss": MetricInfo("nats a token", "lower", True),
    "gain": MetricInfo("nats a token", "higher", True),
    "longppl": MetricInfo("perplexity", "lower", True, np.exp),
    "exact": _SHARE_METRIC,
    "right": _SHARE_METRIC,
    "edit": _SHARE_METRIC,
    "identifiers": _SHARE_METRIC,
    "percent": MetricInfo("% of the base's loss", "lower", False, lambda values: 100 * values),
}
MEASURES = (
    CHANGE, "context", "gain", "line", "completion", *TASK_MEASURES, "question", "needle", "longppl",
    "distance", "position", "short", "other", "control", "neutral",
)  # fmt: skip
_PART_ORDER = (
    *CONTEXTS,
    *LINE_CLASSES,
    "line",
    *SCOPES,
    "fim",
    "next_edit",
    "commit_message",
    *CALL_PARTS,
    "cross_file",
    "new",
    "seen",
    "all",
)  # of parts that are words


def make_figures(rows: Iterable[MeasurementRow], seed: int) -> list[Figure]:
    """Return one figure for each measure, metric and parts, in reading order."""
    found: defaultdict[tuple[object, ...], list[MeasurementRow]] = defaultdict(list)
    for row in rows:
        if row.count and row.measure != PREPARED:
            found[row.measure, row.metric, *sorted(row.parts.items())].append(row)
    return sorted((_make_figure(some, seed) for some in found.values()), key=_sort_key)


def _sort_key(figure: Figure) -> tuple[object, ...]:
    is_change = figure.measure == CHANGE
    parts = [_part_rank(value) for name, value in sorted(figure.parts.items()) if name != "text" or not is_change]
    if is_change:
        text = CHANGE_TEXTS.index(str(figure.parts["text"]))
        parts = [(1.5 if "base" in figure.parts else text, ""), *parts]  # lines first, then what BM25 gives them
    return MEASURES.index(figure.measure), list(METRICS).index(figure.metric), parts


def _part_rank(value: str | int) -> tuple[float, str]:
    """Rank numbers by value, negative ones (all, no limit) last, and words in the order of the documentation."""
    if isinstance(value, int):
        return (value if value >= 0 else np.inf, "")
    return (_PART_ORDER.index(value) if value in _PART_ORDER else -1, value)


def _make_figure(rows: Sequence[MeasurementRow], seed: int) -> Figure:
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
        base=_make_estimate(base),
        tuned=_make_estimate(tuned),
        difference=_make_estimate(difference),
        samples=len(rows),
        tokens=round(sum(counts)) if metric.of_tokens else 0,
        groups=len(set(groups)),
        seed=seed,
    )


def _make_estimate(interval: Interval) -> Estimate:
    return Estimate(*interval)


def summarize_measurements(
    found: Sequence[Measurements], seed: int, length: int
) -> tuple[list[Comparison], list[Figure], list[Example]]:
    """Return the comparisons, figures and examples of all measurements, those in percent at a length."""
    rows = [row for one in found for row in (*one.rows, *change_rows(one, length))]
    return make_comparisons(rows), make_figures(rows, seed), [example for one in found for example in one.examples]
