"""`longrepo train` trains an adapter on prepared sequences. Errors in arguments are found before torch is imported."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from longrepo import api
from longrepo.cli.options import ConfigOption, EngineChoice, EngineOption, ModelOption, SetOption, overrides_of
from longrepo.errors import InputError
from longrepo.training.launch import DEFAULT_OUTPUT, TrainedRun


class DeviceChoice(StrEnum):
    auto = "auto"
    mps = "mps"
    cuda = "cuda"
    cpu = "cpu"


def train(
    config: ConfigOption = None,
    sequences: Annotated[
        Path | None,
        typer.Option(
            metavar="SEQUENCES",
            help="What prepare or tokenize wrote. Default: ./sequences or ./sequences_LENGTH.json.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"The run's folder. Default: ./{DEFAULT_OUTPUT}.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Train N more epochs, not the whole schedule.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Start a new run with a checkpoint's weights and epoch, such as RUN/best."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="auto|DIR", help="Continue the run in --output, or in DIR, exactly.")
    ] = None,
    model: ModelOption = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to train.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print a line for every update and save.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result and errors.")] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print every event as a line of JSON to standard output.")
    ] = False,
) -> None:
    """Train a LoRA adapter on prepared sequences, phase by phase. Ctrl-C saves; --resume auto continues."""
    from longrepo.reports.training import JsonReporter, TerminalReporter

    if quiet + json_ + verbose > 1:
        raise InputError("--quiet, --json and --verbose exclude each other: give one of them")
    overrides = overrides_of(set_, model)
    events = JsonReporter() if json_ else None
    terminal = None if quiet or json_ else TerminalReporter(verbose=verbose)
    try:
        trained = api.train(
            sequences,
            output,
            config=config,
            overrides=overrides,
            epochs=epochs,
            checkpoint=checkpoint,
            resume=resume,
            device=device.value,
            engine=engine.value,
            reporter=events or terminal,
        )
    finally:
        if terminal is not None:
            terminal.close()
    go_on = resume_command(trained, config, overrides, device.value, engine.value)
    if events is not None:
        how = {"output": str(trained.output), "trained": str(trained.trained) if trained.trained else None}
        events.write("stopped" if trained.exit_status else "finished", how | {"exit_status": trained.exit_status})
        raise typer.Exit(trained.exit_status)
    end_training(trained, go_on)
    if not quiet and not trained.already_finished:
        run = shlex.quote(str(trained.output))
        print(f"next: longrepo evaluate {run}, longrepo report {run}, longrepo serve {run}", file=sys.stderr)


def end_training(trained: TrainedRun, go_on: str) -> None:
    """Print where the adapter is. For a stopped run, print the command that continues it and exit with its status."""
    if trained.exit_status:
        print(f"stopped and saved; continue with:\n  {go_on}", file=sys.stderr)
        raise typer.Exit(trained.exit_status)
    if trained.trained and not trained.already_finished:
        print(f"{trained.trained.name}: {trained.trained}")


def resume_command(
    trained: TrainedRun, config: Path | None, overrides: tuple[str, ...], device: str, engine: str
) -> str:
    """Return the command line that continues this run."""
    words = [sys.executable, *([sys.argv[0]] if sys.argv[0].endswith(".py") else ["-m", "longrepo", "train"])]
    words += ["--config", str(config)] if config else []
    words += ["--sequences", str(trained.sequences), "--output", str(trained.output), "--resume", "auto"]
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--device", device] if device != "auto" else []
    words += ["--engine", engine] if engine != "auto" else []
    return shlex.join(words)
