"""Charts as SVG inside the page, drawn by matplotlib: real text, colours by name from the page's style.

Each is drawn twice, for wide and for narrow screens, so that its letters keep their size; the style shows one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = 520, 316  # pixels
_LETTERS = 12  # pixels
# matplotlib is given a colour that nothing else has, the page its name: `--ink` of style.css, in both themes.
INK, MUTED, GRID, PAPER, BASE, TUNED, SHADE, ACCENT, THIRD = _COLOURS = tuple(f"#0{n}0{n}0{n}" for n in range(1, 10))
_NAMES = ("ink", "muted", "grid", "paper", "base", "tuned", "shade", "accent", "third")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": _LETTERS, "text.color": INK,
    "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": GRID,
    "grid.linewidth": 0.8, "xtick.color": GRID, "xtick.labelcolor": MUTED, "ytick.color": GRID,
    "ytick.labelcolor": MUTED, "ytick.left": False, "lines.linewidth": 1.8, "lines.solid_capstyle": "round",
    "axes.xmargin": 0.02, "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """`says` is the chart in words, for who can't see it; `note` explains it; `columns` and `rows` are its figures as a
    table."""

    name: str
    title: str
    says: str
    wide: str
    narrow: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default=())
    note: str = ""


def draw(
    name: str,
    title: str,
    says: str,
    paint: Callable[[Axes, bool], None],
    height: float = 210,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
    note: str = "",
) -> Chart:
    """Let `paint(axes, narrow)` draw it at both widths. `name` must be the page's only one; `height` in pixels."""
    wide, narrow = (_svg(f"{name}-{width}", says, paint, width, height) for width in (WIDE, NARROW))
    return Chart(name, title, says, wide, narrow, columns, rows, note)


def _svg(name: str, says: str, paint: Callable[[Axes, bool], None], width: int, height: float) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with _quiet(), matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        paint(figure.subplots(), width == NARROW)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(out.getvalue(), name, says, width, height)


def _for_page(svg: str, name: str, says: str, width: int, height: float) -> str:
    """Without what a file of its own needs; names made unique; colours and letters left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: (?:(bold|\d00) )?([\d.]+)px [^;\"]+", r"font-weight: \1; font-size: \2px", svg)
    svg = svg.replace("font-weight: ; ", "").replace("xlink:href", "href")
    for colour, word in zip(_COLOURS, _NAMES, strict=True):
        svg = svg.replace(colour, f"var(--{word})")
    label = says.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{label}">'
    return head + svg[svg.index(">") + 1 :].strip()


@contextmanager
def _quiet() -> Iterator[None]:
    """matplotlib tells of its font cache, and of the page's fonts that it doesn't have."""
    import logging

    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], gap: float) -> None:
    """Write (x, y, words, colour) right of the ends of curves, pushed apart to at least `gap` of the y axis's unit."""
    placed: list[float] = []
    for x, y, words, colour in sorted(ends, key=lambda end: end[1]):
        at = max(y, placed[-1] + gap) if placed else y
        placed.append(at)
        axes.annotate(
            words, (x, at), xytext=(5, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False
        )
