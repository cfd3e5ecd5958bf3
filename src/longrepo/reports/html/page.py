"""The page of one run: everything in its place, and what isn't there said in its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longrepo.config.files import write_text
from longrepo.reports.html import tables
from longrepo.reports.html.canvas import Chart
from longrepo.reports.html.compare import comparison
from longrepo.reports.html.curves import curves, memory_curve
from longrepo.reports.html.headlines import headlines
from longrepo.reports.html.marks import chosen, marked
from longrepo.reports.html.measured import COLUMNS, asked, held_out, measured, shorter
from longrepo.reports.html.run import Run
from longrepo.reports.html.use import commands
from longrepo.reports.visible import visible

REPORT = "report.html"


def write_report(run: Run, file: Path | None = None) -> Path:
    """Write a run's page, by default into its folder; returns where. The same run gives the same bytes."""
    file = file or run.path / REPORT
    write_text(file, _render("run.html.jinja", **_contents(run)))
    return file


def write_comparison(runs: Sequence[Run], file: Path) -> Path:
    """Write several runs on one page; returns where."""
    write_text(file, _render("comparison.html.jinja", title="Runs compared", **comparison(runs)))
    return file


def _contents(run: Run) -> dict[str, Any]:
    changed, everything = tables.settings(run)
    evaluation = run.evaluation
    return {
        "title": f"{run.data.name if run.data else run.name}, tuned",
        "run": run,
        "headlines": headlines(run),
        "held_out": [held_out(evaluation.comparisons)] if evaluation and evaluation.comparisons else [],
        "measured": measured(evaluation) if evaluation else [],
        "shorter": tables.Table(COLUMNS, shorter(evaluation) if evaluation else ()),
        "examples": chosen(evaluation.examples) if evaluation else [],
        "commands": commands(run),
        "curves": curves(run),
        "epochs": tables.epochs(run),
        "memory": tables.memory(run),
        "memory_curve": memory_curve(run),
        "happened": tables.happened(run),
        "built": tables.built(run.data) if run.data else None,
        "accounts": tables.accounts(run.data) if run.data else None,
        "languages": tables.languages(run.data, run.summary) if run.data else None,
        "left_out": tables.left_out(run.summary),
        "changed": changed,
        "settings": everything,
    }


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("longrepo.reports.html"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "visible": visible,
        "duration": duration,
        "svg": _svg,
        "breakable": _breakable,
        "asked": asked,
    }
    environment.globals["marked"] = marked
    return environment.get_template(template).render(**values)


def _svg(chart: Chart) -> Any:
    """Both drawings, as they are."""
    from markupsafe import Markup

    return Markup(f'<div class="wide">{chart.wide}</div><div class="narrow">{chart.narrow}</div>')


def _breakable(text: str) -> Any:
    """A dotted key that may go on in the next line behind a dot or an underscore."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._])(?=\w)", r"\1<wbr>", str(escape(text))))


def duration(seconds: float) -> str:
    """In the two largest units."""
    minutes, hours = round(seconds) // 60, round(seconds) // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.0f} s"
