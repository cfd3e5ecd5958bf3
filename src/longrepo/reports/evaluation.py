"""Print base against tuned as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from longrepo.evaluation.results import Comparison, Evaluation, Figure

_TITLES = {
    "context": "The same new lines, behind different other files",
    "gain": "What other files are worth: loss saved against none",
    "line": "By what a line names",
    "completion": "Completions",
    "question": "Questions that training didn't ask",
    "needle": "A planted definition among decoys",
    "longppl": "LongPPL: tokens that need long context",
    "short": "What short context cost",
    "other": "What was forgotten",
}  # measures as they are printed; the others are for charts


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the comparison on prepared sequences, one table per measure at the longest length, and the notes."""
    print_comparison(evaluation.comparisons, console)
    for measure, title in _TITLES.items():
        figures = _at_longest(evaluation.find(measure))
        if figures:
            console.print()
            console.print(_measure_table(title, figures))
    for note in evaluation.notes:
        console.print(f"note: {note}", style="dim", highlight=False, markup=False)


def print_comparison(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print one row per length range, and a sentence on what they mean."""
    table = Table(title="Held-out loss, nats per target token (lower is better)", title_justify="left")
    for name in ("tokens", "sequences", "targets", "base", "tuned", "difference, 95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparisons:
        interval = f"{row.low:+.3f} to {row.high:+.3f}" if row.groups > 1 else "one commit: none"
        table.add_row(
            f"≤ {row.cap:,}",
            f"{row.sequences} of {row.groups}",
            f"{row.targets:,}",
            f"{row.base:.3f}",
            f"{row.tuned:.3f}",
            f"{row.difference:+.3f}, {interval}",
        )
    console.print(table)
    console.print(comparison_verdict(comparisons))


def comparison_verdict(comparisons: Sequence[Comparison]) -> str:
    """Say in one sentence what the comparison shows."""
    if not comparisons:
        return "There is no held-out sequence to compare on."
    better = [row for row in comparisons if row.difference < 0]
    sure = [row for row in better if row.certain]
    if len(better) == len(comparisons):
        chance = {len(comparisons): "", 0: ", with too few independent commits or files to rule chance out"}
        doubt = chance.get(len(sure), f", beyond chance at {len(sure)} of {len(comparisons)}")
        return f"Tuned is below base at every length{doubt}."
    lengths = ", ".join(f"{row.cap:,}" for row in comparisons if row.difference >= 0)
    worse = any(row.certain and row.difference > 0 for row in comparisons)
    help = "a lower learning rate or fewer epochs" if worse else "more data, more epochs or a higher learning rate"
    return f"Tuned is NOT below base up to {lengths} tokens: {help} may help."


def _at_longest(figures: Sequence[Figure]) -> list[Figure]:
    most = max((int(one.parts.get("length", 0)) for one in figures), default=0)
    return [one for one in figures if int(one.parts.get("length", 0)) == most]


def _measure_table(title: str, figures: Sequence[Figure]) -> Table:
    length = figures[0].parts.get("length")
    table = Table(title=f"{title}, {length:,} tokens" if length else title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for name in ("samples", "base", "tuned", "difference, 95 % interval", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for one in figures:
        parts = ", ".join(_part_label(name, value) for name, value in one.parts.items() if name != "length")
        label = f"{parts} ({one.metric})" if one.metric not in ("loss", "gain", "longppl") else parts
        change = one.difference
        interval = f"{change.low:+.3f} to {change.high:+.3f}" if one.groups > 1 else "one group: none"
        word = "" if not one.certain else "better" if one.gained else "worse"
        table.add_row(
            label,
            f"{one.samples} of {one.groups}",
            f"{one.base.value:.3f}",
            f"{one.tuned.value:.3f}",
            f"{change.value:+.3f}, {interval}",
            word,
        )
    return table


def _part_label(name: str, value: str | int) -> str:
    if isinstance(value, str):
        return value.replace("_", " ")
    if name == "depth":
        return "all depths" if value < 0 else f"{value} % down"
    return f"{value:,} tokens"
