"""Print base against tuned, and the checks of sequences for leaks and wrong answers, in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from longrepo.data.contamination import LEAK_KINDS, Leak, LeakCheck
from longrepo.data.dataset import SequenceFile
from longrepo.data.questions.verify import ANSWER_RESULTS, AnswerVerdict
from longrepo.data.questions.write import StoredQuestion
from longrepo.evaluation.controls import CHANGE
from longrepo.evaluation.results import AgainstAdapter, Comparison, Evaluation, Figure
from longrepo.reports.sequences import escape_control

_CHANGE_TEXTS = {
    "own": "this repository's new lines",
    "cross_file": "… of them those that name its other files",
    "task": "{task}",
    "control": "new lines of {repository}",
    "other": "files of {repository}",
    "neutral": "neutral code",
}
_CHANGE_TASKS = {
    "fim": "middles at syntax scopes",
    "next_edit": "the next edit",
    "commit_message": "a commit's subject",
    "callee": "own functions called",
    "arguments": "what they are given",
}
_CHANGE_CONTEXTS = {
    "none": "tuned without other files, base with BM25's",
    "related": "tuned with related files, base with BM25's",
    "retrieved": "both with BM25's files",
}
_TITLES = {
    "context": "The same new lines, behind different other files",
    "gain": "What other files are worth: loss saved against none",
    "line": "By what a line names",
    "completion": "Completions",
    "fim": "Middles at syntax scopes",
    "next_edit": "The next edit, given what its commit is for",
    "commit_message": "A commit's subject, given its hunks",
    "api_use": "Calls of the repository's own functions",
    "question": "Questions that training didn't ask",
    "needle": "A planted definition among decoys",
    "longppl": "LongPPL: tokens that need long context",
    "short": "What short context cost",
    "other": "What was forgotten",
    "control": "Another repository's new lines",
    "neutral": "Neutral code: what was forgotten",
}  # measures as they are printed; the others are for charts
_IN_PROJECT = {"class": "in_project", "context": "related"}


@dataclass(frozen=True)
class _KeyFigure:
    """A row of the short table: a figure at the longest length, under a name of its own."""

    label: str
    measure: str
    metric: str
    parts: Mapping[str, str | int]

    def fits(self, one: Figure) -> bool:
        """Whether it is this figure, at some length."""
        same = all(one.parts.get(name) == value for name, value in self.parts.items())
        return same and (one.measure, one.metric) == (self.measure, self.metric)


_TABLE_STYLE: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
_KEY_FIGURES = (
    _KeyFigure("new lines (loss)", "context", "loss", {"context": "related"}),
    _KeyFigure("saved by related files", "gain", "gain", {"context": "related"}),
    _KeyFigure("lines on own code (loss)", "line", "loss", _IN_PROJECT),
    _KeyFigure("next lines, exact", "completion", "exact", {"task": "line", "place": "all"}),
    _KeyFigure("middles, exact", "completion", "exact", {"task": "fim", "place": "all"}),
    _KeyFigure("middles at scopes (loss)", "fim", "loss", {"scope": "all"}),
    _KeyFigure("next edits (loss)", "next_edit", "loss", {}),
    _KeyFigure("commit subjects (loss)", "commit_message", "loss", {}),
    _KeyFigure("own functions called (loss)", "api_use", "loss", {"what": "callee", "place": "all"}),
    _KeyFigure("questions, exact", "question", "exact", {"kind": "all"}),
    _KeyFigure("planted values, exact", "needle", "exact", {"depth": -1}),
    _KeyFigure("LongPPL (perplexity)", "longppl", "longppl", {}),
    _KeyFigure("short context (loss)", "short", "loss", {}),
    _KeyFigure("other repositories (loss)", "other", "loss", {}),
)


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the comparison on prepared sequences, a table per measure at the longest length, and the notes.

    A quick evaluation has too few samples for all of these: one table holds its most important figures.
    """
    units = group_name(evaluation)
    print_comparison(evaluation.comparisons, console, units)
    print_changes(evaluation, console)
    if evaluation.about.get("amount") == "quick":
        console.print()
        console.print(_key_table(evaluation, units))
        console.print("Few samples; evaluation.json has every figure. Without --quick: all samples.")
    else:
        for measure, title in _TITLES.items():
            figures = _at_longest(evaluation.find(measure))
            if figures:
                console.print()
                console.print(_measure_table(title, figures, units))
    for other in evaluation.against:
        console.print()
        console.print(_against_table(other, units))
    for note in dict.fromkeys(evaluation.notes):
        console.print(f"note: {note}", style="dim", highlight=False, markup=False)


def print_changes(evaluation: Evaluation, console: Console) -> None:
    """Print in percent how tuning changed the loss: of the repository's own lines, of others', and of neutral code."""
    figures = [one for one in evaluation.find(CHANGE) if one.parts.get("language", "all") == "all"]
    if figures:
        table = Table(title="Loss after tuning, in % of the base's", **_TABLE_STYLE)
        table.add_column("")
        for name in ("samples (groups)", "change, 95 % interval", ""):
            table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
        for one in figures:
            table.add_row(change_label(one), f"{one.samples:,} ({one.groups:,})", _change(one), _verdict(one))
        console.print()
        console.print(table)


def change_label(figure: Figure) -> str:
    """Say which text's change a figure is."""
    parts = figure.parts
    task = str(parts.get("task", ""))
    label = _CHANGE_TEXTS[str(parts["text"])].format(**{**parts, "task": _CHANGE_TASKS.get(task, task)})
    if parts.get("language", "all") != "all":
        return f"{label}: {parts['language']}"
    if "base" in parts:
        return f"… {_CHANGE_CONTEXTS[str(parts['tuned'])]}"
    return f"{label} (forgetting)" if parts["text"] == "neutral" else label


def _change(one: Figure) -> str:
    found = one.difference
    return f"{found.value:+.1f} %, " + (f"{found.low:+.1f} to {found.high:+.1f}" if one.groups > 1 else "no interval")


def _verdict(one: Figure) -> str:
    return "" if not one.certain else "better" if one.gained else "worse"


def print_comparison(comparisons: Sequence[Comparison], console: Console, units: str = "commits") -> None:
    """Print one row per length range, and a sentence on what they mean. `units`: what was resampled for intervals."""
    table = _new_table("Held-out loss, nats per target token (lower is better)", f"sequences\n({units})", "targets")
    for row in comparisons:
        table.add_row(
            f"≤ {row.cap:,}",
            f"{row.sequences:,} ({row.groups:,})",
            f"{row.targets:,}",
            f"{row.base:.3f}",
            f"{row.tuned:.3f}",
            _difference(row.difference, row.low, row.high, row.groups),
            "" if not row.certain else "better" if row.difference < 0 else "worse",
        )
    console.print(table)
    console.print(comparison_verdict(comparisons))


def _difference(value: float, low: float, high: float, groups: int) -> str:
    return f"{value:+.3f}, " + (f"{low:+.3f} to {high:+.3f}" if groups > 1 else "no interval")


def group_name(evaluation: Evaluation) -> str:
    """What intervals are over: commits, files, or both."""
    return {"files": "files", "commits and files": "groups"}.get(str(evaluation.about.get("held_out")), "commits")


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


def _key_table(evaluation: Evaluation, units: str) -> Table:
    table = _new_table("At the longest length measured", f"samples\n({units})")
    for key in _KEY_FIGURES:
        for one in _at_longest(evaluation.find(key.measure, key.metric, **key.parts)):
            _add_figure(table, key.label, one)
    return table


def _against_table(other: AgainstAdapter, units: str) -> Table:
    title = f"Against {other.name}, on the same lines"
    table = _new_table(title, f"samples\n({units})", names=("other", "tuned"))
    for key in _KEY_FIGURES:
        for one in _at_longest([one for one in other.figures if key.fits(one)]):
            _add_figure(table, key.label, one)
    for one in other.figures:
        if one.measure == CHANGE and one.parts.get("language", "all") == "all":
            cells = (f"{one.samples:,} ({one.groups:,})", "", "", _change(one), _verdict(one))
            table.add_row(change_label(one), *cells)
    return table


def _measure_table(title: str, figures: Sequence[Figure], units: str) -> Table:
    length = figures[0].parts.get("length")
    table = _new_table(f"{title}, {length:,} tokens" if length else title, f"samples\n({units})")
    several = len({one.metric for one in figures}) > 1
    for one in figures:
        parts = ", ".join(_part_label(name, value) for name, value in one.parts.items() if name != "length")
        said = several or one.metric not in ("loss", "gain", "longppl")
        _add_figure(table, f"{parts} ({one.metric})" if parts and said else parts or one.metric, one)
    return table


def _new_table(title: str, *columns: str, names: Sequence[str] = ("base", "tuned")) -> Table:
    table = Table(title=title, **_TABLE_STYLE)
    table.add_column("")
    for name in (*columns, *names, "difference,\n95 % interval", ""):
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    return table


def _add_figure(table: Table, label: str, one: Figure) -> None:
    table.add_row(
        label,
        f"{one.samples:,} ({one.groups:,})",
        f"{one.base.value:.3f}",
        f"{one.tuned.value:.3f}",
        _difference(one.difference.value, one.difference.low, one.difference.high, one.groups),
        _verdict(one),
    )


def _part_label(name: str, value: str | int) -> str:
    if isinstance(value, str):
        return value.replace("_", " ")
    if name == "depth":
        return "all depths" if value < 0 else f"{value} % down"
    return f"{value:,} tokens"


def print_question_check(checked: list[tuple[StoredQuestion, AnswerVerdict]]) -> None:
    """Print a row for each kind of question, and every answer that was refuted."""
    console = Console()
    counts = Counter((verdict.kind or "unknown", verdict.result) for _, verdict in checked)
    totals = Counter(verdict.result for _, verdict in checked)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("questions", "asked", *ANSWER_RESULTS):
        table.add_column(name, justify="left" if name == "questions" else "right", no_wrap=True)
    for kind in sorted({kind for kind, _ in counts}):
        cells = [counts[kind, result] for result in ANSWER_RESULTS]
        table.add_row(kind, *(f"{n:,}" for n in (sum(cells), *cells)))
    table.add_row(
        "all", *(f"{n:,}" for n in (len(checked), *(totals[result] for result in ANSWER_RESULTS))), style="bold"
    )
    console.print(table)
    for one, verdict in checked:
        if verdict.result == "refuted":
            line = f"row {one.row}: {one.question} {one.answer} – refuted: {verdict.why}"
            console.print(Text("".join(c if c.isprintable() else "\ufffd" for c in line)), soft_wrap=True)


_MAX_SHOWN_LEAKS = 5  # leaks of a kind
_MAX_LEAK_CHARACTERS = 100  # characters of a line

_COMPARED_LABELS = {
    "line": "scored lines",
    "near-duplicate": "scored blocks",
    "commit": "held-out commits",
    "file": "held-out files",
}


def print_leaks(check: LeakCheck, file: SequenceFile, console: Console) -> None:
    """Print what was compared, a table of the kinds of leak, and the first few of each."""
    splits = ", ".join(f"{split} {count:,}" for split, count in check.held_out_rows.items()) or "none"
    total = sum(check.held_out_rows.values())
    console.print(
        f"held-out sequences: {total:,} ({splits}), to train on: {check.training_rows:,} "
        f"({check.training_lines:,} lines)",
        highlight=False,
        soft_wrap=True,
    )
    compared = dict(zip(LEAK_KINDS, (check.scored_lines, check.blocks, check.commits, check.files), strict=True))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("compared", "", "leaks"):
        table.add_column(name, justify="right" if name == "leaks" else "left", no_wrap=True)
    for kind in LEAK_KINDS:
        count = check.count(kind)
        table.add_row(_COMPARED_LABELS[kind], f"{compared[kind]:,}", f"{count:,}", style="bold red" if count else "")
    console.print(table)
    for kind in LEAK_KINDS:
        found = [leak for leak in check.leaks if leak.kind == kind]
        for leak in found[:_MAX_SHOWN_LEAKS]:
            console.print(Text(_leak_sentence(leak, file)), soft_wrap=True)
        if len(found) > _MAX_SHOWN_LEAKS:
            console.print(f"… and {len(found) - _MAX_SHOWN_LEAKS:,} more", style="dim", highlight=False)
    if not check.leaks:
        verdict = "No leak: nothing that validation or test scores is in a training sequence."
        nothing = "No validation or test sequence scores a whole line: there is nothing that could leak."
        console.print(verdict if check.scored_lines else nothing, soft_wrap=True)


def _leak_sentence(leak: Leak, file: SequenceFile) -> str:
    about = file.row(leak.row) if leak.row >= 0 else None
    held_out = f"{leak.split} row {leak.row} ({_leak_source(about)})" if about else f"{leak.split}"
    where = f"{f'line {leak.line} of ' if leak.line else ''}row {leak.found_in} ({file.row(leak.found_in)['split']})"
    shows = escape_control(leak.shows)
    shows = shows if len(shows) <= _MAX_LEAK_CHARACTERS else shows[: _MAX_LEAK_CHARACTERS - 1] + "…"
    return f"  {leak.kind}: {held_out} in {where}: {shows}"


def _leak_source(about: dict[str, object]) -> str:
    files, commits = about["files"], about["commits"]
    assert isinstance(files, list) and isinstance(commits, list)
    return escape_control(", ".join([*files[-1:], *(commit[:10] for commit in commits[-1:])]))
