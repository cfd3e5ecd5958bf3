"""`longrepo evaluate`: base against tuned on what the repository's held-out commits added."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longrepo.commands.arguments import EngineName, EngineOption
from longrepo.commands.generate import PositionsOption, asked_positions
from longrepo.commands.train import Device


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, as --output of training named it.")],
    repo: Annotated[
        list[Path] | None,
        typer.Option(help="The repository trained on; may be repeated. Default: where it was read, or around here."),
    ] = None,
    sequences: Annotated[
        Path | None, typer.Option(help="The file of sequences; default: the one the run was trained on.")
    ] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    quick: Annotated[bool, typer.Option("--quick", help="Few samples, at the longest length alone.")] = False,
    other: Annotated[
        list[Path] | None, typer.Option(help="Another repository: is what the base knew forgotten? May be repeated.")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Tokens; may be repeated. Default: the longest of each phase.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to score.")] = Device.auto,
    engine: EngineOption = EngineName.auto,
    set_: PositionsOption = None,
) -> None:
    """Compare base and tuned on lines that training never saw; writes evaluation.json, goes on where it was stopped."""
    from rich.console import Console

    from longrepo.engines.choose import choose
    from longrepo.evaluation.loaded import Loaded
    from longrepo.evaluation.measuring import FULL, QUICK
    from longrepo.export.source import find_source
    from longrepo.reports.evaluation import print_evaluation
    from longrepo.reports.html.run import EVALUATION, check_is_run
    from longrepo.reports.progress import Terminal

    check_is_run(run)
    choice = choose(engine.value, device.value, find_source(run).settings.training.weights)
    loaded = Loaded.of(run, sequences, repo or (), split, choice, device.value, length or (), asked_positions(set_))
    print(f"{choice.line[0]}: {choice.reason}")
    for note in loaded.notes:
        print(f"note: {note}")
    found = loaded.measured(QUICK if quick else FULL, other or (), run / EVALUATION, Terminal())
    print_evaluation(found, Console())
    print(f"a page of it: longrepo report {run}")
