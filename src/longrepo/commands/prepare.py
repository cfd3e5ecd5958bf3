"""`longrepo prepare` and `prepare_long_context.py`: from repositories to sequences and a summary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from longrepo.commands.arguments import SetOption


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
    from longrepo.commands.origins import opened, tools
    from longrepo.config.load import load_settings

    started = time.monotonic()
    settings = load_settings(config, overrides or ())
    with opened(repo, weight, revision) as origins:
        from rich.console import Console

        from longrepo.reports.preparation import show_details, show_preparation
        from longrepo.sequences.lengths import last_phase
        from longrepo.sequences.output import SEQUENCES, check_writable, write_prepared
        from longrepo.sequences.prepare import prepare as build

        console = Console()
        check_writable(output_dir)
        length = max_sequence_length or settings.model.max_position_embeddings
        with tools(settings, model, verbose) as ready:
            prepared = build(origins, settings, ready, phases or last_phase(settings.long_context), length)
            header = write_prepared(output_dir, prepared, ready.watch)
    show_preparation(console, header, prepared.summary, str(output_dir / SEQUENCES), time.monotonic() - started)
    if verbose:
        show_details(console, prepared.summary)
