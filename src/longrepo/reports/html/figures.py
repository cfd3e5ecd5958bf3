"""Draw an evaluation's figures as charts: base hollow, tuned filled, with intervals and the difference in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longrepo.evaluation.controls import CHANGE
from longrepo.evaluation.results import FEW_GROUPS, AgainstAdapter, Comparison, Evaluation, Example, Figure
from longrepo.reports.evaluation import change_label
from longrepo.reports.html import charts
from longrepo.reports.html.charts import Chart, draw_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MIN_SHARE_AXIS = 10  # percent: the least range of an axis of shares
_VERDICT_COLORS = {"better": charts.TUNED, "worse": charts.BASE}
AGAINST_COLUMNS = ("", "other", "tuned", "difference", "95 % interval", "samples", "groups", "")
FIGURE_COLUMNS = ("", "base", "tuned", "difference", "95 % interval", "samples", "groups", "")
GAIN_COLUMNS = ("", "change", "95 % interval from", "to", "samples", "groups", "")
CONTEXT_LABELS = {
    "none": "no context",
    "random": "random files",
    "related": "related files",
    "retrieved": "BM25's choice",
}
CLASS_LABELS = {
    "committed": "names of the same commit", "in_project": "names of the project", "in_file": "names of the file",
    "common": "common names only", "other": "other names",
}  # fmt: skip
_TEXT_LABELS = {"new": "lines training never showed", "seen": "lines it showed"}
TASK_LABELS = {"line": "next line", "block": "block", "fim": "in the middle"}
PLACE_LABELS = {"cross_file": "cross-file", "in_file": "in-file", "all": "all"}
SCOPE_LABELS = {
    "identifier": "a name", "expression": "an expression", "statement": "a statement", "block": "a block", "all": "all"
}  # fmt: skip
CALL_LABELS = {"callee": "what is called", "arguments": "its arguments"}
NEEDLE_LABELS = {"exact": "written as planted", "loss": "loss of its digits"}
METRIC_LABELS = {
    "loss": "loss",
    "exact": "equal",
    "edit": "edit similarity",
    "identifiers": "F1 of identifiers",
    "right": "confirmed",
}


_EXAMPLE_LABELS = {
    "question": "a question", "needle": "a planted definition", "next_edit": "the next edit",
    "commit_message": "a commit's subject",
}  # fmt: skip


@dataclass(frozen=True)
class MeasureView:
    """How a measure is shown: its charts share a heading and an explanation."""

    measure: str
    title: str
    what: str
    label: Callable[[Figure], str]
    chart: Callable[[Figure], str] = lambda figure: ""  # figures of one chart, its title


def _length_label(figure: Figure) -> str:
    return f"{figure.parts['length']:,} tokens" if "length" in figure.parts else ""


def _reach_label(figure: Figure) -> str:
    start, end = int(figure.parts["from"]), int(figure.parts["to"])
    if start < 0:
        return "nowhere before"
    return f"{start:,} and more" if end < 0 else f"{start:,}–{end - 1:,}"


def _class_label(figure: Figure) -> str:
    context = CONTEXT_LABELS.get(str(figure.parts["context"]), str(figure.parts["context"]))
    return f"{context}, {_length_label(figure)}"


def _completion_label(figure: Figure) -> str:
    task, place = str(figure.parts["task"]), str(figure.parts["place"])
    return f"{TASK_LABELS.get(task, task)}, {PLACE_LABELS.get(place, place)}"


def _scope_label(figure: Figure) -> str:
    return SCOPE_LABELS.get(str(figure.parts["scope"]), str(figure.parts["scope"]))


def _call_label(figure: Figure) -> str:
    what, place = str(figure.parts["what"]), str(figure.parts["place"])
    return f"{CALL_LABELS.get(what, what)}, {PLACE_LABELS.get(place, place)}"


def _task_title(figure: Figure) -> str:
    return f"{METRIC_LABELS.get(figure.metric, figure.metric)}, {_length_label(figure)}"


def _needle_label(figure: Figure) -> str:
    depth = int(figure.parts["depth"])
    return "all depths" if depth < 0 else f"{depth} % into the context"


VIEWS = (
    MeasureView(
        CHANGE, "Forgetting by language, and search instead of tuning",
        "Loss after tuning in percent of the base's, on the same tokens; of new lines also with what BM25 finds.",
        change_label,
    ),
    MeasureView(
        "context", "Loss by context",
        "Loss of the same added lines behind the same beginning of their file; only the files before it differ.",
        lambda one: CONTEXT_LABELS.get(str(one.parts["context"]), str(one.parts["context"])), _length_label,
    ),
    MeasureView(
        "gain", "What context is worth",
        "By how much the loss falls against no context at all: more means the model makes better use of what it sees.",
        lambda one: CONTEXT_LABELS.get(str(one.parts["context"]), str(one.parts["context"])), _length_label,
    ),
    MeasureView(
        "position", "Loss by position in the sequence",
        "A model that uses its context gets better towards the end of a sequence.",
        _reach_label,
        lambda one: f"{_TEXT_LABELS.get(str(one.parts['text']), '')}, {_length_label(one)}",
    ),
    MeasureView(
        "distance", "Loss by how far back the names lie",
        "Lines by how many tokens back the farthest of their names last occurred.",
        _reach_label, _length_label,
    ),
    MeasureView(
        "line", "Loss by what a line names",
        "Lines by the farthest place in which one of their names is defined.",
        lambda one: CLASS_LABELS.get(str(one.parts["class"]), str(one.parts["class"])), _class_label,
    ),
    MeasureView(
        "completion", "Completions",
        "Greedy completions against the text that was committed.",
        _completion_label, _task_title,
    ),
    MeasureView(
        "fim", "Middles at syntax scopes",
        "Text that is cut out of a file where its syntax allows, as an editor asks for it: both sides are shown.",
        _scope_label, _task_title,
    ),
    MeasureView(
        "next_edit", "The next edit",
        "Given the file as it was and what the commit is for: the rows that it changes next.",
        lambda one: METRIC_LABELS.get(one.metric, one.metric), _length_label,
    ),
    MeasureView(
        "commit_message", "A commit's subject", "Given its hunks.",
        lambda one: METRIC_LABELS.get(one.metric, one.metric), _length_label,
    ),
    MeasureView(
        "api_use", "Calls of the repository's own functions",
        "The name of what is called, and what it is given, after all that stands before it.",
        _call_label, _task_title,
    ),
    MeasureView(
        "question", "Questions about the repository",
        "Answers equal to the expected one, and answers that a second, independent check confirms.",
        lambda one: str(one.parts["kind"]), lambda one: METRIC_LABELS.get(one.metric, one.metric),
    ),
    MeasureView(
        "needle", "A planted definition, among decoys",
        "Whether its value is found, by its depth in the context.",
        _needle_label, lambda one: f"{NEEDLE_LABELS.get(one.metric, one.metric)}, {_length_label(one)}",
    ),
    MeasureView(
        "longppl", "LongPPL", "Perplexity of the tokens that need long context, chosen by the base.", _length_label,
    ),
    MeasureView(
        "short", "What short context cost",
        "The same added lines behind little of their own file: better or unchanged means nothing was lost.",
        lambda one: f"{int(one.parts['context_tokens']):,} tokens before it",
    ),
    MeasureView(
        "other", "What was forgotten",
        "Files of other repositories, without context: better or unchanged means nothing was forgotten.",
        lambda one: str(one.parts["repository"]),
    ),
    MeasureView(
        "control", "Another repository's new lines",
        "If these got easier too, the gain isn't this repository's own.",
        lambda one: str(one.parts["repository"]),
    ),
    MeasureView(
        "neutral", "Neutral code",
        "Pieces of public projects, the same for everybody: better or unchanged means nothing was forgotten.",
        lambda one: "all languages" if one.parts["language"] == "all" else str(one.parts["language"]),
    ),
)  # fmt: skip


def evaluation_charts(evaluation: Evaluation) -> list[Chart]:
    """Charts of the figures at the longest length, the most important first."""
    return [
        chart
        for view in _all_views(evaluation)
        for chart in _view_charts(
            view, _at_longest([one for one in evaluation.find(view.measure) if not _is_gain(one)])
        )
    ]


def shorter_table(evaluation: Evaluation) -> list[list[str]]:
    """Rows under FIGURE_COLUMNS with the figures at shorter lengths."""
    rows = []
    for view in _all_views(evaluation):
        figures = evaluation.find(view.measure)
        longest = _at_longest(figures)
        for one in figures:
            if one not in longest:
                label = ", ".join(filter(None, (_view_title(view, view.chart(one)), view.label(one))))
                rows.append(make_chart_row(one, label).cells())
    return rows


def against_table(other: AgainstAdapter) -> list[list[str]]:
    """Rows with the figures of a run against another adapter, at the longest length."""
    rows = []
    for view in _all_views(Evaluation({}, figures=other.figures)):
        for one in _at_longest([one for one in other.figures if one.measure == view.measure]):
            label = ", ".join(filter(None, (_view_title(view, view.chart(one)), view.label(one))))
            rows.append(make_chart_row(one, label).cells())
    return rows


def example_label(example: Example) -> str:
    """Describe an example's task in words."""
    if example.measure == "completion":
        task, place = (str(example.parts.get(name, "")) for name in ("task", "place"))
        return ", ".join(filter(None, (TASK_LABELS.get(task, task), PLACE_LABELS.get(place, place))))
    if example.measure == "fim":
        scope = str(example.parts.get("scope", ""))
        return f"in the middle: {SCOPE_LABELS.get(scope, scope)}"
    if example.measure == "api_use":
        what, place = (str(example.parts.get(name, "")) for name in ("what", "place"))
        return f"a call, {CALL_LABELS.get(what, what)}, {PLACE_LABELS.get(place, place)}"
    return _EXAMPLE_LABELS.get(example.measure, example.measure)


def _all_views(evaluation: Evaluation) -> list[MeasureView]:
    """The known views, then one for each measure without a view of its own."""
    known = {view.measure for view in VIEWS}
    others = dict.fromkeys(one.measure for one in evaluation.figures if one.measure not in known)
    return [*VIEWS, *(MeasureView(name, name, "", _parts_label) for name in others)]


def _parts_label(figure: Figure) -> str:
    return ", ".join(f"{name} {value}" for name, value in figure.parts.items())


def _at_longest(figures: Sequence[Figure]) -> list[Figure]:
    most = max((int(one.parts.get("length", 0)) for one in figures), default=0)
    return [one for one in figures if int(one.parts.get("length", 0)) == most]


_TEXTS_BY_TASK: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("next line", "completion", {"task": "line", "place": "all"}),
    ("middles at syntax scopes", "fim", {"scope": "all"}),
    ("the next edit", "next_edit", {}),
    ("own functions called", "api_use", {"what": "callee", "place": "all"}),
    ("what they are given", "api_use", {"what": "arguments", "place": "all"}),
    ("questions", "question", {"kind": "all"}),
)


def task_charts(evaluation: Evaluation) -> list[Chart]:
    """Chart what was gained by task: the change of loss in percent, beside that of other texts, and against other
    adapters; and how often the text is the wanted one. Empty if none of it was measured."""
    neutral = "Neutral code, the same for everybody, shows what was forgotten."
    gains = [_gain_chart("tasks-loss", "base's", evaluation.figures, neutral)]
    for number, one in enumerate(evaluation.against):
        gains.append(
            _gain_chart(f"against-{number}", f"{one.name}'s", one.figures, "Another adapter, on the same lines.")
        )
    texts = [
        make_chart_row(figure, label)
        for label, measure, parts in _TEXTS_BY_TASK
        for figure in _at_longest(evaluation.find(measure, "exact", **parts))
    ]
    note = "How often what a model writes is the text that was committed, or the expected answer."
    return [
        *(chart for chart in gains if chart.rows),
        *([_draw_rows("tasks-exact", "Gain by task: written as committed", texts, note)] if texts else []),
    ]


def _is_gain(figure: Figure) -> bool:
    """Whether a change of loss is of a task or a text as a whole, and against the base as it is."""
    parts = figure.parts
    return figure.measure == CHANGE and "base" not in parts and parts.get("language", "all") == "all"


def _gain_chart(name: str, whose: str, figures: Sequence[Figure], note: str) -> Chart:
    """Chart the changes of the loss, in percent of another's, with their intervals."""
    rows = [make_chart_row(one, change_label(one)) for one in figures if _is_gain(one)]

    def paint(axes: Axes, narrow: bool) -> None:
        axes.axvline(0, color=charts.MUTED, linewidth=1)
        for number, row in enumerate(rows):
            (value, low, high), at = row.difference, len(rows) - 1 - number
            colour = _VERDICT_COLORS.get(row.verdict, charts.MUTED)
            axes.plot([low, high], [at, at], color=colour, linewidth=1.6)
            axes.plot([value], [at], "o", markersize=6, color=colour)
            axes.annotate(
                _format_percent(value), (1, at), xycoords=("axes fraction", "data"), xytext=(6, 0),
                textcoords="offset points", va="center", annotation_clip=False, color=colour,
                weight="bold" if row.certain else "normal",
            )  # fmt: skip
        _label_rows(axes, rows, narrow)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(f"% of {whose} loss")

    title = f"Gain by task: loss against {whose}"
    cells = [[row.label, *map(_format_percent, row.difference), *row.cells()[5:]] for row in rows]
    says = "; ".join(f"{row[0]} {row[1]} ({row[-1]})" for row in cells)
    note = f"Change of the loss of the wanted text: left of 0 is better. {note}"
    height = 62 + 34 * len(rows)
    return draw_chart(name, title, f"{title}. {says}", paint, height, GAIN_COLUMNS, cells, note)


def _format_percent(value: float) -> str:
    return f"{value:+.1f} %".replace("-", "−")


def held_out_charts(comparisons: Sequence[Comparison]) -> Chart:
    """Chart base and tuned by length, on the sequences as prepared."""
    rows = [
        ChartRow(f"≤ {one.cap:,} tokens", (one.base, one.base, one.base), (one.tuned, one.tuned, one.tuned),
            (one.difference, one.low, one.high), one.certain, one.sequences, one.groups, "nats a token", True)
        for one in comparisons
    ]  # fmt: skip
    return _draw_rows(
        "held-out",
        "Loss on held-out lines",
        rows,
        "The same lines at every length, as they were prepared.",
    )


@dataclass(frozen=True)
class ChartRow:
    """One line of a chart. Estimates are (value, low, high); `lower`: whether lower is better."""

    label: str
    base: tuple[float, float, float]
    tuned: tuple[float, float, float]
    difference: tuple[float, float, float]
    certain: bool
    samples: int
    groups: int
    unit: str
    lower: bool

    @property
    def verdict(self) -> str:
        if self.groups < FEW_GROUPS:
            return "one group: no interval" if self.groups == 1 else "too few groups"
        if not self.certain:
            return "could be chance"
        return "better" if (self.difference[0] < 0) == self.lower else "worse"

    def cells(self) -> list[str]:
        difference, low, high = (_format_signed(value, self.unit) for value in self.difference)
        interval = f"{low} to {high}" if self.groups > 1 else "–"
        base, tuned = format_value(self.base[0], self.unit), format_value(self.tuned[0], self.unit)
        return [self.label, base, tuned, difference, interval, f"{self.samples:,}", f"{self.groups:,}", self.verdict]


def make_chart_row(figure: Figure, label: str) -> ChartRow:
    base, tuned, difference = ((one.value, one.low, one.high) for one in (figure.base, figure.tuned, figure.difference))
    return ChartRow(
        label, base, tuned, difference, figure.certain, figure.samples, figure.groups, figure.unit,
        figure.better == "lower",
    )  # fmt: skip


def format_value(value: float, unit: str) -> str:
    """Format a value; shares in percent."""
    if unit.startswith("%"):
        return f"{value:.1f} %"
    return f"{value * 100:.1f} %" if unit == "share" else f"{value:.2f}" if unit == "perplexity" else f"{value:.3f}"


def _format_signed(value: float, unit: str) -> str:
    text = format_value(abs(value), unit)
    return ("+" if value >= 0 else "−") + (f"{text[:-2]} pp" if unit == "share" else text)


def _view_charts(view: MeasureView, figures: Sequence[Figure]) -> list[Chart]:
    by_chart: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        by_chart.setdefault((view.chart(figure), figure.unit), []).append(figure)
    return [
        _draw_rows(
            f"{view.measure}-{number}",
            _view_title(view, title),
            [make_chart_row(one, view.label(one)) for one in there],
            view.what,
        )
        for number, ((title, _), there) in enumerate(by_chart.items())
    ]  # fmt: skip


def _view_title(view: MeasureView, title: str) -> str:
    return f"{view.title}: {title}" if title else view.title


def _draw_rows(name: str, title: str, rows: Sequence[ChartRow], note: str = "") -> Chart:
    unit = rows[0].unit
    scale = 100 if unit == "share" else 1

    def paint(axes: Axes, narrow: bool) -> None:
        for number, row in enumerate(rows):
            at = len(rows) - 1 - number
            _draw_interval(axes, row.base, at + 0.13, scale, charts.BASE, filled=False)
            _draw_interval(axes, row.tuned, at - 0.13, scale, charts.TUNED, filled=True)
            axes.annotate(
                _format_signed(row.difference[0], unit), (1, at), xycoords=("axes fraction", "data"), xytext=(6, 0),
                textcoords="offset points", va="center", annotation_clip=False,
                color=_VERDICT_COLORS.get(row.verdict, charts.MUTED), weight="bold" if row.certain else "normal",
            )  # fmt: skip
        _label_rows(axes, rows, narrow)
        if unit == "share":  # equal values would be drawn in thousandths of a percent, on both sides of 0
            left, right = axes.get_xlim()
            axes.set_xlim(max(left, -0.5), max(right, _MIN_SHARE_AXIS))
        axes.set_xlabel({"share": "%"}.get(unit, unit))

    says = "; ".join(f"{row.label}: base {row.cells()[1]}, tuned {row.cells()[2]} ({row.verdict})" for row in rows)
    height = 62 + 34 * len(rows)
    return draw_chart(
        name, title, f"{title}. {says}", paint, height, FIGURE_COLUMNS, [row.cells() for row in rows], note
    )


def _label_rows(axes: Axes, rows: Sequence[ChartRow], narrow: bool) -> None:
    labels = [_fold_label(row.label) if narrow else row.label for row in rows]
    axes.set_yticks(range(len(rows) - 1, -1, -1), labels)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.08)
    axes.grid(axis="x")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelcolor=charts.INK)
    axes.locator_params(axis="x", nbins=4 if narrow else 6)


def _draw_interval(
    axes: Axes, estimate: tuple[float, float, float], at: float, scale: int, colour: str, filled: bool
) -> None:
    value, low, high = (part * scale for part in estimate)
    axes.plot([low, high], [at, at], color=colour, linewidth=1.6, alpha=0.75)
    face = colour if filled else charts.PAPER
    axes.plot([value], [at], "o", markersize=6, color=colour, markerfacecolor=face, markeredgewidth=1.6, clip_on=False)


def _fold_label(label: str) -> str:
    """Break a long label into two lines."""
    if len(label) <= 16 or " " not in label:
        return label
    spaces = [place for place, letter in enumerate(label) if letter == " "]
    middle = min(spaces, key=lambda place: abs(place - len(label) / 2))
    return label[:middle] + "\n" + label[middle + 1 :]
