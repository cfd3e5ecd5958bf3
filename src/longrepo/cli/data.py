"""Prepare, tokenize, inspect, check-*.

`longrepo prepare` and `prepare_long_context.py`: from repositories to sequences and a summary.

`longrepo tokenize` and `tokenizers/git_tokenizer_rich.py`: a repository as overlapping windows.

`longrepo inspect`: look at prepared sequences, as a summary or one by one.

`longrepo check-leaks`: whether anything that validation or test scores stands in a training sequence.

`longrepo check-questions`: whether the answers in a file of sequences are right, by another route than their own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrepo import api
from longrepo.cli.options import SequencesArgument, SetOption, TokenizerOption
from longrepo.errors import InputError, RunError

if TYPE_CHECKING:
    from longrepo.data.dataset import SequenceFile


def prepare(
    repo: Annotated[list[Path], typer.Option("--repo", help="Folder of a git repository; may be repeated.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Folder for the sequences and the summary.")],
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", help="How often a repository's text is seen in a phase; one for each --repo. [1]"),
    ] = None,
    max_sequence_length: Annotated[
        int | None,
        typer.Option(
            "--max-sequence-length",
            min=64,
            help="Tokens; raised to the longest of --phases. [default: model.max_position_embeddings]",
        ),
    ] = None,
    phases: Annotated[
        int | None,
        typer.Option(
            "--phases", min=1, help="Build sequences for phases 1 to this. [default: 3, or the last further one]"
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say each step, and list what was left out.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Hub name, model folder or `embedded`. [default: model.name]")
    ] = None,
    revision: Annotated[str, typer.Option("--revision", help="The commit, branch or tag to read.")] = "HEAD",
    overrides: SetOption = None,
) -> None:
    """Analyze repositories and prepare their training sequences."""
    from rich.console import Console

    from longrepo.reports.sequences import show_preparation, show_preparation_details
    from longrepo.reports.training import TerminalProgress

    started, console = time.monotonic(), Console()
    done = api.prepare(
        repo,
        output_dir,
        weight=weight,
        max_sequence_length=max_sequence_length,
        phases=phases,
        config=config,
        model=model,
        revision=revision,
        overrides=overrides or (),
        progress=TerminalProgress(verbose),
    )
    show_preparation(console, done.header, done.summary, str(done.sequences), time.monotonic() - started)
    if verbose:
        show_preparation_details(console, done.summary)


def tokenize(
    repo: Annotated[Path, typer.Option("--repo", help="Folder of the git repository.")],
    output: Annotated[
        Path, typer.Option("--output", help="File (.json, .jsonl, .parquet) or folder (Arrow) for the sequences.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Hub name, model folder or `embedded`. [default: model.name]")
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option("--sequence-length", min=64, help="Longest window in tokens. [default: max_position_embeddings]"),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option("--overlap", min=0, help="Tokens repeated, unscored. [default: data.overlap]")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")] = None,
    overrides: SetOption = None,
    revision: Annotated[str, typer.Option("--revision", help="The commit, branch or tag to read.")] = "HEAD",
    verbose: Annotated[bool, typer.Option("--verbose", help="Say each step, and list what was left out.")] = False,
) -> None:
    """Turn a repository into overlapping windows of tokens for every phase up to a length."""
    from longrepo.config.loader import load_settings
    from longrepo.errors import InputError

    started = time.monotonic()
    settings = load_settings(config, overrides or ())
    length = sequence_length or settings.model.max_position_embeddings
    repeated = settings.data.overlap if overlap is None else overlap
    if repeated >= length:
        raise InputError(f"--overlap {repeated}: must be below --sequence-length ({length})")
    with api.open_repositories([repo], None, revision) as origins:
        from rich.console import Console

        from longrepo.data.dataset import write_sequences
        from longrepo.data.prepare import check_writable
        from longrepo.data.windows import build_windows
        from longrepo.reports.sequences import show_preparation, show_preparation_details
        from longrepo.reports.training import TerminalProgress

        console = Console()
        check_writable(output.parent)
        with api.prepare_tools(settings, model, TerminalProgress(verbose)) as ready:
            prepared = build_windows(origins, settings, ready, length, repeated)
            with ready.watch.count("writing windows", len(prepared.sequences)) as done:
                header = write_sequences(output, prepared.rows(done), prepared.header)
    show_preparation(console, header, prepared.summary, str(output), time.monotonic() - started)
    if verbose:
        show_preparation_details(console, prepared.summary)


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

    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import tokenizer_of
    from longrepo.reports.sequences import phases_of, print_sequence, print_sequences_summary

    file = read_sequences(sequences)
    phases = phases_of(file)
    asked: dict[str, Any] = {"kind": kind, "difficulty": difficulty, "phase": phase, "split": split}
    asked = {name: value for name, value in asked.items() if value is not None}
    rows = _choose_rows(file, phases, asked)
    if index is None:
        print_sequences_summary(file, rows, phases, asked, Console())
        return
    if not 0 <= index < len(rows):
        raise InputError(f"--index {index}: there are {len(rows)} such sequences; give 0 to {len(rows) - 1}")
    tokenizer = tokenizer_of(file.header, model)
    place = f"{index} of {len(rows):,}" + (f" (row {rows[index]})" if asked else "")
    print_sequence(file, rows[index], phases[rows[index]], place, tokenizer, Console())


def _choose_rows(file: SequenceFile, phases: list[int], asked: dict[str, Any]) -> list[int]:
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


def check_leaks(
    sequences: SequencesArgument,
    model: TokenizerOption = None,
) -> None:
    """Check that nothing which validation or test scores stands in training; exit status 1 where something does."""
    from rich.console import Console

    from longrepo.data.contamination import check_leaks as check
    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import tokenizer_of
    from longrepo.reports.sequences import print_leaks
    from longrepo.reports.training import progress_bar

    file = read_sequences(sequences)
    tokenizer = tokenizer_of(file.header, model)
    with progress_bar("comparing sequences", len(file)) as tick:
        found = check(file, tokenizer, tick)
    print_leaks(found, file, Console())
    if found.leaks:
        raise RunError(
            f"{sequences}: {len(found.leaks):,} leaks in {found.rows:,} held-out sequences: what they measure was "
            "trained on; make the sequences again"
        )


def check_questions(
    sequences: SequencesArgument,
    repo: Annotated[list[Path], typer.Option("--repo", help="The repository they were made of; may be repeated.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Check this many of them. [default: all]")] = None,
    model: TokenizerOption = None,
) -> None:
    """Check questions' answers with git and Python's own parser; exit status 1 if one is refuted."""
    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import tokenizer_of
    from longrepo.data.questions.write import check_question_rows, match_folders, question_rows
    from longrepo.reports.sequences import print_question_check
    from longrepo.reports.training import progress_bar
    from longrepo.repository.repository import Repository

    file = read_sequences(sequences)
    tokenizer = tokenizer_of(file.header, model)
    folders: list[Path] = []
    for path in repo:
        with Repository.open(path) as repository:
            folders.append(repository.path)
    rows = question_rows(file, limit)
    if not rows:
        raise InputError(f"{sequences}: holds no questions to check; prepare with data.question_share above 0")
    with progress_bar("checking questions", len(rows)) as tick:
        checked = check_question_rows(file, tokenizer, match_folders(file, folders), limit, tick)
    print_question_check(checked)
    wrong = sum(verdict.result == "refuted" for _, verdict in checked)
    if wrong:
        raise RunError(
            f"{sequences}: {wrong:,} of {len(checked):,} answers refuted; make the sequences again, and if "
            "that doesn't help report the questions listed"
        )
