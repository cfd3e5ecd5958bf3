"""The page that compares several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longrepo.reports.html import charts
from longrepo.reports.html.charts import Chart, draw_chart
from longrepo.reports.html.figures import format_value
from longrepo.reports.html.tables import GIB, PageTable, flatten_settings
from longrepo.reports.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_RUN_COLORS = (charts.TUNED, charts.BASE, charts.ACCENT, charts.THIRD)
_RUN_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


def comparison_contents(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Make the contents of the page."""
    names = _run_names(runs)
    return {
        "runs": list(zip(names, runs, strict=True)),
        "overview": _overview_table(names, runs),
        "charts": [*_validation_chart(names, runs), *_difference_chart(names, runs)],
        "settings": _settings_table(names, runs),
        "notes": _comparison_notes(names, runs),
    }


def _run_names(runs: Sequence[RunRecord]) -> list[str]:
    """Name runs by their folders, their parents or their paths: the first of these that distinguishes them."""
    paths = [run.path.resolve() for run in runs]
    ways = ([path.name for path in paths], [path.parent.name for path in paths], [str(run.path) for run in runs])
    return next((names for names in ways if len(set(names)) == len(runs)), ways[-1])


def _comparison_notes(names: Sequence[str], runs: Sequence[RunRecord]) -> list[str]:
    """Say what makes their figures less comparable, and what is missing."""
    notes = []
    if len(_data_rows(runs)) > 1:
        notes.append("They were trained on different sequences, so their validation losses are of different texts.")
    measured = {run.evaluation.about.get("sequences_sha256") for run in runs if run.evaluation}
    if len(measured) > 1:
        notes.append("They were evaluated on different held-out sequences: compare differences, not losses.")
    for name, run in zip(names, runs, strict=True):
        if not run.finished:
            notes.append(f"{name} isn't finished: {len(run.history.epochs)} of {run.epochs_planned} epochs are done.")
        if why := run.missing.get("evaluation"):
            notes.append(f"{name}: {why}")
    return notes


def _data_rows(runs: Sequence[RunRecord]) -> set[str]:
    """Hashes of the sequences they were trained and validated on."""
    return {run.snapshot.identity.data_sha256 for run in runs if run.snapshot}


def _overview_table(names: Sequence[str], runs: Sequence[RunRecord]) -> PageTable:
    columns = (
        "run", "engine", "epochs", "tokens", "hours", "best validation loss", "held-out, base", "tuned",
        "difference", "95 % interval", "most memory",
    )  # fmt: skip
    losses = {number: run.history.best[1].loss for number, run in enumerate(runs) if run.history.best}
    best = {min(losses, key=lambda number: losses[number])} if losses and len(_data_rows(runs)) < 2 else ()
    return PageTable(
        columns, [_overview_row(name, run) for name, run in zip(names, runs, strict=True)], frozenset(best)
    )


def _overview_row(name: str, run: RunRecord) -> list[str]:
    history = run.history
    peak = max((history.used(phase) for phase, _, _ in history.spans), default=0)
    row = [
        name, run.snapshot.identity.engine if run.snapshot else "–",
        f"{len(history.epochs)} of {run.epochs_planned}", f"{history.tokens:,}",
        f"{history.seconds / 3600:.2f}", f"{history.best[1].loss:.4f}" if history.best else "–",
    ]  # fmt: skip
    if run.evaluation and run.evaluation.comparisons:
        one = run.evaluation.comparisons[-1]
        interval = f"{one.low:+.3f} to {one.high:+.3f}" if one.groups > 1 else "one commit: none"
        unit = "nats a token"
        row += [format_value(one.base, unit), format_value(one.tuned, unit), f"{one.difference:+.3f}", interval]
    else:
        row += ["not evaluated", "–", "–", "–"]
    row.append(f"{peak / GIB:.2f} GiB" if peak else "not measured")
    return [cell.replace("-", "−") if cell[:1] in "+-" else cell for cell in row]


def _validation_chart(names: Sequence[str], runs: Sequence[RunRecord]) -> list[Chart]:
    lines = []
    for name, run in zip(names, runs, strict=True):
        tokens = {0: 0}
        for one in run.history.updates:
            tokens[one.update] = tokens[max(tokens)] + one.tokens
        points = [(tokens.get(update, 0), found.loss) for update, found in run.history.validations]
        if len(points) > 1:
            lines.append((name, points))
    if not lines:
        return []

    def paint(axes: Axes, narrow: bool) -> None:
        ends = []
        for number, (name, points) in enumerate(lines):
            colour, dash = _RUN_COLORS[number % 4], _RUN_DASHES[number // 4 % 4]
            axes.plot(*zip(*points, strict=True), color=colour, marker="os^D"[number % 4], markersize=4, linestyle=dash)
            ends.append((*points[-1], name if len(name) < 24 else f"…{name[-20:]}", colour))
        low, high = axes.get_ylim()
        charts.label_ends(axes, ends, (high - low) * 0.07)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f} K")
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("tokens trained on")
        axes.set_ylabel("nats a token")

    says = "; ".join(f"{name} from {points[0][1]:.3f} to {points[-1][1]:.3f}" for name, points in lines)
    return [draw_chart("validation", "Validation loss by tokens trained on", f"Validation loss: {says}.", paint, 280)]


def _difference_chart(names: Sequence[str], runs: Sequence[RunRecord]) -> list[Chart]:
    rows = [
        (name, run.evaluation.comparisons[-1])
        for name, run in zip(names, runs, strict=True)
        if run.evaluation and run.evaluation.comparisons
    ]
    if not rows:
        return []

    def paint(axes: Axes, narrow: bool) -> None:
        axes.axvline(0, color=charts.MUTED, linewidth=1)
        for number, (_, one) in enumerate(rows):
            at = len(rows) - 1 - number
            axes.plot([one.low, one.high], [at, at], color=charts.TUNED)
            axes.plot([one.difference], [at], "o", color=charts.TUNED)
        labels = [name if not narrow or len(name) < 18 else f"…{name[-14:]}" for name, _ in rows]
        axes.set_yticks(range(len(rows) - 1, -1, -1), labels)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="x")
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("nats a token (below 0: better)")

    says = "; ".join(f"{name} {one.difference:+.3f}, {one.low:+.3f} to {one.high:+.3f}" for name, one in rows)
    title = "Held-out loss, tuned minus base, at the longest length"
    return [draw_chart("difference", title, f"{title}: {says}.", paint, 70 + 34 * len(rows))]


def _settings_table(names: Sequence[str], runs: Sequence[RunRecord]) -> PageTable:
    """The settings in which they differ."""
    trees = [dict(flatten_settings(run.settings)) for run in runs]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    rows = [
        [key, *(tree.get(key, "–") for tree in trees)] for key in keys if len({tree.get(key) for tree in trees}) > 1
    ]
    return PageTable(("setting", *names), rows)
