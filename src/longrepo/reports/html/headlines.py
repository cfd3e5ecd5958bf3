"""The three most important figures of a run, each with what it means in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from longrepo.evaluation.result import Figure
from longrepo.reports.html.measured import shown
from longrepo.reports.html.run import Run

GIB = 2**30
_FEW = 10  # groups: below it, a bootstrap's interval is too narrow
SHOWN = 3


@dataclass(frozen=True)
class Headline:
    """`good`: True, False, or None where it is neither."""

    value: str
    label: str
    meaning: str
    good: bool | None = None


def headlines(run: Run) -> list[Headline]:
    """What was bought, before how it went, before what it took."""
    found = (_held_out(run), _gain(run), _completed(run), _progress(run), _validation(run), _memory(run))
    return [one for one in found if one is not None][:SHOWN]


def _held_out(run: Run) -> Headline | None:
    if run.evaluation is None or not run.evaluation.comparisons:
        return None
    row = run.evaluation.comparisons[-1]
    share = row.difference / row.base
    better, sure = row.difference < 0, row.certain
    word = "better" if better else "worse"
    doubt = "" if sure else ", which could be chance"
    meaning = (
        f"Tuned predicts lines that training never saw {word} than base{doubt}: {row.tuned:.3f} against {row.base:.3f} "
        f"nats a token, perplexity {math.exp(row.tuned):.1f} against {math.exp(row.base):.1f}. {_interval(row)}"
    )
    label = f"loss on held-out lines, up to {row.cap:,} tokens"
    return Headline(f"{share * 100:+.1f} %".replace("-", "−"), label, meaning, better if sure else None)


def _interval(row: object) -> str:
    low, high, groups = (getattr(row, name) for name in ("low", "high", "groups"))
    if groups < 2:
        return "All of it is from one commit, so there is no interval."
    few = f", too narrow with so few as {groups} commits" if groups < _FEW else f", {groups} commits"
    return f"95 % interval of the difference {low:+.3f} to {high:+.3f}{few}.".replace("-", "−")


def _gain(run: Run) -> Headline | None:
    figure = _longest(run, "gain", "gain", context="related")
    if figure is None:
        return None
    word = "more" if figure.gained else "no more"
    sure = "beyond chance" if figure.certain else "within chance"
    meaning = (
        f"Related files lower the tuned model's loss by {figure.tuned.value:.3f} nats a token, the base's by "
        f"{figure.base.value:.3f}: it makes {word} of its context than base ({sure}, {figure.groups} commits)."
    )
    label = f"nats a token gained from context, {int(figure.parts['length']):,} tokens (base {figure.base.value:+.3f})"
    label = label.replace("-", "−")
    return Headline(f"{figure.tuned.value:+.3f}".replace("-", "−"), label, meaning, _good(figure))


def _completed(run: Run) -> Headline | None:
    figure = _longest(run, "completion", "edit", task="line", place="all")
    if figure is None:
        return None
    sure = "beyond chance" if figure.certain else "within chance"
    meaning = (
        f"Edit similarity of completed lines to what was committed ({sure}, {figure.samples} lines of {figure.groups} "
        "commits)."
    )
    label = f"of the next line as committed (base {shown(figure.base.value, 'share')})"
    return Headline(shown(figure.tuned.value, "share"), label, meaning, _good(figure))


def _good(figure: Figure) -> bool | None:
    return figure.gained if figure.certain else None


def _longest(run: Run, measure: str, metric: str, **parts: str) -> Figure | None:
    figures = run.evaluation.find(measure, metric, **parts) if run.evaluation else []
    return max(figures, key=lambda figure: int(figure.parts.get("length", 0)), default=None)


def _progress(run: Run) -> Headline | None:
    if run.finished or run.snapshot is None:
        return None
    done, of = len(run.history.epochs), run.epochs_planned
    meaning = f"This run isn't finished: {run.history.tokens:,} tokens in {len(run.history.updates):,} updates so far."
    return Headline(f"{done} of {of}", "epochs done", meaning)


def _validation(run: Run) -> Headline | None:
    checks = run.history.validations
    if not checks:
        return None
    first, best = checks[0][1].loss, run.history.best or checks[0]
    value = f"{(best[1].loss / first - 1) * 100:+.1f} %".replace("-", "−")
    meaning = (
        f"From {first:.3f} to {best[1].loss:.3f} nats a token, best after update {best[0]:,}: the weights kept "
        "are the best ones, not the last."
    )
    return Headline(value, "validation loss", meaning, best[1].loss < first)


def _memory(run: Run) -> Headline | None:
    used = max([one.memory.get("peak", 0) for one in run.history.updates], default=0)
    if not used:
        return None
    planned = max((phase["peak"] for phase in (run.plan or {}).get("phases", {}).values()), default=None)
    words = f"Planned {planned / GIB:.2f} GiB" if planned else "Not planned"
    if run.plan:
        words += f", budget {run.plan['budget']['bytes'] / GIB:.1f} GiB ({run.plan['budget']['reason']})"
    count = len(run.history.steps_down)
    downs = f"{count} step{'s' * (count != 1)} down" if count else "no step down was needed"
    return Headline(f"{used / GIB:.2f} GiB", "most memory used", f"{words}; {downs}.")
