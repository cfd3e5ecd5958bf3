"""Base against tuned, as a model card tells it."""

from __future__ import annotations

from collections.abc import Iterator

from longrepo.evaluation.result import Comparison, Evaluation, Figure
from longrepo.sequences.card import table

_COLUMNS = ("held-out lines", "base", "tuned", "difference", "95 % interval", "samples", "commits")
_SHOWN = (("context", "loss"), ("gain", "gain"), ("completion", "exact"), ("completion", "edit"), ("short", "loss"))


def figures(evaluation: Evaluation | None) -> Iterator[str]:
    """Lines of Markdown: losses by length, then the measures that matter most at the longest length."""
    if evaluation is None or not (evaluation.comparisons or evaluation.figures):
        yield "Not measured: `longrepo evaluate RUN` compares base and tuned on the repository's held-out commits."
        return
    about = evaluation.about
    yield (
        f"Measured on the {about.get('split', 'held-out')} commits that training never saw, with the "
        f"{about.get('engine', '')} engine in {about.get('dtype', '')}, the base as it was trained on. Losses are nats "
        "a token. Intervals by bootstrap over commits, paired; with fewer than about ten commits they are too narrow.\n"
    )
    rows = [_compared(one) for one in evaluation.comparisons]
    yield from table(_COLUMNS, [*rows, *(_measured(one) for one in _most_important(evaluation))])
    yield from (f"\n{note}" for note in evaluation.notes)


def _most_important(evaluation: Evaluation) -> Iterator[Figure]:
    for measure, metric in _SHOWN:
        found = evaluation.find(measure, metric)
        most = max((int(one.parts.get("length", 0)) for one in found), default=0)
        yield from (one for one in found if int(one.parts.get("length", 0)) == most)


def _compared(row: Comparison) -> tuple[str, ...]:
    interval = f"{row.low:+.3f} to {row.high:+.3f}" if row.groups > 1 else "one commit: none"
    counts = f"{row.sequences:,}", f"{row.groups:,}"
    label = f"loss, sequences of up to {row.cap:,} tokens"
    return label, f"{row.base:.3f}", f"{row.tuned:.3f}", f"{row.difference:+.3f}", interval, *counts


def _measured(one: Figure) -> tuple[str, ...]:
    parts = ", ".join(f"{name.replace('_', ' ')} {value}".replace("_", " ") for name, value in one.parts.items())
    change = one.difference
    interval = f"{change.low:+.3f} to {change.high:+.3f}" if one.groups > 1 else "one commit: none"
    values = f"{one.base.value:.3f}", f"{one.tuned.value:.3f}", f"{change.value:+.3f}"
    return f"{one.measure} {one.metric}: {parts}", *values, interval, f"{one.samples:,}", f"{one.groups:,}"
