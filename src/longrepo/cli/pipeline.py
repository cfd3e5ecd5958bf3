"""`longrepo pipeline` goes from a repository to a tuned adapter and its report in one command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from longrepo import api
from longrepo.cli.options import (
    EngineChoice,
    EngineOption,
    ModelOption,
    PathOption,
    SetOption,
    announce_clone,
)
from longrepo.cli.train import DeviceChoice, end_training
from longrepo.config.loader import load_settings, path_override
from longrepo.pipeline import Pipeline


def pipeline(
    repo: Annotated[
        list[Path],
        typer.Option(
            metavar="PATH", help="A git repository to learn: a folder or a URL. Repeatable.", callback=announce_clone
        ),
    ],
    weight: Annotated[
        list[float] | None,
        typer.Option(metavar="N", help="How often a phase shows a repository's text; one for each --repo. Default: 1."),
    ] = None,
    model: ModelOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the results. Default: ./runs/REPOSITORY.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings file (YAML). What it sets is kept; the pipeline chooses the rest."),
    ] = None,
    revision: Annotated[str, typer.Option(metavar="REV", help="Commit, branch or tag to learn.")] = "HEAD",
    sequence_length: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Longest sequence. Default: model.max_position_embeddings.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Shared by neighboring windows. Default: data.overlap.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(metavar="N", help="Hours of training that the epochs are fitted to. Default: 3, an evening."),
    ] = None,
    long_context_mode: Annotated[
        bool,
        typer.Option(help="Build sequences of related files, commits and questions; off: plain overlapping windows."),
    ] = True,
    device: Annotated[DeviceChoice, typer.Option(help="Where to train.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    path: PathOption = None,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print a line for every update and save.")] = False,
) -> None:
    """Prepare, train and evaluate. Finished stages are skipped if nothing changed; a stopped one continues."""
    named = {
        "model.name": model,
        "model.max_position_embeddings": sequence_length,
        "data.overlap": overlap,
        "training.time_budget_hours": hours,
    }
    overrides = [
        *(set_ or ()),
        *path_override(path),
        *(f"{key}={value}" for key, value in named.items() if value is not None),
    ]
    settings = load_settings(config, overrides)
    from longrepo.data.prepare import check_writable
    from longrepo.reports.training import PipelineReporter
    from longrepo.training.loggers import check_logger_installed
    from longrepo.utils.files import check_folder_name

    check_logger_installed(settings.training.report_to)
    with api.open_repositories(repo, weight, revision) as origins:
        walk = Pipeline(origins, settings, engine.value, device.value, PipelineReporter(verbose))
        if output is not None:
            check_folder_name(output)
        output = output or Path("runs") / walk.name
        check_writable(output)
        trained = walk.run(output, long_context_mode)
    if trained.exit_status:
        end_training(trained, shlex.join(sys.orig_argv))  # its stages know what is done
