"""Sequences in the terminal: what `prepare` and `inspect` print.

Text of a repository is escaped: characters that could move the cursor, colour or reorder the text are shown instead. A
single sequence is shown as the model sees it: marks as labels, loss weights by style and in the margin.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from longrepo.data.dataset import SequenceFile
from longrepo.data.lint import LINT_RULES, LintReport
from longrepo.data.marks import COMMIT_END, COMMIT_START, FILE_END, FILE_START, HUNKS, REPOSITORY, SNIPPET_TOKENS
from longrepo.data.metadata import Header
from longrepo.data.packing import Band, phase_of
from longrepo.data.sequence import DIFFICULTIES
from longrepo.data.stored_text import special_token_mask
from longrepo.data.tokenizer import END_OF_TEXT, RepoTokenizer

_KIND_LABELS = {"hierarchical": "files", "commit_evolution": "commits", "qa": "questions", "window": "windows"}


def show_preparation(console: Console, header: Header, summary: dict[str, Any], written: str, seconds: float) -> None:
    """Print where the data came from, the table of sequences, the account of tokens, and the notes."""
    for facts, found in zip(header.repositories, summary["repositories"], strict=True):
        files, history = found["files"], found["history"]
        languages = ", ".join(f"{name} {one['files']}" for name, one in list(files["languages"].items())[:4])
        weight = f", weight {facts.weight:g}" if facts.weight != 1 else ""
        console.print(
            f"[bold]{facts.name}[/] at {facts.head[:10]}: {files['count']} files ({languages}), "
            f"{_short_count(files['training_tokens'])} tokens to train on, {_change_count(history)}, "
            f"{found['dependencies']['edges']} imports between files{weight}",
            highlight=False,
        )
        for line in _left_out_lines(files, history):
            console.print(line, highlight=False, markup=False)
    console.print(f"marks: {header.tokenizer.marked_by or header.tokenizer.kind}", highlight=False, markup=False)
    console.print(_sequence_table(header))
    for line in _token_account(header):
        console.print(line, highlight=False)
    if header.redactions:
        kinds = ", ".join(f"{kind} {count}" for kind, count in header.redactions.items())
        console.print(f"redacted: {kinds}", highlight=False)
    for note in header.notes:
        console.print(f"[yellow]note[/] {note}", highlight=False)
    console.print(f"written to [bold]{written}[/] in {seconds:.1f} s", highlight=False, soft_wrap=True)


_CHANGE = "change: "  # begins the reasons for which changes of a commit are left out, not the commit


def _left_out_changes(history: dict[str, Any]) -> Counter[str]:
    """Reason → changes of a file that are not learned from."""
    found = Counter[str]()
    for reason, count in (*history["changes_left_out"].items(), *history["commits_left_out"].items()):
        if reason in history["changes_left_out"] or reason.startswith(_CHANGE):
            found[reason.removeprefix(_CHANGE)] += count
    return found


def _change_count(history: dict[str, Any]) -> str:
    changes, left_out = history["changes"], _left_out_changes(history).total()
    count = f"{changes:,} of {changes + left_out:,}" if left_out else f"{changes:,}"
    return f"{count} {'change' if changes + left_out == 1 else 'changes'} to files"


def _left_out_lines(files: dict[str, Any], history: dict[str, Any]) -> Iterator[str]:
    if files["left_out"]:
        listed = "; ".join(f"{why} ({count:,})" for why, count in Counter(files["left_out"]).most_common())
        ruled = _by_rule(files["left_out_files"])
        hint = " (--verbose says by which rule; data.include uses a file all the same)" if ruled else ""
        yield f"  files left out: {listed}{hint}"
    commits = {why: count for why, count in history["commits_left_out"].items() if not why.startswith(_CHANGE)}
    for what, reasons in (("changes", _left_out_changes(history)), ("commits", Counter(commits))):
        if reasons:
            yield f"  {what} left out: " + "; ".join(f"{why} ({count:,})" for why, count in reasons.most_common())


def show_preparation_details(console: Console, summary: dict[str, Any]) -> None:
    """Print what `--verbose` adds: the largest files, the most imported ones, and what was left out and why."""
    for found in summary["repositories"]:
        files = found["files"]
        several = f"{found['name']}: " if len(summary["repositories"]) > 1 else ""
        for title, rows in (
            ("largest files", [(one["path"], f"{one['characters']:,} characters") for one in files["largest"]]),
            ("most imported", [(one["path"], f"by {one['by']}") for one in found["dependencies"]["most_imported"]]),
            ("files left out", [(why, str(count)) for why, count in files["left_out"].items()]),
            ("of these, by rule", [(one["path"], one["rule"]) for one in _by_rule(files["left_out_files"])]),
        ):
            if rows:
                table = Table(
                    title=several + title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0)
                )
                for row in rows:
                    table.add_row(*row)
                console.print(table)


def _by_rule(left_out: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    """Return the listed files that a rule left out, so that they can be used after all."""
    return [one for listed in left_out.values() for one in listed if one["rule"]]


def _sequence_table(header: Header) -> Table:
    phases = [str(band["phase"]) for band in header.bands]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("sequences")
    for band in header.bands:
        table.add_column(f"phase {band['phase']} (≤{band['cap']})", justify="right")
    kinds = [
        kind for kind in _KIND_LABELS if any(kind in _count_cell(header, "train", phase, "kinds") for phase in phases)
    ]
    for kind in kinds:
        table.add_row(
            _KIND_LABELS[kind], *[str(_count_cell(header, "train", phase, "kinds").get(kind, 0)) for phase in phases]
        )
    table.add_row(
        "to train on", *[_sequence_count(header, "train", phase, "sequences") for phase in phases], style="bold"
    )
    table.add_row("  tokens", *[_token_count(header, "train", phase) for phase in phases])
    table.add_row("  filled to", *[_fill_share(header, phase) for phase in phases])
    table.add_row("  within range", *[_within_range(header, phase) for phase in phases])
    for difficulty in DIFFICULTIES:
        counts = [str(_count_cell(header, "train", phase, "difficulties").get(difficulty, 0)) for phase in phases]
        table.add_row(f"  {difficulty.replace('_', ' ')}", *counts, style="dim")
    for split in ("validation", "test"):
        table.add_row(split, *[_sequence_count(header, split, phase, "sequences") for phase in phases], style="bold")
    return table


def _token_account(header: Header) -> Iterator[str]:
    for phase, account in header.accounts.items():
        dropped = sum(account["dropped"].values())
        share = f"{account['used'] / account['tokenized']:.1%}" if account["tokenized"] else "0 %"
        line = f"phase {phase}: {share} of {_short_count(account['tokenized'])} tokens used"
        if dropped:
            reasons = ", ".join(f"{_short_count(count)} {why}" for why, count in account["dropped"].items())
            line += f"; dropped: {reasons}"
        yield line


def _count_cell(header: Header, split: str, phase: str, name: str) -> Any:
    return header.counts.get(split, {}).get(phase, {}).get(name, {})


def _sequence_count(header: Header, split: str, phase: str, name: str) -> str:
    return str(_count_cell(header, split, phase, name) or 0)


def _token_count(header: Header, split: str, phase: str) -> str:
    return _short_count(_count_cell(header, split, phase, "tokens") or 0)


def _fill_share(header: Header, phase: str) -> str:
    count = _count_cell(header, "train", phase, "sequences")
    cap = next(band["cap"] for band in header.bands if str(band["phase"]) == phase)
    return f"{_count_cell(header, 'train', phase, 'tokens') / count / cap:.0%}" if count else "–"


def _within_range(header: Header, phase: str) -> str:
    count = _count_cell(header, "train", phase, "sequences")
    return f"{_count_cell(header, 'train', phase, 'within_range') / count:.0%}" if count else "–"


def _short_count(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 10_000 else f"{count:,}"


def escape_control(text: str) -> str:
    """Spell out control and format characters, except line breaks and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"‹{code:04X}›"


_HISTOGRAM_BLOCKS = " ▁▂▃▄▅▆▇█"
_HISTOGRAM_BINS = 24
_BAR_WIDTH = 24  # characters
_MAX_LISTED = 6  # languages, repositories


def phases_of(file: SequenceFile) -> list[int]:
    """The phase of each row by its length; 0 if the header names no phases."""
    bands = [Band(**band) for band in file.header.bands]
    return [phase_of(int(length), bands) if bands else 0 for length in file.lengths()]


def print_sequences_summary(
    file: SequenceFile, rows: Sequence[int], phases: Sequence[int], asked: Mapping[str, Any], console: Console
) -> None:
    """Print a summary of the chosen rows: counts by phase and kind, small histograms, shares."""
    header, lengths = file.header, file.lengths()
    heads = ", ".join(f"{one.name} at {one.head[:10]}" for one in header.repositories)
    chosen = f" ({', '.join(f'{name} {value}' for name, value in asked.items())})" if asked else ""
    tokens = _short_tokens(int(lengths[rows].sum()))
    console.print(Text(escape_control(heads), "bold"), soft_wrap=True)
    console.print(Text(f"sequences: {len(rows):,}{chosen}, {tokens} tokens of {header.tokenizer.name}"), soft_wrap=True)
    console.print(Text(f"marks: {header.tokenizer.marked_by or header.tokenizer.kind}\n"), soft_wrap=True)
    console.print(_counts_table(file, rows, phases))
    console.print()
    console.print(_histogram_table(file, rows, phases))
    console.print()
    console.print(_shares_table(file, rows))


_LINT_EXAMPLES, _MAX_LINT_CHARACTERS = 3, 110


def print_lint(report: LintReport, phases: Sequence[int], console: Console) -> None:
    """Print what each rule looked at and found, then the first few findings of each."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("rule", "checked", "found", "in sequences", "what it finds"):
        table.add_column(name, justify="right" if name in ("checked", "found", "in sequences") else "left")
    for rule, about in LINT_RULES.items():
        counts = [f"{one[rule]:,}" for one in (report.checked, report.found, report.rows_found)]
        style = "bold red" if report.found[rule] else "" if report.checked[rule] else "dim"
        table.add_row(Text(rule, no_wrap=True), *counts, about, style=style)
    console.print(table)
    for rule in LINT_RULES:
        for one in report.examples.get(rule, [])[:_LINT_EXAMPLES]:
            of = f"phase {phases[one.row]}, " if phases[one.row] else ""
            shows = escape_control(one.shows)
            shows = shows if len(shows) <= _MAX_LINT_CHARACTERS else shows[: _MAX_LINT_CHARACTERS - 1] + "…"
            console.print(Text(f"  {rule}: {of}sequence {one.row}: {shows}"), soft_wrap=True)
    if report.unrelated:
        said = f"{report.unrelated:,} sequences show one file of no use, no more than are meant to"
        console.print(f"{said} (data.hard_negative_share).", highlight=False)
    if not report.findings:
        console.print(f"Nothing found in {report.rows:,} sequences.", highlight=False)


def _counts_table(file: SequenceFile, rows: Sequence[int], phases: Sequence[int]) -> Table:
    splits, kinds = file.column("split"), file.column("kind")
    counts = Counter((splits[row], kind, phases[row]) for row in rows for kind in (kinds[row], ""))
    caps = {band["phase"]: band["cap"] for band in file.header.bands}
    shown = sorted({phases[row] for row in rows})
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("sequences", no_wrap=True)
    for phase in shown:
        table.add_column(f"phase {phase} (≤{caps[phase]:,})" if phase else "any length", justify="right")
    table.add_column("all", justify="right")
    for split in sorted({splits[row] for row in rows}, key=_split_order):
        for kind in ["", *sorted({kinds[row] for row in rows if splits[row] == split})]:
            cells = [counts[split, kind, phase] for phase in shown]
            name, style = (f"  {kind}", "") if kind else (split, "bold")
            table.add_row(name, *[f"{cell:,}" for cell in cells], f"{sum(cells):,}", style=style)
    return table


def _histogram_table(file: SequenceFile, rows: Sequence[int], phases: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("distribution", no_wrap=True)
    for name in ("least", "median", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("0" + "1".rjust(_HISTOGRAM_BINS - 1), no_wrap=True)
    caps = {band["phase"]: band["cap"] for band in file.header.bands}
    lengths = file.lengths()
    if caps:
        _add_histogram(table, "length / phase's cap", [lengths[row] / caps[phases[row]] for row in rows])
    _add_histogram(table, "difficulty", _column_values(file, "difficulty_score", rows))
    parts = [json.loads(text) for text in _column_values(file, "difficulty_parts", rows)]
    for name in dict.fromkeys(name for part in parts for name in part):
        _add_histogram(table, f"  {name}", [part[name] for part in parts if name in part])
    files = [len(paths) for paths in _column_values(file, "files", rows)]
    table.add_row("files in a sequence", f"{min(files)}", f"{np.median(files):g}", f"{max(files)}", "")
    return table


def _add_histogram(table: Table, name: str, values: ArrayLike) -> None:
    """Add a row with the values' range and a histogram over 0..1."""
    numbers: NDArray[np.float64] = np.asarray(values, np.float64)
    counts, _ = np.histogram(numbers.clip(0, 1), _HISTOGRAM_BINS, (0, 1))
    # Bins that hold anything show: the lowest block is for them, the empty one for none.
    heights = np.ceil(counts / counts.max() * (len(_HISTOGRAM_BLOCKS) - 1)).astype(int)
    figures = [f"{number:.2f}" for number in (numbers.min(), np.median(numbers), numbers.max())]
    table.add_row(name, *figures, "".join(_HISTOGRAM_BLOCKS[height] for height in heights))


def _shares_table(file: SequenceFile, rows: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("shares", no_wrap=True)
    table.add_column("", overflow="ellipsis", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    weights: Counter[str] = Counter()
    for row in rows:
        here = file.weights(row)
        full, none = int((here == 1).sum()), int((here == 0).sum())
        weights.update({"target (1)": full, "context": len(here) - full - none, "not scored (0)": none})
    _add_shares(table, "tokens by loss weight", weights.items())
    levels = Counter(_column_values(file, "difficulty", rows))
    _add_shares(table, "difficulty", [(level.replace("_", " "), levels[level]) for level in DIFFICULTIES])
    for column in ("language", "repository"):
        counted = Counter(_column_values(file, column, rows)).most_common()
        rest = sum(count for _, count in counted[_MAX_LISTED:])
        _add_shares(table, column, [*counted[:_MAX_LISTED], ("others", rest)])
    return table


def _add_shares(table: Table, title: str, counted: Iterable[tuple[str, int]]) -> None:
    pairs = [(name, count) for name, count in counted if count]
    total = sum(count for _, count in pairs)
    for number, (name, count) in enumerate(pairs):
        share = count / total
        bar = "█" * max(1, round(share * _BAR_WIDTH))
        table.add_row("" if number else title, escape(escape_control(name)) or "–", f"{share:.1%}", bar)


def _column_values(file: SequenceFile, column: str, rows: Sequence[int]) -> list[Any]:
    values = file.column(column)
    return [values[row] for row in rows]


def _split_order(split: str) -> tuple[int, str]:
    order = ("train", "validation", "test")
    return (order.index(split) if split in order else len(order)), split


def _short_tokens(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)


_TARGET_STYLE, _CONTEXT_STYLE, _UNSCORED_STYLE = "bold", "", "dim"
_HEADING_STYLE = "bold cyan"
_MARK_STYLES = {
    FILE_START: "cyan",
    FILE_END: "cyan",
    COMMIT_START: "magenta",
    COMMIT_END: "magenta",
    HUNKS: "magenta",
    REPOSITORY: "blue",
    END_OF_TEXT: "red",
}
# A mark that begins a line, and whose line is a heading.
_OPENING_MARKS = (FILE_START, COMMIT_START, HUNKS, REPOSITORY, *SNIPPET_TOKENS)
_TAB_WIDTH = 4  # columns
_MAX_NAMES = 12  # columns before a fact


@dataclass
class _ScreenLine:
    """A line for the screen, with the weights of its text."""

    text: Text = field(default_factory=Text)
    weights: list[float] = field(default_factory=list)  # of its text and marks
    blank: float = 0.0  # of its white space
    heading: bool = False

    def margin(self) -> str:
        """The sign in the margin: █ all of it is target, ▌ part of it, ▒ context, blank not scored."""
        weights = self.weights or [self.blank]
        if all(weight == 1 for weight in weights):
            return "█"
        return "▌" if 1 in weights else "▒" if any(weights) else " "


def print_sequence(
    file: SequenceFile, row: int, phase: int, place: str, tokenizer: RepoTokenizer, console: Console
) -> None:
    """Print the row's facts, a legend, and its text."""
    about = file.row(row)
    for name, value in _row_facts(about, phase, place):
        label = Text(name.ljust(_MAX_NAMES))
        _print_wrapped(console, label, value, Text(" " * _MAX_NAMES))
    console.print()
    green = "green" if about["split"] != "train" else ""
    for line in _screen_lines(about, tokenizer):
        margin = line.margin()
        sign = Text(f"{margin} ", green if margin in "█▌" else "")
        _print_wrapped(console, sign, line.text, sign)


def _print_wrapped(console: Console, before: Text, text: Text, before_rest: Text) -> None:
    """Print text wrapped to the terminal with `before` repeated; unwrapped if it goes to a file or pipe."""
    text.expand_tabs(_TAB_WIDTH)
    room = console.width - before.cell_len
    parts = text.wrap(console, room, overflow="fold") if console.is_terminal and text.cell_len > room else [text]
    for number, part in enumerate(parts):
        console.print(Text.assemble(before_rest if number else before, part), soft_wrap=True)


def _row_facts(about: dict[str, Any], phase: int, place: str) -> Iterator[tuple[str, Text]]:
    of = f", phase {phase}" if phase else ""
    kind = f"{about['kind']}, {about['split']}{of}, {len(about['input_ids']):,} tokens"
    yield "sequence", Text.assemble((place, "bold"), f": {kind}")
    parts = ", ".join(f"{name} {value:.2f}" for name, value in json.loads(about["difficulty_parts"]).items())
    level = f"{about['difficulty'].replace('_', ' ')}, {about['difficulty_score']:.2f}"
    yield "difficulty", Text(f"{level}{f' ({parts})' if parts else ''}")
    yield "repository", Text(f"{escape_control(about['repository']) or '–'}, {about['language']}")
    yield "files", Text(escape_control(", ".join(about["files"])) or "–")
    yield "commits", Text(", ".join(commit[:10] for commit in about["commits"]) or "–")
    yield "weights", _weight_legend(about["loss_weights"])


def _weight_legend(weights: list[float]) -> Text:
    between = sorted({round(weight, 4) for weight in weights} - {0.0, 1.0})
    context = f"context ({', '.join(f'{weight:g}' for weight in between)})" if between else "context"
    return Text.assemble(
        ("█ target (1)", _TARGET_STYLE), f"  ▌ in part  ▒ {context}  ", ("  not scored (0)", _UNSCORED_STYLE)
    )


def _screen_lines(about: dict[str, Any], tokenizer: RepoTokenizer) -> Iterator[_ScreenLine]:
    line, places = _ScreenLine(), tokenizer.marks.places
    for text, weight, is_mark in _weighted_pieces(about, tokenizer):
        if is_mark:
            place = places.get(text, text)
            if place in _OPENING_MARKS and line.text:
                yield line
                line = _ScreenLine()
            colour = _MARK_STYLES.get(place, "green" if place in SNIPPET_TOKENS else "yellow")
            line.text.append(text, f"{colour} reverse")
            line.weights.append(weight)
            line.heading = place in _OPENING_MARKS
            continue
        for number, part in enumerate(text.split("\n")):
            if number:
                yield line
                line = _ScreenLine(blank=weight)
            if part:
                style = _TARGET_STYLE if weight == 1 else _CONTEXT_STYLE if weight else _UNSCORED_STYLE
                line.text.append(escape_control(part), _HEADING_STYLE if line.heading else style)
                line.weights += [weight] if part.strip() else []
    if line.text:
        yield line


def _weighted_pieces(about: dict[str, Any], tokenizer: RepoTokenizer) -> Iterator[tuple[str, float, bool]]:
    """Yield stretches of text of one weight, and marks one by one."""
    ids, weights = np.array(about["input_ids"]), np.array(about["loss_weights"])
    marks = special_token_mask(tokenizer)[ids]
    changes = (np.diff(weights) != 0) | marks[1:] | marks[:-1]
    for part in np.split(np.arange(len(ids)), np.flatnonzero(changes) + 1):
        yield tokenizer.decode(ids[part].tolist()), float(weights[part[0]]), bool(marks[part[0]])
