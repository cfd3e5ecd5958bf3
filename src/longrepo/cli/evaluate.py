"""`longrepo evaluate` compares base and tuned on held-out lines; `longrepo report` writes the page of a run, or of
several compared.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from longrepo import api
from longrepo.cli.generate import PositionsOption, parse_positions
from longrepo.cli.options import EngineChoice, EngineOption
from longrepo.cli.train import DeviceChoice
from longrepo.errors import InputError


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder: the --output of training.")],
    repo: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="The repository trained on. Repeatable. Default: where it was read, or a folder nearby.",
        ),
    ] = None,
    sequences: Annotated[
        Path | None, typer.Option(metavar="SEQUENCES", help="The sequences. Default: those the run was trained on.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="validation or test.")] = "test",
    quick: Annotated[bool, typer.Option("--quick", help="Take few samples, at the longest length only.")] = False,
    other: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Another repository, whose files may be forgotten, besides neutral code. Repeatable."
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN|ADAPTER", help="Another run or adapter of the same base, on the same lines. Repeatable."
        ),
    ] = None,
    control: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="REPO",
            help="Another repository: if its newest lines got easier too, the gain isn't this one's. Repeatable.",
        ),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(metavar="TOKENS", help="Measure at this length. Repeatable. Default: each phase's."),
    ] = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to compute.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: PositionsOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print evaluation.json; notes go to standard error.")] = False,
) -> None:
    """Compare base and tuned on lines that training never saw; write evaluation.json. Continues where it stopped."""
    from rich.console import Console

    from longrepo.reports.evaluation import print_evaluation
    from longrepo.reports.run_record import EVALUATION_FILE
    from longrepo.reports.training import TerminalProgress

    found = api.evaluate(
        run,
        repo=repo or (),
        sequences=sequences,
        split=split,
        amount="quick" if quick else "full",
        other=other or (),
        against=against or (),
        control=control or (),
        length=length or (),
        context=parse_positions(set_),
        device=device.value,
        engine=engine.value,
        note=partial(print, file=sys.stderr) if json_ else print,
        progress=TerminalProgress(),
    )
    if json_:
        print((run / EVALUATION_FILE).read_text(encoding="utf-8"), end="")
        return
    print_evaluation(found, Console())
    print(f"for a page with charts: longrepo report {run}")


COMPARISON_FILE = "comparison.html"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run's folder, or several to compare.")],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"The page to write. Default: RUN/report.html; for several runs {COMPARISON_FILE}."
        ),
    ] = None,
) -> None:
    """Write a page on a run, finished or not: what it gained, how it went, what it was trained on. Or compare runs."""
    from longrepo.reports.html.page import make_headlines, write_comparison, write_report
    from longrepo.reports.run_record import read_run_record

    if output is not None and output.is_dir():
        raise InputError(f"--output {output}: is a folder; give the page's name, such as {output / 'report.html'}")
    if output is not None and output.suffix.lower() not in ("", ".html", ".htm"):
        raise InputError(f"--output {output}: the page is HTML; give a name ending in .html")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run is named twice; name each once")
    found = [read_run_record(run) for run in runs]
    if len(found) > 1:
        print(write_comparison(found, output or Path(COMPARISON_FILE)))
        return
    for one in make_headlines(found[0]):
        print(f"{one.value}  {one.label}")
    print(write_report(found[0], output))
