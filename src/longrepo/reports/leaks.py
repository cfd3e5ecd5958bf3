"""What the leak check compared and found, in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longrepo.reports.visible import visible
from longrepo.sequences.leaks import LEAKS, Leak, LeakCheck
from longrepo.sequences.store import SequenceFile

_SHOWN = 5  # leaks of a kind
_LONGEST = 100  # characters of a line

_COMPARED = {
    "line": "scored lines",
    "near-duplicate": "scored blocks",
    "commit": "held-out commits",
    "file": "held-out files",
}


def print_leaks(check: LeakCheck, file: SequenceFile, console: Console) -> None:
    """What was compared with what, a table of the kinds of leak, and the first few of each."""
    splits = ", ".join(f"{split} {count:,}" for split, count in check.held_out_rows.items()) or "none"
    total = sum(check.held_out_rows.values())
    console.print(
        f"held-out sequences: {total:,} ({splits}), to train on: {check.training_rows:,} "
        f"({check.training_lines:,} lines)",
        highlight=False,
        soft_wrap=True,
    )
    compared = dict(zip(LEAKS, (check.scored_lines, check.blocks, check.commits, check.files), strict=True))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("compared", "", "leaks"):
        table.add_column(name, justify="right" if name == "leaks" else "left", no_wrap=True)
    for kind in LEAKS:
        count = check.count(kind)
        table.add_row(_COMPARED[kind], f"{compared[kind]:,}", f"{count:,}", style="bold red" if count else "")
    console.print(table)
    for kind in LEAKS:
        found = [leak for leak in check.leaks if leak.kind == kind]
        for leak in found[:_SHOWN]:
            console.print(Text(_sentence(leak, file)), soft_wrap=True)
        if len(found) > _SHOWN:
            console.print(f"… and {len(found) - _SHOWN:,} more", style="dim", highlight=False)
    if not check.leaks:
        verdict = "No leak: nothing that validation or test scores stands in a training sequence."
        nothing = "No validation or test sequence scores a whole line: there is nothing that could leak."
        console.print(verdict if check.scored_lines else nothing, soft_wrap=True)


def _sentence(leak: Leak, file: SequenceFile) -> str:
    about = file.row(leak.row) if leak.row >= 0 else None
    held_out = f"{leak.split} row {leak.row} ({_source(about)})" if about else f"{leak.split}"
    where = f"{f'line {leak.line} of ' if leak.line else ''}row {leak.found_in} ({file.row(leak.found_in)['split']})"
    shows = visible(leak.shows)
    shows = shows if len(shows) <= _LONGEST else shows[: _LONGEST - 1] + "…"
    return f"  {leak.kind}: {held_out} in {where}: {shows}"


def _source(about: dict[str, object]) -> str:
    files, commits = about["files"], about["commits"]
    assert isinstance(files, list) and isinstance(commits, list)
    return visible(", ".join([*files[-1:], *(commit[:10] for commit in commits[-1:])]))
