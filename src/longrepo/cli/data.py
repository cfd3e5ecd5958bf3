"""The commands that make sequences (`prepare`, `tokenize`) and look at them (`inspect`, `check-leaks`,
`check-questions`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrepo import api
from longrepo.cli.options import (
    ConfigOption,
    ModelOption,
    PathOption,
    SequencesArgument,
    SetOption,
    TokenizerOption,
    announce_clone,
)
from longrepo.data.sequence import DIFFICULTIES
from longrepo.errors import InputError, RunError

if TYPE_CHECKING:
    from longrepo.data.dataset import SequenceFile
    from longrepo.data.tokenizer import RepoTokenizer


def prepare(
    repo: Annotated[
        list[Path],
        typer.Option(
            "--repo", metavar="PATH", help="A git repository: a folder or a URL. Repeatable.", callback=announce_clone
        ),
    ],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", metavar="DIR", help="Folder for the sequences and the summary.")
    ],
    weight: Annotated[
        list[float] | None,
        typer.Option(
            "--weight",
            metavar="N",
            help="How often a phase shows a repository's text; one for each --repo. Default: 1.",
        ),
    ] = None,
    max_sequence_length: Annotated[
        int | None,
        typer.Option(
            "--max-sequence-length",
            metavar="TOKENS",
            min=64,
            help="Longest sequence; raised to the longest of --phases. Default: model.max_position_embeddings.",
        ),
    ] = None,
    phases: Annotated[
        int | None,
        typer.Option(
            "--phases",
            metavar="N",
            min=1,
            help="Build sequences for phases 1 to N. Default: 3, or the last further phase.",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print each step, and list what was left out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the folder of the sequences, and errors.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    config: ConfigOption = None,
    model: ModelOption = None,
    revision: Annotated[str, typer.Option("--revision", metavar="REV", help="Commit, branch or tag to read.")] = "HEAD",
    path: PathOption = None,
    overrides: SetOption = None,
) -> None:
    """Build training sequences from git repositories."""
    from rich.console import Console

    from longrepo.data.prepare import SUMMARY_FILE
    from longrepo.reports.sequences import show_preparation, show_preparation_details
    from longrepo.reports.training import TerminalProgress

    if quiet + json_ + verbose > 1:
        raise InputError("--quiet, --json and --verbose exclude each other: give one of them")
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
        path=path,
        overrides=overrides or (),
        progress=None if quiet else TerminalProgress(verbose),
    )
    if json_:
        print((output_dir / SUMMARY_FILE).read_text(encoding="utf-8"), end="")
        return
    if quiet:
        print(done.sequences)
        return
    show_preparation(console, done.header, done.summary, str(done.sequences), time.monotonic() - started)
    if verbose:
        show_preparation_details(console, done.summary)


def tokenize(
    repo: Annotated[
        Path,
        typer.Option(
            "--repo",
            metavar="PATH",
            help="A git repository: a folder or a URL.",
            callback=announce_clone,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", metavar="PATH", help="A .json, .jsonl or .parquet file, or a folder (Arrow), for the sequences."
        ),
    ],
    model: ModelOption = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            "--sequence-length",
            metavar="TOKENS",
            min=64,
            help="Longest window. Default: model.max_position_embeddings.",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            "--overlap",
            metavar="TOKENS",
            min=0,
            help="Tokens shared by two neighboring windows, scored once. Default: data.overlap.",
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    revision: Annotated[str, typer.Option("--revision", metavar="REV", help="Commit, branch or tag to read.")] = "HEAD",
    path: PathOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print each step, and list what was left out.")] = False,
) -> None:
    """Cut a repository into overlapping windows of tokens, for every phase up to a length."""
    from longrepo.config.loader import load_settings, path_override
    from longrepo.errors import InputError

    started = time.monotonic()
    settings = api.with_model(load_settings(config, (*(overrides or ()), *path_override(path))), model)
    length = sequence_length or settings.model.max_position_embeddings
    repeated = settings.data.overlap if overlap is None else overlap
    if repeated >= length:
        raise InputError(f"--overlap {repeated}: must be below --sequence-length ({length})")
    with api.open_repositories([repo], None, revision) as origins:
        from rich.console import Console

        from longrepo.data.dataset import check_output_name, write_sequences
        from longrepo.data.prepare import check_writable
        from longrepo.data.windows import build_windows
        from longrepo.engines.model_shape import local_positions
        from longrepo.reports.sequences import show_preparation, show_preparation_details
        from longrepo.reports.training import TerminalProgress

        console = Console()
        check_output_name(output)
        check_writable(output.parent)
        with api.prepare_tools(settings, None, TerminalProgress(verbose)) as ready:
            ready.positions = partial(local_positions, settings.model)
            prepared = build_windows(origins, settings, ready, length, repeated)
            with ready.watch.count("writing windows", len(prepared.sequences)) as done:
                header = write_sequences(output, prepared.rows(done), prepared.header)
    show_preparation(console, header, prepared.summary, str(output), time.monotonic() - started)
    if verbose:
        show_preparation_details(console, prepared.summary)


def inspect(
    sequences: SequencesArgument,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Only files, commits, questions or windows.",
        ),
    ] = None,
    difficulty: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="Only easy, medium, hard or very_hard.")
    ] = None,
    phase: Annotated[int | None, typer.Option(metavar="N", help="Only those of phase N's lengths.")] = None,
    split: Annotated[str | None, typer.Option(metavar="SPLIT", help="Only train, validation or test.")] = None,
    index: Annotated[
        int | None, typer.Option(metavar="N", help="Show sequence N, counted from 0 among those selected.")
    ] = None,
    lint: Annotated[
        bool, typer.Option("--lint", help="Check what the sequences teach; exit status 1 if a rule finds something.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="With --lint: print the findings as JSON.")] = False,
    model: TokenizerOption = None,
) -> None:
    """Show a summary of sequences with small histograms; with --index one of them as the model sees it; with --lint
    what is wrong with them."""
    from rich.console import Console

    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import tokenizer_of
    from longrepo.reports.sequences import phases_of, print_sequence, print_sequences_summary

    if json_ and not lint:
        raise InputError("--json goes with --lint; a summary isn't printed as JSON")
    if lint and index is not None:
        raise InputError("--lint and --index exclude each other: give one of them")
    file = read_sequences(sequences)
    phases = phases_of(file)
    asked: dict[str, Any] = {"kind": kind, "difficulty": difficulty, "phase": phase, "split": split}
    asked = {name: _stored_name(name, value) for name, value in asked.items() if value is not None}
    rows = _choose_rows(file, phases, asked)
    if lint:
        _lint(file, rows, phases, tokenizer_of(file.header, model), json_)
        return
    if index is None:
        print_sequences_summary(file, rows, phases, asked, Console())
        return
    if not 0 <= index < len(rows):
        raise InputError(f"--index {index}: there are {len(rows)} such sequences; give 0 to {len(rows) - 1}")
    tokenizer = tokenizer_of(file.header, model)
    place = f"{index} of {len(rows):,}" + (f" (row {rows[index]})" if asked else "")
    print_sequence(file, rows[index], phases[rows[index]], place, tokenizer, Console())


def _lint(
    file: SequenceFile, rows: Sequence[int], phases: Sequence[int], tokenizer: RepoTokenizer, as_json: bool
) -> None:
    """Check rows and print what was found. Raises RunError if anything was."""
    from rich.console import Console

    from longrepo.data.lint import lint_sequences
    from longrepo.reports.sequences import print_lint
    from longrepo.reports.training import progress_bar

    with progress_bar("reading sequences twice", 2 * len(rows)) as tick:
        report = lint_sequences(file, tokenizer, rows, tick)
    if as_json:
        print(json.dumps(report.as_dict(phases), indent=2))
    else:
        print_lint(report, phases, Console())
    if report.findings:
        raise RunError(
            f"{file.path}: {report.findings:,} findings in {report.rows:,} sequences; make them again if an older "
            "version of longrepo did, and report what is left"
        )


_STORED = {
    "kind": ("hierarchical", "commit_evolution", "qa", "window"),
    "difficulty": DIFFICULTIES,
    "split": ("train", "validation", "test"),
}
_SHOWN = {"files": "hierarchical", "commits": "commit_evolution", "questions": "qa", "windows": "window"}


def _stored_name(option: str, value: Any) -> Any:
    """Return a value as the rows have it: tables call kinds `files`, `commits`, `questions`; beginnings are enough."""
    if option not in _STORED:
        return value
    plain = str(value).lower().replace("-", "_")
    plain = _SHOWN.get(plain, plain)
    beginning = [name for name in _STORED[option] if name.startswith(plain)]
    return beginning[0] if plain not in _STORED[option] and len(beginning) == 1 else plain


def _choose_rows(file: SequenceFile, phases: list[int], asked: dict[str, Any]) -> list[int]:
    """Return the rows that match everything asked for. Raises InputError if there are none."""
    rows = list(range(len(file)))
    for name, wanted in asked.items():
        values = phases if name == "phase" else file.column(name)
        there = sorted({values[row] for row in rows})
        rows = [row for row in rows if values[row] == wanted]
        if not rows:
            listed = ", ".join(map(str, there)) or "none"
            raise InputError(f"--{name} {wanted}: no such sequences in {file.path}; there are: {listed}")
    if not rows:
        raise InputError(f"{file.path}: holds no sequences; make them again")
    return rows


def check_leaks(
    sequences: SequencesArgument,
    model: TokenizerOption = None,
) -> None:
    """Check that no training sequence shows what validation or test scores; exit status 1 if one does."""
    from rich.console import Console

    from longrepo.data.contamination import check_leaks as check
    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import tokenizer_of
    from longrepo.reports.evaluation import print_leaks
    from longrepo.reports.training import progress_bar

    file = read_sequences(sequences)
    tokenizer = tokenizer_of(file.header, model)
    with progress_bar("comparing sequences", len(file)) as tick:
        found = check(file, tokenizer, tick)
    print_leaks(found, file, Console())
    if found.leaks:
        raise RunError(
            f"{sequences}: {len(found.leaks):,} leaks in {found.rows:,} held-out sequences: training shows what they "
            "score; make the sequences again"
        )


def check_questions(
    sequences: SequencesArgument,
    repo: Annotated[
        list[Path],
        typer.Option(
            "--repo", metavar="PATH", help="The repository they were made from. Repeatable.", callback=announce_clone
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Check only N sequences of them. Default: all.")
    ] = None,
    model: TokenizerOption = None,
) -> None:
    """Check the answers to questions with git and Python's own parser; exit status 1 if one is refuted."""
    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import tokenizer_of
    from longrepo.data.questions.write import check_question_rows, match_folders, question_rows
    from longrepo.reports.evaluation import print_question_check
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
