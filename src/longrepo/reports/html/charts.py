"""Charts and training curves as SVG inside the page, drawn by matplotlib: real text, colors from the page's style.

Each chart is drawn twice, for wide and for narrow screens, so that its letters keep their size; the style shows one.
Curves are by update: phases shaded, transitions marked, each curve labeled at its end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

from longrepo.reports.run_record import MetricsHistory, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes


WIDE_WIDTH, NARROW_WIDTH = 520, 316  # pixels
_FONT_SIZE = 12  # pixels
# matplotlib draws with colors that nothing else has; the page replaces them by variables of style.css, as `--ink`.
INK, MUTED, GRID, PAPER, BASE, TUNED, SHADE, ACCENT, THIRD = _COLORS = tuple(f"#0{n}0{n}0{n}" for n in range(1, 10))
_COLOR_NAMES = ("ink", "muted", "grid", "paper", "base", "tuned", "shade", "accent", "third")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": _FONT_SIZE, "text.color": INK,
    "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": GRID,
    "grid.linewidth": 0.8, "xtick.color": GRID, "xtick.labelcolor": MUTED, "ytick.color": GRID,
    "ytick.labelcolor": MUTED, "ytick.left": False, "lines.linewidth": 1.8, "lines.solid_capstyle": "round",
    "axes.xmargin": 0.02, "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A chart. `says` describes it in words, for those who can't see it; `note` explains it; `columns` and `rows` are
    its figures as a table."""

    name: str
    title: str
    says: str
    wide: str
    narrow: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default=())
    note: str = ""


def draw_chart(
    name: str,
    title: str,
    says: str,
    paint: Callable[[Axes, bool], None],
    height: float = 210,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
    note: str = "",
) -> Chart:
    """Draw a chart with `paint(axes, narrow)` at both widths. `name` must be unique on the page; `height` in pixels."""
    wide, narrow = (_draw_svg(f"{name}-{width}", says, paint, width, height) for width in (WIDE_WIDTH, NARROW_WIDTH))
    return Chart(name, title, says, wide, narrow, columns, rows, note)


def _draw_svg(name: str, says: str, paint: Callable[[Axes, bool], None], width: int, height: float) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with _quiet_matplotlib(), matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        paint(figure.subplots(), width == NARROW_WIDTH)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _adapt_svg(out.getvalue(), name, says, width, height)


def _adapt_svg(svg: str, name: str, says: str, width: int, height: float) -> str:
    """Remove what only a separate file needs, make ids unique, and leave colors and fonts to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: (?:(bold|\d00) )?([\d.]+)px [^;\"]+", r"font-weight: \1; font-size: \2px", svg)
    svg = svg.replace("font-weight: ; ", "").replace("xlink:href", "href")
    for colour, word in zip(_COLORS, _COLOR_NAMES, strict=True):
        svg = svg.replace(colour, f"var(--{word})")
    label = says.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{label}">'
    return head + svg[svg.index(">") + 1 :].strip()


@contextmanager
def _quiet_matplotlib() -> Iterator[None]:
    """Silence matplotlib, which logs its font cache and the page's fonts that it doesn't have."""
    import logging

    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], gap: float) -> None:
    """Label the ends of curves, (x, y, words, color), pushed apart to at least `gap` in the y axis's unit."""
    placed: list[float] = []
    for x, y, words, colour in sorted(ends, key=lambda end: end[1]):
        at = max(y, placed[-1] + gap) if placed else y
        placed.append(at)
        axes.annotate(
            words, (x, at), xytext=(5, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False
        )


GIB = 2**30
_SMOOTHING = 0.1  # share of the curve's length that a mean runs over


def training_curves(run: RunRecord) -> list[Chart]:
    """Draw the curves of a run; empty before the first update."""
    if not run.history.updates:
        return []
    return [
        _loss_chart(run.history),
        *_length_chart(run.history),
        _norm_chart(run),
        _learning_rate_chart(run.history),
        _speed_chart(run.history),
    ]


def memory_curve(run: RunRecord) -> list[Chart]:
    """Draw planned and used memory by update; empty if nothing was measured."""
    history = run.history
    peaks = [(update, peak / GIB) for update, peak in history.peaks]
    if not peaks:
        return []
    plans = (run.plan or {}).get("phases", {})
    planned = [
        (start, end, plans[str(phase)]["peak"] / GIB) for phase, start, end in history.spans if str(phase) in plans
    ]
    top = max(value for _, value in peaks)
    budget = (run.plan or {}).get("budget", {}).get("bytes", 0) / GIB
    near = 0 < budget < 2 * top

    def paint(axes: Axes, narrow: bool) -> None:
        _mark_phases(axes, history, narrow)
        last = peaks[-1]
        ends = [(*last, "most used", TUNED)]
        axes.plot(*zip(*peaks, strict=True), color=TUNED)
        for start, end, value in planned:
            axes.plot([start, end], [value, value], color=ACCENT, linestyle=(0, (4, 2)))
        if planned:
            ends.append((planned[-1][1], planned[-1][2], "planned", ACCENT))
        if near:
            axes.axhline(budget, color=INK, linewidth=1)
            ends.append((last[0], budget, "budget", INK))
        axes.set_ylim(0, 1.1 * max([top, *(value for _, _, value in planned), budget if near else 0]))
        _finish_axes(axes, ends, "GiB")

    rows = [
        (f"phase {phase}", f"{plans[str(phase)]['peak'] / GIB:.2f}")
        for phase, _, _ in history.spans
        if str(phase) in plans
    ]
    says = f"Memory by update: at most {top:.2f} GiB used" + "".join(
        f"; {name} planned {gib} GiB" for name, gib in rows
    )
    return [draw_chart("memory", "Memory, GiB", says, paint)]


def _loss_chart(history: MetricsHistory) -> Chart:
    updates = [one.update for one in history.updates]
    losses = [one.loss for one in history.updates]
    smooth = _smooth(losses)
    groups = [[(update, check.loss) for update, check in group] for group in history.checks]
    checks = groups[-1] if groups else []

    def paint(axes: Axes, narrow: bool) -> None:
        _mark_phases(axes, history, narrow)
        axes.plot(updates, losses, color=MUTED, linewidth=0.7, alpha=0.55)
        axes.plot(updates, smooth, color=ACCENT)
        for group in groups:
            axes.plot(*zip(*group, strict=True), color=TUNED, marker="o", markersize=4)
        ends = [(updates[-1], smooth[-1], "training", ACCENT)]
        if checks:
            ends.append((*checks[-1], "validation", TUNED))
        _finish_axes(axes, ends, "nats a token")

    says = f"Training loss from {smooth[0]:.3f} to {smooth[-1]:.3f} nats a token (smoothed) over {len(updates)} updates"
    says += f", validation loss from {checks[0][1]:.3f} to {checks[-1][1]:.3f}." if checks else "."
    if len(groups) > 1:
        says += " Its line breaks where positions, lengths or the engine changed: the parts aren't comparable."
    rows = [(f"{update:,}", f"{loss:.4f}") for group in groups for update, loss in group]
    return draw_chart("losses", "Loss", says, paint, 260, ("after update", "validation loss"), rows)


def _length_chart(history: MetricsHistory) -> list[Chart]:
    groups = history.checks
    checks = [check for group in groups for check in group]
    names = list(dict.fromkeys(name for _, found in checks for name in found.by_length))
    if len(names) < 2 or len(checks) < 2:
        return []
    colours = (THIRD, ACCENT, TUNED, BASE)

    def paint(axes: Axes, narrow: bool) -> None:
        _mark_phases(axes, history, narrow)
        ends = []
        for number, name in enumerate(names):
            colour, points = colours[number % len(colours)], list[tuple[int, float]]()
            for group in history.checks:
                if (
                    points := [(update, one.by_length[name]) for update, one in group if name in one.by_length]
                    or points
                ):
                    axes.plot(*zip(*points, strict=True), color=colour, marker="osD^"[number % 4], markersize=4)
            ends.append((*points[-1], f"{name} tokens", colour))
        _finish_axes(axes, ends, "nats a token")

    rows = [
        (f"{update:,}", *(f"{found.by_length[name]:.4f}" if name in found.by_length else "–" for name in names))
        for update, found in checks
    ]
    says = "Validation loss by length, first to last: " + "; ".join(
        f"{name} tokens {found[0]:.3f} to {found[-1]:.3f}"
        for name in names
        if (found := [found.by_length[name] for _, found in checks if name in found.by_length])
    )
    title = "Validation loss by length"
    return [draw_chart("by-length", title, says, paint, 210, ("after update", *names), rows)]


def _norm_chart(run: RunRecord) -> Chart:
    history, clip = run.history, run.settings.training.max_grad_norm
    values = [one.gradient_norm for one in history.updates]
    clipped = sum(value > clip for value in values)
    words = f"{clipped} of {len(values)} updates were clipped at {clip:g}"

    def paint(axes: Axes, narrow: bool) -> None:
        _mark_phases(axes, history, narrow)
        axes.plot([one.update for one in history.updates], values, color=TUNED, linewidth=1.2)
        ends = []
        if max(values) > clip / 2:
            axes.plot(
                [history.updates[0].update, history.updates[-1].update],
                [clip, clip],
                color=ACCENT,
                linestyle=(0, (4, 2)),
                linewidth=1,
            )
            ends.append((history.updates[-1].update, clip, "clipped", ACCENT))
        axes.set_ylim(0, None)
        _finish_axes(axes, ends, "")

    says = f"Gradient norm between {min(values):.3f} and {max(values):.3f}; {words}."
    return draw_chart("norms", f"Gradient norm: {words}", says, paint)


def _learning_rate_chart(history: MetricsHistory) -> Chart:
    points = [(one.update, one.learning_rate) for one in history.updates]

    def paint(axes: Axes, narrow: bool) -> None:
        _mark_phases(axes, history, narrow)
        axes.plot(*zip(*points, strict=True), color=TUNED)
        axes.ticklabel_format(axis="y", style="plain")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
        axes.set_ylim(0, None)
        _finish_axes(axes, [], "")

    most = max(rate for _, rate in points)
    return draw_chart("rates", "Learning rate", f"Learning rate, at most {most:.2g}; each phase warms up again.", paint)


def _speed_chart(history: MetricsHistory) -> Chart:
    updates = [one.update for one in history.updates]
    speeds = [one.tokens / max(one.seconds, 1e-9) for one in history.updates]
    mean = history.tokens / max(history.seconds, 1e-9)

    def paint(axes: Axes, narrow: bool) -> None:
        _mark_phases(axes, history, narrow)
        axes.plot(updates, speeds, color=TUNED, linewidth=1.2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(0, None)
        _finish_axes(axes, [], "")

    says = f"Throughput between {min(speeds):,.0f} and {max(speeds):,.0f} tokens a second, {mean:,.0f} on average."
    return draw_chart("speed", f"Tokens a second: {mean:,.0f} on average", says, paint)


def _mark_phases(axes: Axes, history: MetricsHistory, narrow: bool) -> None:
    """Shade every other phase, number each above it, and draw a line at each transition."""
    for number, (phase, start, end) in enumerate(history.spans):
        if end <= start:
            continue
        if number % 2:
            axes.axvspan(start, end, color=SHADE, linewidth=0)
        if number:
            axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        words = f"{phase}" if narrow and number else f"phase {phase}"
        axes.annotate(
            words, ((start + end) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", color=MUTED, annotation_clip=False,
        )  # fmt: skip


def _finish_axes(axes: Axes, ends: Sequence[tuple[float, float, str, str]], unit: str) -> None:
    left, right = axes.get_xlim()
    if right - left < 1:  # one update: its phase is named in the middle of it
        axes.set_xlim(0, right)
    low, high = axes.get_ylim()
    label_ends(axes, ends, (high - low) * 0.09)
    axes.set_xlabel("update")
    axes.locator_params(axis="x", integer=True)
    if unit:
        axes.set_ylabel(unit)


def _smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its start."""
    keep = 1 - 1 / max(1.0, _SMOOTHING * len(values))
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(total / weight if weight else value)
    return means
