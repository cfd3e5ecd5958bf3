"""`longrepo inspect`: look at prepared sequences, as a summary or one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrepo.commands.arguments import SequencesArgument, TokenizerOption
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.sequences.store import SequenceFile


def inspect(
    sequences: SequencesArgument,
    kind: Annotated[str | None, typer.Option(help="Only hierarchical, commit_evolution, qa or window.")] = None,
    difficulty: Annotated[str | None, typer.Option(help="Only easy, medium, hard or very_hard.")] = None,
    phase: Annotated[int | None, typer.Option(help="Only those of this phase's lengths.")] = None,
    split: Annotated[str | None, typer.Option(help="Only train, validation or test.")] = None,
    index: Annotated[int | None, typer.Option(help="Show this sequence, counted from 0 among those chosen.")] = None,
    model: TokenizerOption = None,
) -> None:
    """Look at sequences: a summary with small histograms, or with --index one of them as the model sees it."""
    from rich.console import Console

    from longrepo.reports.inspect import phases_of, print_summary
    from longrepo.reports.sequence import print_sequence
    from longrepo.sequences.header import tokenizer_of
    from longrepo.sequences.store import read_sequences

    file = read_sequences(sequences)
    phases = phases_of(file)
    asked: dict[str, Any] = {"kind": kind, "difficulty": difficulty, "phase": phase, "split": split}
    asked = {name: value for name, value in asked.items() if value is not None}
    rows = _choose(file, phases, asked)
    if index is None:
        print_summary(file, rows, phases, asked, Console())
        return
    if not 0 <= index < len(rows):
        raise InputError(f"--index {index}: there are {len(rows)} such sequences; give 0 to {len(rows) - 1}")
    tokenizer = tokenizer_of(file.header, model)
    place = f"{index} of {len(rows):,}" + (f" (row {rows[index]})" if asked else "")
    print_sequence(file, rows[index], phases[rows[index]], place, tokenizer, Console())


def _choose(file: SequenceFile, phases: list[int], asked: dict[str, Any]) -> list[int]:
    """The rows that are all that was asked for. Raises InputError where there are none."""
    rows = list(range(len(file)))
    for name, wanted in asked.items():
        values = phases if name == "phase" else file.column(name)
        there = sorted({values[row] for row in rows})
        rows = [row for row in rows if values[row] == wanted]
        if not rows:
            listed = ", ".join(map(str, there)) or "none"
            raise InputError(f"--{name} {wanted}: no such sequences in {file.path} (among those asked for: {listed})")
    if not rows:
        raise InputError(f"{file.path}: holds no sequences; make them again")
    return rows
