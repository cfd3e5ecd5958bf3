"""`longrepo prepare` and `prepare_long_context.py`: from a repository to sequences and a summary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer


def prepare(
    repo: Annotated[Path, typer.Option("--repo", help="Folder of the git repository.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Folder for the sequences and the summary.")],
    max_sequence_length: Annotated[
        int | None,
        typer.Option(
            "--max-sequence-length",
            min=64,
            help="Tokens; raised to the longest of --phases. [default: model.max_position_embeddings]",
        ),
    ] = None,
    phases: Annotated[int, typer.Option("--phases", min=1, max=3, help="Build sequences for phases 1 to this.")] = 3,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say each step, and list what was left out.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Hub name, model folder or `embedded`. [default: model.name]")
    ] = None,
    revision: Annotated[str, typer.Option("--revision", help="The commit, branch or tag to read.")] = "HEAD",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
) -> None:
    """Analyze a repository and prepare its training sequences."""
    from longrepo.config.load import load_settings
    from longrepo.repository.repository import Repository

    started = time.monotonic()
    settings = load_settings(config, overrides or ())
    with Repository.open(repo) as repository:
        commit = repository.resolve(revision)
        from rich.console import Console

        from longrepo.reports.preparation import show_details, show_preparation
        from longrepo.sequences.output import SEQUENCES, check_writable, write_prepared
        from longrepo.sequences.prepare import prepare as build
        from longrepo.sequences.tokenizer import load_tokenizer

        console = Console()
        check_writable(output_dir)
        tokenizer = load_tokenizer(
            model or settings.model.name,
            settings.model.revision if model is None else None,
            settings.data.structure_tokens,
        )
        say = (lambda step: console.print(f"… {step}", style="dim", highlight=False)) if verbose else (lambda _: None)
        length = max_sequence_length or settings.model.max_position_embeddings
        prepared = build(repository, settings, tokenizer, commit, phases, length, say)
    header = write_prepared(output_dir, prepared)
    show_preparation(console, header, prepared.summary, str(output_dir / SEQUENCES), time.monotonic() - started)
    if verbose:
        show_details(console, prepared.summary)
