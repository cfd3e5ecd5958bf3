"""Prepare, tokenize, inspect, check-*.

`longrepo prepare` and `prepare_long_context.py`: from repositories to sequences and a summary.

`longrepo tokenize` and `tokenizers/git_tokenizer_rich.py`: a repository as overlapping windows.

`longrepo inspect`: look at prepared sequences, as a summary or one by one.

`longrepo check-leaks`: whether anything that validation or test scores stands in a training sequence.

`longrepo check-questions`: whether the answers in a file of sequences are right, by another route than their own.

What the commands that prepare sequences share: repositories with their weights, and the tools for the work.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrepo.cli.options import SequencesArgument, SetOption, TokenizerOption
from longrepo.config.schema import Settings
from longrepo.errors import InputError, RunError

if TYPE_CHECKING:
    from longrepo.data.dataset import SequenceFile
    from longrepo.data.difficulty import Scorer
    from longrepo.data.prepare import PreparationTools, RepositorySpec
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.engines.registry import EngineSelection


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
    from longrepo.config.load import load_settings

    started = time.monotonic()
    settings = load_settings(config, overrides or ())
    with open_repositories(repo, weight, revision) as origins:
        from rich.console import Console

        from longrepo.data.packing import last_phase
        from longrepo.data.prepare import SEQUENCES_FOLDER, check_writable, write_prepared
        from longrepo.data.prepare import prepare as build
        from longrepo.reports.sequences import show_preparation, show_preparation_details

        console = Console()
        check_writable(output_dir)
        length = max_sequence_length or settings.model.max_position_embeddings
        with prepare_tools(settings, model, verbose) as ready:
            prepared = build(origins, settings, ready, phases or last_phase(settings.long_context), length)
            header = write_prepared(output_dir, prepared, ready.watch)
    show_preparation(console, header, prepared.summary, str(output_dir / SEQUENCES_FOLDER), time.monotonic() - started)
    if verbose:
        show_preparation_details(console, prepared.summary)


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
    from longrepo.config.load import load_settings
    from longrepo.errors import InputError

    started = time.monotonic()
    settings = load_settings(config, overrides or ())
    length = sequence_length or settings.model.max_position_embeddings
    repeated = settings.data.overlap if overlap is None else overlap
    if repeated >= length:
        raise InputError(f"--overlap {repeated}: must be below --sequence-length ({length})")
    with open_repositories([repo], None, revision) as origins:
        from rich.console import Console

        from longrepo.data.dataset import write_sequences
        from longrepo.data.prepare import check_writable
        from longrepo.data.windows import build_windows
        from longrepo.reports.sequences import show_preparation, show_preparation_details

        console = Console()
        check_writable(output.parent)
        with prepare_tools(settings, model, verbose) as ready:
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


_MAX_WORKERS = 8


@contextmanager
def open_repositories(
    repos: Sequence[Path], weights: Sequence[float] | None, revision: str
) -> Iterator[list[RepositorySpec]]:
    """The repositories at a revision, as long as the block lasts.

    Raises InputError where one can't be read, is named twice, or the weights don't match.
    """
    from longrepo.repository.repository import Repository

    given = list(weights or [1.0] * len(repos))
    if len(given) != len(repos):
        raise InputError(f"--weight is given {len(given)} times and --repo {len(repos)} times; give one for each")
    if wrong := [weight for weight in given if not 0 < weight <= 10]:
        raise InputError(f"--weight {wrong[0]:g}: expected a number above 0 and at most 10")
    with ExitStack() as stack:
        found = [stack.enter_context(Repository.open(path)) for path in repos]
        paths = [repository.path for repository in found]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise InputError(f"--repo {twice}: given twice; use --weight 2 to have it count twice")
        commits = [repository.resolve(revision) for repository in found]
        from longrepo.data.prepare import RepositorySpec

        yield [RepositorySpec(*one) for one in zip(found, commits, given, strict=True)]


@contextmanager
def prepare_tools(
    settings: Settings, model: str | None, verbose: bool, choice: EngineSelection | None = None
) -> Iterator[PreparationTools]:
    """The tokenizer of `model` (else of the settings), the cache, and a terminal that shows how far the work is.
    `choice`: the engine that scores difficulty; default: as `auto` chooses."""
    from longrepo.data.prepare import PreparationTools
    from longrepo.data.tokenizer import load_tokenizer
    from longrepo.reports.training import TerminalProgress
    from longrepo.utils.cache import SqliteCache, cache_folder

    if model is not None:
        named = settings.model.model_copy(update={"name": model, "revision": None})
        settings = settings.model_copy(update={"model": named})
    tokenizer = load_tokenizer(settings.model.name, settings.model.revision, settings.data.structure_tokens)
    cache = SqliteCache(cache_folder())
    try:
        scorer = _base_model_scorer(settings, tokenizer, choice) if settings.data.model_difficulty else None
        workers = min(_MAX_WORKERS, os.cpu_count() or 1)
        yield PreparationTools(tokenizer, cache, workers, TerminalProgress(verbose), scorer)
    except KeyboardInterrupt:
        print("stopped: nothing was written; what was read is kept for the next run", file=sys.stderr)
        raise
    finally:
        cache.close()


def _base_model_scorer(settings: Settings, tokenizer: RepoTokenizer, choice: EngineSelection | None) -> Scorer:
    import numpy as np

    from longrepo.engines.base import Batch
    from longrepo.engines.registry import choose_engine, create_engine

    engine = create_engine(choice or choose_engine("auto", "auto", settings.training.weights), settings, tokenizer)

    def score(ids: np.ndarray, weights: np.ndarray) -> float:
        with engine.base_only():
            losses = engine.score(Batch.of([(ids, weights)], engine.pad_id))[0]
        return float(losses[weights == 1].mean(dtype=np.float64))

    return score
