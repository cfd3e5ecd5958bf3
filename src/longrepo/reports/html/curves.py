"""How a run went, update by update: phases shaded, transitions marked, curves named where they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longrepo.reports.html import canvas
from longrepo.reports.html.canvas import Chart, draw
from longrepo.reports.html.run import History, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GIB = 2**30
_SMOOTHED = 0.1  # share of the curve's length that a mean runs over


def curves(run: Run) -> list[Chart]:
    """Empty before the first update."""
    if not run.history.updates:
        return []
    return [
        _losses(run.history),
        *_by_length(run.history),
        _norms(run),
        _rates(run.history),
        _speed(run.history),
    ]


def memory_curve(run: Run) -> list[Chart]:
    """What each update was planned to need, and used; empty where nothing was measured."""
    history = run.history
    peaks = [(one.update, one.memory["peak"] / GIB) for one in history.updates if one.memory.get("peak")]
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
        _phases(axes, history, narrow)
        last = peaks[-1]
        ends = [(*last, "most used", canvas.TUNED)]
        axes.plot(*zip(*peaks, strict=True), color=canvas.TUNED)
        for start, end, value in planned:
            axes.plot([start, end], [value, value], color=canvas.ACCENT, linestyle=(0, (4, 2)))
        if planned:
            ends.append((planned[-1][1], planned[-1][2], "planned", canvas.ACCENT))
        if near:
            axes.axhline(budget, color=canvas.INK, linewidth=1)
            ends.append((last[0], budget, "budget", canvas.INK))
        axes.set_ylim(0, 1.1 * max([top, *(value for _, _, value in planned), budget if near else 0]))
        _finish(axes, ends, "GiB")

    rows = [(f"phase {phase}", f"{plans[str(phase)]['peak'] / GIB:.2f}") for phase, _, _ in history.spans if plans]
    says = f"Memory by update: at most {top:.2f} GiB used" + "".join(
        f"; {name} planned {gib} GiB" for name, gib in rows
    )
    return [draw("memory", "Memory, GiB", says, paint)]


def _losses(history: History) -> Chart:
    updates = [one.update for one in history.updates]
    losses = [one.loss for one in history.updates]
    smooth = _smoothed(losses)
    groups = [[(update, found.loss) for update, found in group] for group in history.checks]
    checks = groups[-1]

    def paint(axes: Axes, narrow: bool) -> None:
        _phases(axes, history, narrow)
        axes.plot(updates, losses, color=canvas.MUTED, linewidth=0.7, alpha=0.55)
        axes.plot(updates, smooth, color=canvas.ACCENT)
        for group in groups:
            axes.plot(*zip(*group, strict=True), color=canvas.TUNED, marker="o", markersize=4)
        ends = [(updates[-1], smooth[-1], "training", canvas.ACCENT), (*checks[-1], "validation", canvas.TUNED)]
        _finish(axes, ends, "nats a token")

    says = (
        f"Training loss from {smooth[0]:.3f} to {smooth[-1]:.3f} (smoothed), validation loss from {checks[0][1]:.3f} "
        f"to {checks[-1][1]:.3f} nats a token over {updates[-1]} updates."
    )
    if len(groups) > 1:
        says += " Where its line breaks, positions or lengths changed: the parts don't compare."
    rows = [(f"{update:,}", f"{loss:.4f}") for group in groups for update, loss in group]
    return draw("losses", "Loss", says, paint, 260, ("after update", "validation loss"), rows)


def _by_length(history: History) -> list[Chart]:
    checks = [check for group in history.checks for check in group]
    names = list(dict.fromkeys(name for _, found in checks for name in found.by_length))
    if len(names) < 2 or len(checks) < 2:
        return []
    colours = (canvas.THIRD, canvas.ACCENT, canvas.TUNED, canvas.BASE)

    def paint(axes: Axes, narrow: bool) -> None:
        _phases(axes, history, narrow)
        ends = []
        for number, name in enumerate(names):
            points = [(update, found.by_length[name]) for update, found in checks if name in found.by_length]
            colour = colours[number % len(colours)]
            axes.plot(*zip(*points, strict=True), color=colour, marker="osD^"[number % 4], markersize=4)
            ends.append((*points[-1], f"{name} tokens", colour))
        _finish(axes, ends, "nats a token")

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
    return [draw("by-length", title, says, paint, 210, ("after update", *names), rows)]


def _norms(run: Run) -> Chart:
    history, clip = run.history, run.settings.training.max_grad_norm
    values = [one.gradient_norm for one in history.updates]
    clipped = sum(value > clip for value in values)
    words = f"{clipped} of {len(values)} updates were clipped at {clip:g}"

    def paint(axes: Axes, narrow: bool) -> None:
        _phases(axes, history, narrow)
        axes.plot([one.update for one in history.updates], values, color=canvas.TUNED, linewidth=1.2)
        ends = []
        if max(values) > clip / 2:
            axes.plot([1, len(values)], [clip, clip], color=canvas.ACCENT, linestyle=(0, (4, 2)), linewidth=1)
            ends.append((history.updates[-1].update, clip, "clipped", canvas.ACCENT))
        axes.set_ylim(0, None)
        _finish(axes, ends, "")

    says = f"Gradient norm between {min(values):.3f} and {max(values):.3f}; {words}."
    return draw("norms", f"Gradient norm: {words}", says, paint)


def _rates(history: History) -> Chart:
    points = [(one.update, one.learning_rate) for one in history.updates]

    def paint(axes: Axes, narrow: bool) -> None:
        _phases(axes, history, narrow)
        axes.plot(*zip(*points, strict=True), color=canvas.TUNED)
        axes.ticklabel_format(axis="y", style="plain")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
        axes.set_ylim(0, None)
        _finish(axes, [], "")

    most = max(rate for _, rate in points)
    return draw("rates", "Learning rate", f"Learning rate, at most {most:.2g}; each phase warms up anew.", paint)


def _speed(history: History) -> Chart:
    updates = [one.update for one in history.updates]
    speeds = [one.tokens / max(one.seconds, 1e-9) for one in history.updates]
    mean = history.tokens / max(history.seconds, 1e-9)

    def paint(axes: Axes, narrow: bool) -> None:
        _phases(axes, history, narrow)
        axes.plot(updates, speeds, color=canvas.TUNED, linewidth=1.2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(0, None)
        _finish(axes, [], "")

    says = f"Throughput between {min(speeds):,.0f} and {max(speeds):,.0f} tokens a second, {mean:,.0f} on average."
    return draw("speed", f"Tokens a second: {mean:,.0f} on average", says, paint)


def _phases(axes: Axes, history: History, narrow: bool) -> None:
    """Every other phase on a shade, its number above it, a line where one follows another."""
    for number, (phase, start, end) in enumerate(history.spans):
        if end <= start:
            continue
        if number % 2:
            axes.axvspan(start, end, color=canvas.SHADE, linewidth=0)
        if number:
            axes.axvline(start, color=canvas.MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        words = f"{phase}" if narrow and number else f"phase {phase}"
        axes.annotate(
            words, ((start + end) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", color=canvas.MUTED, annotation_clip=False,
        )  # fmt: skip


def _finish(axes: Axes, ends: Sequence[tuple[float, float, str, str]], unit: str) -> None:
    left, right = axes.get_xlim()
    if right - left < 1:  # one update: its phase is named in the middle of it
        axes.set_xlim(0, right)
    low, high = axes.get_ylim()
    canvas.label_ends(axes, ends, (high - low) * 0.09)
    axes.set_xlabel("update")
    axes.locator_params(axis="x", integer=True)
    if unit:
        axes.set_ylabel(unit)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential means, corrected for their start."""
    keep = 1 - 1 / max(1.0, _SMOOTHED * len(values))
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(total / weight if weight else value)
    return means
