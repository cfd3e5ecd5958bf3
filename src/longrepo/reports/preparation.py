"""What `prepare` and `tokenize` print: a table of what was built, and what a person should know about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from longrepo.sequences.header import Header
from longrepo.sequences.sequence import DIFFICULTIES

_KINDS = {"hierarchical": "files", "commit_evolution": "commits", "qa": "questions", "window": "windows"}


def show_preparation(console: Console, header: Header, summary: dict[str, Any], written: str, seconds: float) -> None:
    """Print where the data came from, the table of sequences, the account of tokens, and the notes."""
    for facts, found in zip(header.repositories, summary["repositories"], strict=True):
        files, history = found["files"], found["history"]
        languages = ", ".join(f"{name} {one['files']}" for name, one in list(files["languages"].items())[:4])
        weight = f", weight {facts.weight:g}" if facts.weight != 1 else ""
        console.print(
            f"[bold]{facts.name}[/] at {facts.head[:10]}: {files['count']} files ({languages}), "
            f"{_short(files['training_tokens'])} tokens to train on, {history['changes']} changes, "
            f"{found['dependencies']['edges']} imports between files{weight}",
            highlight=False,
        )
    console.print(_table(header))
    for line in _account(header):
        console.print(line, highlight=False)
    if header.redactions:
        kinds = ", ".join(f"{kind} {count}" for kind, count in header.redactions.items())
        console.print(f"redacted: {kinds}", highlight=False)
    for note in header.notes:
        console.print(f"[yellow]note[/] {note}", highlight=False)
    console.print(f"written to [bold]{written}[/] in {seconds:.1f} s", highlight=False, soft_wrap=True)


def show_details(console: Console, summary: dict[str, Any]) -> None:
    """Print what `--verbose` adds: the largest files, the most imported ones, and what was left out and why."""
    for found in summary["repositories"]:
        files, history = found["files"], found["history"]
        several = f"{found['name']}: " if len(summary["repositories"]) > 1 else ""
        for title, rows in (
            ("largest files", [(one["path"], f"{one['characters']:,} characters") for one in files["largest"]]),
            ("most imported", [(one["path"], f"by {one['by']}") for one in found["dependencies"]["most_imported"]]),
            ("files left out", [(why, str(count)) for why, count in files["left_out"].items()]),
            ("commits left out", [(why, str(count)) for why, count in history["commits_left_out"].items()]),
            ("changes left out", [(why, str(count)) for why, count in history["changes_left_out"].items()]),
        ):
            if rows:
                table = Table(
                    title=several + title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0)
                )
                for row in rows:
                    table.add_row(*row)
                console.print(table)


def _table(header: Header) -> Table:
    phases = [str(band["phase"]) for band in header.bands]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("sequences")
    for band in header.bands:
        table.add_column(f"phase {band['phase']} (≤{band['cap']})", justify="right")
    kinds = [kind for kind in _KINDS if any(kind in _cell(header, "train", phase, "kinds") for phase in phases)]
    for kind in kinds:
        table.add_row(_KINDS[kind], *[str(_cell(header, "train", phase, "kinds").get(kind, 0)) for phase in phases])
    table.add_row("to train on", *[_number(header, "train", phase, "sequences") for phase in phases], style="bold")
    table.add_row("  tokens", *[_tokens(header, "train", phase) for phase in phases])
    table.add_row("  filled to", *[_fill(header, phase) for phase in phases])
    table.add_row("  within range", *[_within(header, phase) for phase in phases])
    for difficulty in DIFFICULTIES:
        counts = [str(_cell(header, "train", phase, "difficulties").get(difficulty, 0)) for phase in phases]
        table.add_row(f"  {difficulty.replace('_', ' ')}", *counts, style="dim")
    for split in ("validation", "test"):
        table.add_row(split, *[_number(header, split, phase, "sequences") for phase in phases], style="bold")
    return table


def _account(header: Header) -> Iterator[str]:
    for phase, account in header.accounts.items():
        dropped = sum(account["dropped"].values())
        share = f"{account['used'] / account['tokenized']:.1%}" if account["tokenized"] else "0 %"
        line = f"phase {phase}: {share} of {_short(account['tokenized'])} tokens used"
        if dropped:
            reasons = ", ".join(f"{_short(count)} {why}" for why, count in account["dropped"].items())
            line += f"; dropped: {reasons}"
        yield line


def _cell(header: Header, split: str, phase: str, name: str) -> Any:
    return header.counts.get(split, {}).get(phase, {}).get(name, {})


def _number(header: Header, split: str, phase: str, name: str) -> str:
    return str(_cell(header, split, phase, name) or 0)


def _tokens(header: Header, split: str, phase: str) -> str:
    return _short(_cell(header, split, phase, "tokens") or 0)


def _fill(header: Header, phase: str) -> str:
    count = _cell(header, "train", phase, "sequences")
    cap = next(band["cap"] for band in header.bands if str(band["phase"]) == phase)
    return f"{_cell(header, 'train', phase, 'tokens') / count / cap:.0%}" if count else "–"


def _within(header: Header, phase: str) -> str:
    count = _cell(header, "train", phase, "sequences")
    return f"{_cell(header, 'train', phase, 'within_range') / count:.0%}" if count else "–"


def _short(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 10_000 else f"{count:,}"
