"""`longrepo pipeline`: from a repository to a tuned adapter and its figures, in one go."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from longrepo import api
from longrepo.cli.options import EngineChoice, EngineOption, ModelOption, SetOption
from longrepo.cli.train import DeviceChoice, end_training
from longrepo.config.loader import load_settings
from longrepo.pipeline import Pipeline


def pipeline(
    repo: Annotated[list[Path], typer.Option(help="The git repository to learn; may be repeated.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="How often a repository's text is seen; one for each --repo. Default: 1.")
    ] = None,
    model: ModelOption = None,
    output: Annotated[Path | None, typer.Option(help="Where results go. Default: ./runs/REPOSITORY.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A settings file; what it sets is not derived. Default: the guide's values.")
    ] = None,
    revision: Annotated[str, typer.Option(help="The commit, branch or tag to learn.")] = "HEAD",
    sequence_length: Annotated[int | None, typer.Option(help="Over model.max_position_embeddings (2048).")] = None,
    overlap: Annotated[int | None, typer.Option(help="Over data.overlap (512).")] = None,
    long_context_mode: Annotated[
        bool, typer.Option(help="Related files, commits and questions; off: plain overlapping windows.")
    ] = True,
    device: Annotated[DeviceChoice, typer.Option(help="Where to train.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for every update and save.")] = False,
) -> None:
    """Prepare, train and evaluate; stages that are done and unchanged are skipped, a stopped one goes on."""
    named = {"model.name": model, "model.max_position_embeddings": sequence_length, "data.overlap": overlap}
    overrides = [*(set_ or ()), *(f"{key}={value}" for key, value in named.items() if value is not None)]
    settings = load_settings(config, overrides)
    from longrepo.data.prepare import check_writable
    from longrepo.reports.training import PipelineReporter
    from longrepo.training.events import check_logger_installed

    check_logger_installed(settings.training.report_to)
    with api.open_repositories(repo, weight, revision) as origins:
        walk = Pipeline(origins, settings, engine.value, device.value, PipelineReporter(verbose))
        output = output or Path("runs") / walk.name
        check_writable(output)
        trained = walk.run(output, long_context_mode)
    if trained.exit_status:
        end_training(trained, shlex.join(sys.orig_argv))  # its stages know what is done
