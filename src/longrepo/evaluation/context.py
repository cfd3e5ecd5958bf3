"""The loss of the same held-out lines behind different contexts, and what it says: gain from context, loss by distance
and position, by what a line names, and on the tokens that need long context (LongPPL)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from longrepo.engines.base import Engine
from longrepo.evaluation import distance, longppl
from longrepo.evaluation.held import Held, Material
from longrepo.evaluation.layout import CONTEXTS, Layout, Place, lay, lay_short
from longrepo.evaluation.line_class import LineClasses
from longrepo.evaluation.measured import Measured, Row, Unit
from longrepo.evaluation.result import Parts
from longrepo.evaluation.scoring import Both, Mask, score_both

SHORT = 128  # tokens of its own file that a line has before it in the short-context task
CLASSED = ("none", "related")


def units(material: Material, lengths: Sequence[int], seed: int) -> Iterator[Unit]:
    """One for each held-out block and length that holds it."""
    for held in material.held:
        for length in lengths:
            whole = length == max(lengths)
            yield Unit(
                f"context/{length}/{held.key}/{whole}", partial(_measure, material, held, length, seed, whole), length
            )


def _measure(material: Material, held: Held, length: int, seed: int, whole: bool, engine: Engine) -> Measured:
    """`whole`: with what is measured once, at the longest length: by position, and behind a short context."""
    place, scored = Place.of_block(held), held.scored
    losses: dict[str, Both] = {}
    rows: list[Row] = []
    for context in CONTEXTS:
        layout = lay(place, length, context, seed, material.tokenizer)
        if layout is None:
            return Measured()
        everywhere = whole and context == "related"
        wanted = _texts(layout) if everywhere else np.zeros(len(layout.ids), bool)
        wanted[layout.start :] |= scored
        found = score_both(engine, layout.ids, wanted)
        losses[context] = found.at(slice(layout.start, None))
        if context == "related":
            rows += distance.rows(held, layout, losses[context], length)
            if everywhere:
                rows += distance.position_rows(held, layout, found, material.seen.shown, length)
    short = lay_short(place, SHORT, material.tokenizer)
    wanted = np.zeros(len(short.ids), bool)
    wanted[short.start :] = scored
    truncated = score_both(engine, short.ids, wanted).at(slice(short.start, None))
    rows = [*_by_context(held, losses, scored, length), *rows, *_by_class(held, losses, length)]
    rows += longppl.rows(held, truncated, losses["related"], scored, length)
    if whole:
        rows.append(loss_row("short", {"context_tokens": SHORT}, held.group, truncated.at(scored)))
    return Measured(rows)


def loss_row(measure: str, parts: Parts, group: str, losses: Both) -> Row:
    """The loss of some tokens."""
    return Row(measure, "loss", parts, group, len(losses.base), *losses.sums())


def _texts(layout: Layout) -> Mask:
    """Which tokens are those of files, not marks or paths."""
    found = np.zeros(len(layout.ids), bool)
    for part in layout.parts:
        found[part.at : part.at + part.end - part.start] = True
    return found


def _by_context(held: Held, losses: Mapping[str, Both], scored: Mask, length: int) -> Iterator[Row]:
    none = losses["none"].at(scored)
    for context, both in losses.items():
        parts: Parts = {"context": context, "length": length}
        yield loss_row("context", parts, held.group, both.at(scored))
        if context != "none":
            gained = Both(none.base - both.at(scored).base, none.tuned - both.at(scored).tuned)
            yield Row("gain", "gain", parts, held.group, len(gained.base), *gained.sums())


def _by_class(held: Held, losses: Mapping[str, Both], length: int) -> Iterator[Row]:
    classes, of, start = LineClasses(held), held.target.of, held.target.start
    for row in held.rows:
        tokens = slice(of.row_token(row) - start, of.row_token(row + 1) - start)
        for context in CLASSED:
            parts: Parts = {"class": classes.of(row), "context": context, "length": length}
            yield loss_row("line", parts, held.group, losses[context].at(tokens))
