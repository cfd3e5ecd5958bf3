"""`longrepo check-questions`: whether the answers in a file of sequences are right, by another route than their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longrepo.commands.arguments import SequencesArgument, TokenizerOption
from longrepo.errors import InputError, RunError


def check_questions(
    sequences: SequencesArgument,
    repo: Annotated[list[Path], typer.Option("--repo", help="The repository they were made of; may be repeated.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Check this many of them. [default: all]")] = None,
    model: TokenizerOption = None,
) -> None:
    """Check questions' answers with git and the languages' own syntax; exit status 1 where one isn't confirmed."""
    from longrepo.reports.progress import counting
    from longrepo.reports.questions import print_checked
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
    print_checked(checked)
    wrong = sum(not verdict.confirmed for _, verdict in checked)
    if wrong:
        raise RunError(
            f"{sequences}: {wrong:,} of {len(checked):,} answers not confirmed; make the sequences again, and where "
            "that doesn't help report the questions listed"
        )
