"""The page of a run: its headlines, examples, and commands to use its result. Missing parts are explained in place."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

from longrepo.evaluation.results import Example, Figure
from longrepo.reports.html import tables
from longrepo.reports.html.charts import Chart, memory_curve, training_curves
from longrepo.reports.html.compare import comparison_contents
from longrepo.reports.html.figures import (
    AGAINST_COLUMNS,
    FIGURE_COLUMNS,
    against_table,
    evaluation_charts,
    example_label,
    format_value,
    held_out_charts,
    shorter_table,
    task_charts,
)
from longrepo.reports.run_record import RunRecord
from longrepo.reports.sequences import escape_control
from longrepo.training.usage import adapter_code, model_code
from longrepo.utils.files import write_text_file


@dataclass(frozen=True)
class UseCommand:
    """What a command does, and the command (or lines of Python)."""

    what: str
    line: str


def use_commands(run: RunRecord) -> list[UseCommand]:
    """How to use the adapter or model of a finished run, or how to continue an unfinished one."""
    path = shlex.quote(str(run.path))
    if not run.finished:
        sequences = shlex.quote(run.snapshot.identity.sequences if run.snapshot else "SEQUENCES")
        line = f"longrepo train --config {path}/settings.yaml --sequences {sequences} --output {path} --resume auto"
        return [UseCommand("Go on exactly where it stopped", line)]
    evaluate = [] if run.evaluation else [UseCommand("Compare base and tuned", f"longrepo evaluate {path}")]
    return [
        *evaluate,
        UseCommand(
            "Complete a line, with what the repository holds around it",
            f"longrepo generate {path} --file FILE --line N",
        ),
        UseCommand("For an editor", f"longrepo serve {path}"),
        *(_model_commands(run, path) if run.whole else _adapter_commands(run, path)),
        UseCommand("For mlx-lm", f"longrepo export {path} --format mlx --output DIR"),
    ]


def _adapter_commands(run: RunRecord, path: str) -> list[UseCommand]:
    return [
        UseCommand("For transformers and PEFT", f"longrepo export {path} --format peft --output DIR"),
        UseCommand("In Python", adapter_code(str(run.trained), run.settings)),
    ]


def _model_commands(run: RunRecord, path: str) -> list[UseCommand]:
    return [
        UseCommand("In 16 bits, with a model card", f"longrepo export {path} --format merged --output DIR"),
        UseCommand("In Python", model_code(str(run.trained))),
    ]


_DIFF_TOKENS = re.compile(r"\w+|\s+|[^\w\s]")
_SHOWN_EXAMPLES = 10


@dataclass(frozen=True)
class DiffPiece:
    """A stretch of a completion: as wanted, different, or a gap in which `text` is missing."""

    kind: Literal["same", "other", "gap"]
    text: str


def diff_pieces(wanted: str, got: str) -> list[DiffPiece]:
    """Split `got` into pieces by comparing it with `wanted`, word by word."""
    old, new = _DIFF_TOKENS.findall(wanted), _DIFF_TOKENS.findall(got)
    pieces: list[DiffPiece] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(DiffPiece("same", "".join(new[c:d])))
        elif d > c:
            pieces.append(DiffPiece("other", "".join(new[c:d])))
        else:
            pieces.append(DiffPiece("gap", "".join(old[a:b])))
    return pieces


def choose_examples(examples: Sequence[Example]) -> list[Example]:
    """Choose ten examples by a rule that picks no winners: of all written texts, ordered from most gained to most lost,
    the one in the middle of each tenth. Answers to questions are taken only if there is no other text."""
    texts = [one for one in examples if one.measure not in ("question", "needle")] or list(examples)
    ranked = sorted(texts, key=lambda one: (-_example_gain(one), one.commit, one.path, one.measure))
    shown = min(_SHOWN_EXAMPLES, len(ranked))
    return [ranked[(2 * number + 1) * len(ranked) // (2 * shown)] for number in range(shown)]


def _example_gain(example: Example) -> float:
    metric = "edit" if "edit" in example.tuned_scores else next(iter(example.tuned_scores), "")
    return example.tuned_scores.get(metric, 0.0) - example.base_scores.get(metric, 0.0)


GIB = 2**30
_FEW_GROUPS = 10  # with fewer groups a bootstrap's interval is too narrow
SHOWN_HEADLINES = 3


@dataclass(frozen=True)
class Headline:
    """A figure with its meaning in a sentence. `good`: True, False, or None if it is neither."""

    value: str
    label: str
    meaning: str
    good: bool | None = None


def make_headlines(run: RunRecord) -> list[Headline]:
    """The three most important figures: first what was gained, then how training went, then what it took."""
    headlines = (
        _held_out_headline(run),
        _gain_headline(run),
        _completion_headline(run),
        _progress_headline(run),
        _validation_headline(run),
        _memory_headline(run),
    )
    return [one for one in headlines if one is not None][:SHOWN_HEADLINES]


def _held_out_headline(run: RunRecord) -> Headline | None:
    if run.evaluation is None or not run.evaluation.comparisons:
        return None
    row = run.evaluation.comparisons[-1]
    share = row.difference / row.base
    better, sure = row.difference < 0, row.certain
    word = "better" if better else "worse"
    doubt = "" if sure else ", which could be chance"
    meaning = (
        f"Tuned predicts lines that training never saw {word} than base{doubt}: {row.tuned:.3f} against {row.base:.3f} "
        f"nats a token, perplexity {math.exp(row.tuned):.1f} against {math.exp(row.base):.1f}. {_format_interval(row)}"
    )
    label = f"loss on held-out lines, up to {row.cap:,} tokens"
    return Headline(f"{share * 100:+.1f} %".replace("-", "−"), label, meaning, better if sure else None)


def _format_interval(row: object) -> str:
    low, high, groups = (getattr(row, name) for name in ("low", "high", "groups"))
    if groups < 2:
        return "All lines are from one commit, so there is no interval."
    few = f", too narrow with so few as {groups} commits" if groups < _FEW_GROUPS else f", {groups} commits"
    return f"95 % interval of the difference {low:+.3f} to {high:+.3f}{few}.".replace("-", "−")


def _gain_headline(run: RunRecord) -> Headline | None:
    figure = _longest_figure(run, "gain", "gain", context="related")
    if figure is None:
        return None
    word = "more" if figure.gained else "no more"
    sure = "beyond chance" if figure.certain else "within chance"
    meaning = (
        f"Related files lower the tuned model's loss by {figure.tuned.value:.3f} nats a token, the base's by "
        f"{figure.base.value:.3f}: it makes {word} of its context than base ({sure}, {figure.groups} commits)."
    )
    label = f"nats a token gained from context, {int(figure.parts['length']):,} tokens (base {figure.base.value:+.3f})"
    label = label.replace("-", "−")
    return Headline(f"{figure.tuned.value:+.3f}".replace("-", "−"), label, meaning, _is_good(figure))


def _completion_headline(run: RunRecord) -> Headline | None:
    figure = _longest_figure(run, "completion", "edit", task="line", place="all")
    if figure is None:
        return None
    sure = "beyond chance" if figure.certain else "within chance"
    meaning = (
        f"Edit similarity of completed lines to what was committed ({sure}, {figure.samples} lines of {figure.groups} "
        "commits)."
    )
    label = f"of the next line as committed (base {format_value(figure.base.value, 'share')})"
    return Headline(format_value(figure.tuned.value, "share"), label, meaning, _is_good(figure))


def _is_good(figure: Figure) -> bool | None:
    return figure.gained if figure.certain else None


def _longest_figure(run: RunRecord, measure: str, metric: str, **parts: str) -> Figure | None:
    figures = run.evaluation.find(measure, metric, **parts) if run.evaluation else []
    return max(figures, key=lambda figure: int(figure.parts.get("length", 0)), default=None)


def _progress_headline(run: RunRecord) -> Headline | None:
    if run.finished or run.snapshot is None:
        return None
    done, of = len(run.history.epochs), run.epochs_planned
    meaning = f"This run isn't finished: {run.history.tokens:,} tokens in {len(run.history.updates):,} updates so far."
    return Headline(f"{done} of {of}", "epochs done", meaning)


def _validation_headline(run: RunRecord) -> Headline | None:
    checks = run.history.validations
    if not checks:
        return None
    first, best = checks[0][1].loss, run.history.best or checks[0]
    value = f"{(best[1].loss / first - 1) * 100:+.1f} %".replace("-", "−")
    meaning = (
        f"From {first:.3f} to {best[1].loss:.3f} nats a token, best after update {best[0]:,}: the weights kept "
        "are the best ones, not the last."
    )
    return Headline(value, "validation loss", meaning, best[1].loss < first)


def _memory_headline(run: RunRecord) -> Headline | None:
    used = max((run.history.used(phase) for phase, _, _ in run.history.spans), default=0)
    if not used:
        return None
    planned = max((phase["peak"] for phase in run.plan["phases"].values()), default=None) if run.plan else None
    words = f"Planned {planned / GIB:.2f} GiB" if planned else "Not planned"
    if run.plan:
        words += f", budget {run.plan['budget']['bytes'] / GIB:.1f} GiB ({run.plan['budget']['reason']})"
    count = len(run.history.steps_down)
    downs = f"{count} step{'s' * (count != 1)} down" if count else "no step down was needed"
    return Headline(f"{used / GIB:.2f} GiB", "most memory used", f"{words}; {downs}.")


REPORT_FILE = "report.html"


def write_report(run: RunRecord, file: Path | None = None) -> Path:
    """Write a run's page, by default into its folder. Return its path. The same run gives the same bytes."""
    file = file or run.path / REPORT_FILE
    write_text_file(file, _render_template("run.html.jinja", **_run_contents(run)))
    return file


def write_comparison(runs: Sequence[RunRecord], file: Path) -> Path:
    """Write a page that compares several runs. Return its path."""
    write_text_file(file, _render_template("comparison.html.jinja", title="Runs compared", **comparison_contents(runs)))
    return file


def _run_contents(run: RunRecord) -> dict[str, Any]:
    changed, everything = tables.settings_tables(run)
    evaluation = run.evaluation
    return {
        "title": f"{run.data.name if run.data else run.name}, tuned",
        "run": run,
        "headlines": make_headlines(run),
        "by_task": task_charts(evaluation) if evaluation else [],
        "held_out": [held_out_charts(evaluation.comparisons)] if evaluation and evaluation.comparisons else [],
        "measured": evaluation_charts(evaluation) if evaluation else [],
        "shorter": tables.PageTable(FIGURE_COLUMNS, shorter_table(evaluation) if evaluation else ()),
        "against": [
            (one.name, tables.PageTable(AGAINST_COLUMNS, against_table(one)))
            for one in (evaluation.against if evaluation else ())
        ],
        "examples": choose_examples(evaluation.examples) if evaluation else [],
        "commands": use_commands(run),
        "curves": training_curves(run),
        "epochs": tables.epoch_table(run),
        "memory": tables.memory_table(run),
        "memory_curve": memory_curve(run),
        "happened": tables.event_sentences(run),
        "built": tables.sequence_tables(run.data) if run.data else None,
        "accounts": tables.token_accounts(run.data) if run.data else None,
        "languages": tables.language_bars(run.data, run.summary) if run.data else None,
        "left_out": tables.left_out_tables(run.summary),
        "changed": changed,
        "settings": everything,
    }


def _render_template(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("longrepo.reports.html"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "visible": escape_control,
        "duration": format_duration,
        "svg": _chart_svg,
        "breakable": _breakable,
        "asked": example_label,
    }
    environment.globals["marked"] = diff_pieces
    return environment.get_template(template).render(**values)


def _chart_svg(chart: Chart) -> Any:
    """Both drawings of a chart, unescaped."""
    from markupsafe import Markup

    return Markup(f'<div class="wide">{chart.wide}</div><div class="narrow">{chart.narrow}</div>')


def _breakable(text: str) -> Any:
    """Let a dotted key wrap after a dot or an underscore."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._])(?=\w)", r"\1<wbr>", str(escape(text))))


def format_duration(seconds: float) -> str:
    """Format seconds in the two largest units."""
    minutes, hours = round(seconds) // 60, round(seconds) // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.0f} s"
