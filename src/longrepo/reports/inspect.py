"""A summary of sequences in the terminal: counts by phase and kind, small histograms, shares."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from longrepo.reports.visible import visible
from longrepo.sequences.lengths import Band, phase_of
from longrepo.sequences.sequence import DIFFICULTIES
from longrepo.sequences.store import SequenceFile

_BLOCKS = " ▁▂▃▄▅▆▇█"
_BINS = 24
_BAR = 24  # characters
_LISTED = 6  # languages, repositories


def phases_of(file: SequenceFile) -> list[int]:
    """The phase of each row by its length; 0 where the header names none."""
    bands = [Band(**band) for band in file.header.bands]
    return [phase_of(int(length), bands) if bands else 0 for length in file.lengths()]


def print_summary(
    file: SequenceFile, rows: Sequence[int], phases: Sequence[int], asked: Mapping[str, Any], console: Console
) -> None:
    """Print what the chosen rows hold."""
    header, lengths = file.header, file.lengths()
    heads = ", ".join(f"{one.name} at {one.head[:10]}" for one in header.repositories)
    chosen = f" ({', '.join(f'{name} {value}' for name, value in asked.items())})" if asked else ""
    tokens = _short(int(lengths[rows].sum()))
    console.print(Text(visible(heads), "bold"), soft_wrap=True)
    console.print(
        Text(f"sequences: {len(rows):,}{chosen}, {tokens} tokens of {header.tokenizer.name}\n"), soft_wrap=True
    )
    console.print(_counts(file, rows, phases))
    console.print()
    console.print(_histograms(file, rows, phases))
    console.print()
    console.print(_shares(file, rows))


def _counts(file: SequenceFile, rows: Sequence[int], phases: Sequence[int]) -> Table:
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


def _histograms(file: SequenceFile, rows: Sequence[int], phases: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("distribution", no_wrap=True)
    for name in ("least", "median", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("0" + "1".rjust(_BINS - 1), no_wrap=True)
    caps = {band["phase"]: band["cap"] for band in file.header.bands}
    lengths = file.lengths()
    if caps:
        _add(table, "length / phase's cap", [lengths[row] / caps[phases[row]] for row in rows])
    _add(table, "difficulty", _picked(file, "difficulty_score", rows))
    parts = [json.loads(text) for text in _picked(file, "difficulty_parts", rows)]
    for name in dict.fromkeys(name for part in parts for name in part):
        _add(table, f"  {name}", [part[name] for part in parts if name in part])
    files = [len(paths) for paths in _picked(file, "files", rows)]
    table.add_row("files in a sequence", f"{min(files)}", f"{np.median(files):g}", f"{max(files)}", "")
    return table


def _add(table: Table, name: str, values: ArrayLike) -> None:
    """A row with the values' range and how they lie in 0..1."""
    numbers: NDArray[np.float64] = np.asarray(values, np.float64)
    counts, _ = np.histogram(numbers.clip(0, 1), _BINS, (0, 1))
    # Bins that hold anything show: the lowest block is for them, the empty one for none.
    heights = np.ceil(counts / counts.max() * (len(_BLOCKS) - 1)).astype(int)
    figures = [f"{number:.2f}" for number in (numbers.min(), np.median(numbers), numbers.max())]
    table.add_row(name, *figures, "".join(_BLOCKS[height] for height in heights))


def _shares(file: SequenceFile, rows: Sequence[int]) -> Table:
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
    levels = Counter(_picked(file, "difficulty", rows))
    _add_shares(table, "difficulty", [(level.replace("_", " "), levels[level]) for level in DIFFICULTIES])
    for column in ("language", "repository"):
        counted = Counter(_picked(file, column, rows)).most_common()
        rest = sum(count for _, count in counted[_LISTED:])
        _add_shares(table, column, [*counted[:_LISTED], ("others", rest)])
    return table


def _add_shares(table: Table, title: str, counted: Iterable[tuple[str, int]]) -> None:
    pairs = [(name, count) for name, count in counted if count]
    total = sum(count for _, count in pairs)
    for number, (name, count) in enumerate(pairs):
        share = count / total
        bar = "█" * max(1, round(share * _BAR))
        table.add_row("" if number else title, escape(visible(name)) or "–", f"{share:.1%}", bar)


def _picked(file: SequenceFile, column: str, rows: Sequence[int]) -> list[Any]:
    values = file.column(column)
    return [values[row] for row in rows]


def _split_order(split: str) -> tuple[int, str]:
    order = ("train", "validation", "test")
    return (order.index(split) if split in order else len(order)), split


def _short(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)
