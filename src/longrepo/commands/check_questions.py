"""`longrepo check-questions`: whether the answers in a file of sequences are right, by another route than their own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo.errors import InputError, RunError

if TYPE_CHECKING:
    from longrepo.sequences.questions.check import Verdict
    from longrepo.sequences.questions.rows import Asked


def check_questions(
    sequences: Annotated[
        Path, typer.Argument(metavar="SEQUENCES", help="A folder of sequences, or a .json, .jsonl or .parquet file.")
    ],
    repo: Annotated[list[Path], typer.Option("--repo", help="The repository they were made of; may be repeated.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Check this many of them. [default: all]")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Where their tokenizer is. [default: the model they name]")
    ] = None,
) -> None:
    """Check questions' answers with git and the languages' own syntax; exit status 1 where one isn't confirmed."""
    from longrepo.reports.progress import counting
    from longrepo.repository.repository import Repository
    from longrepo.sequences.header import tokenizer_of
    from longrepo.sequences.questions.rows import check_rows, folders_of, question_rows
    from longrepo.sequences.store import read_sequences

    file = read_sequences(sequences)
    tokenizer = tokenizer_of(file.header, model)
    folders: list[Path] = []
    for path in repo:
        with Repository.open(path) as repository:
            folders.append(repository.path)
    rows = question_rows(file, limit)
    if not rows:
        raise InputError(f"{sequences}: holds no questions to check; prepare with data.question_share above 0")
    with counting("checking questions", len(rows)) as tick:
        checked = check_rows(file, tokenizer, folders_of(file, folders), limit, tick)
    _print(checked)
    wrong = sum(not verdict.confirmed for _, verdict in checked)
    if wrong:
        raise RunError(
            f"{sequences}: {wrong:,} of {len(checked):,} answers not confirmed; make the sequences again, and where "
            "that doesn't help report the questions listed"
        )


def _print(checked: list[tuple[Asked, Verdict]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    asked = Counter(verdict.kind or "unknown" for _, verdict in checked)
    confirmed = Counter(verdict.kind or "unknown" for _, verdict in checked if verdict.confirmed)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("questions", "asked", "confirmed", "refuted"):
        table.add_column(name, justify="left" if name == "questions" else "right", no_wrap=True)
    for kind in sorted(asked):
        table.add_row(kind, *(f"{n:,}" for n in (asked[kind], confirmed[kind], asked[kind] - confirmed[kind])))
    totals = (len(checked), confirmed.total(), len(checked) - confirmed.total())
    table.add_row("all", *(f"{n:,}" for n in totals), style="bold")
    console.print(table)
    for one, verdict in checked:
        if not verdict.confirmed:
            said = f"row {one.row}: {one.question} {one.answer} – refuted: {verdict.why}"
            console.print(Text("".join(c if c.isprintable() else "\ufffd" for c in said)), soft_wrap=True)
