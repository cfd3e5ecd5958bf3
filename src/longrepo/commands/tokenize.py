"""`longrepo tokenize` and `tokenizers/git_tokenizer_rich.py`: a repository as overlapping windows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from longrepo.commands.arguments import SetOption


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
    from longrepo.commands.origins import opened, tools
    from longrepo.config.load import load_settings
    from longrepo.errors import InputError

    started = time.monotonic()
    settings = load_settings(config, overrides or ())
    length = sequence_length or settings.model.max_position_embeddings
    repeated = settings.data.overlap if overlap is None else overlap
    if repeated >= length:
        raise InputError(f"--overlap {repeated}: must be below --sequence-length ({length})")
    with opened([repo], None, revision) as origins:
        from rich.console import Console

        from longrepo.reports.preparation import show_details, show_preparation
        from longrepo.sequences.output import check_writable
        from longrepo.sequences.store import write_sequences
        from longrepo.sequences.windows import windows

        console = Console()
        check_writable(output.parent)
        with tools(settings, model, verbose) as ready:
            prepared = windows(origins, settings, ready, length, repeated)
            with ready.watch.count("writing windows", len(prepared.sequences)) as done:
                header = write_sequences(output, prepared.rows(done), prepared.header)
    show_preparation(console, header, prepared.summary, str(output), time.monotonic() - started)
    if verbose:
        show_details(console, prepared.summary)
