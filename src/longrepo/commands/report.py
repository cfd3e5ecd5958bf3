"""`longrepo report`: a run on a page, or several compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longrepo.errors import InputError

COMPARISON = "comparison.html"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run's folder, or several to compare.")],
    output: Annotated[
        Path | None, typer.Option(help=f"The page to write. Default: RUN/report.html; of several runs {COMPARISON}.")
    ] = None,
) -> None:
    """Write what a run was trained on, how it went and what it bought, finished or not, on one page."""
    from longrepo.reports.html.headlines import headlines
    from longrepo.reports.html.page import write_comparison, write_report
    from longrepo.reports.html.run import read_run

    if output is not None and output.is_dir():
        raise InputError(f"--output {output}: is a folder; give the page's name, such as {output / 'report.html'}")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run is named twice; name each once")
    found = [read_run(run) for run in runs]
    if len(found) > 1:
        print(write_comparison(found, output or Path(COMPARISON)))
        return
    for one in headlines(found[0]):
        print(f"{one.value}  {one.label}")
    print(write_report(found[0], output))
