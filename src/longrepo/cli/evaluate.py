"""Evaluate, report.

`longrepo evaluate`: base against tuned on what the repository's held-out commits added.

`longrepo report`: a run on a page, or several compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longrepo import api
from longrepo.cli.generate import PositionsOption, parse_positions
from longrepo.cli.options import EngineChoice, EngineOption
from longrepo.cli.train import DeviceChoice
from longrepo.errors import InputError


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
    device: Annotated[DeviceChoice, typer.Option(help="Where to score.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: PositionsOption = None,
) -> None:
    """Compare base and tuned on lines that training never saw; writes evaluation.json, goes on where it was stopped."""
    from rich.console import Console

    from longrepo.reports.evaluation import print_evaluation
    from longrepo.reports.training import TerminalProgress

    found = api.evaluate(
        run,
        repo=repo or (),
        sequences=sequences,
        split=split,
        amount="quick" if quick else "full",
        other=other or (),
        length=length or (),
        context=parse_positions(set_),
        device=device.value,
        engine=engine.value,
        note=print,
        progress=TerminalProgress(),
    )
    print_evaluation(found, Console())
    print(f"a page of it: longrepo report {run}")


COMPARISON_FILE = "comparison.html"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run's folder, or several to compare.")],
    output: Annotated[
        Path | None,
        typer.Option(help=f"The page to write. Default: RUN/report.html; of several runs {COMPARISON_FILE}."),
    ] = None,
) -> None:
    """Write what a run was trained on, how it went and what it bought, finished or not, on one page."""
    from longrepo.reports.html.page import make_headlines, write_comparison, write_report
    from longrepo.reports.run_record import read_run_record

    if output is not None and output.is_dir():
        raise InputError(f"--output {output}: is a folder; give the page's name, such as {output / 'report.html'}")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run is named twice; name each once")
    found = [read_run_record(run) for run in runs]
    if len(found) > 1:
        print(write_comparison(found, output or Path(COMPARISON_FILE)))
        return
    for one in make_headlines(found[0]):
        print(f"{one.value}  {one.label}")
    print(write_report(found[0], output))
