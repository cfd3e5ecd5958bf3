"""Loss by where things stand: how far back the names of a line were last seen, and the position in the sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from longrepo.evaluation.held import Held
from longrepo.evaluation.layout import Layout
from longrepo.evaluation.line_class import LineClasses
from longrepo.evaluation.measured import Row
from longrepo.evaluation.result import Parts
from longrepo.evaluation.scoring import Both
from longrepo.sequences.shown import Shown

BOUNDS = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # tokens


def rows(held: Held, layout: Layout, losses: Both, length: int) -> Iterator[Row]:
    """The loss of each scored line by how far back the farthest of its names was last seen. Names that stand all over
    the project don't count, nor do lines without others; -1: none of a line's names stands before it."""
    names, tokens = _names(layout)
    classes, of, start = LineClasses(held), held.target.of, held.target.start
    for row in held.rows:
        telling = classes.telling(row)
        if not telling:
            continue
        first, last = of.row_token(row) - start, of.row_token(row + 1) - start
        back = _farthest(names, tokens, telling, layout.start + first)
        low, high = _bucket(back) if back is not None else (-1, -1)
        both = losses.at(slice(first, last))
        parts: Parts = {"from": low, "to": high, "length": length}
        yield Row("distance", "loss", parts, held.group, last - first, *both.sums())


def position_rows(held: Held, layout: Layout, losses: Both, seen: Shown, length: int) -> Iterator[Row]:
    """The loss of every token of the files shown, by its position, lines that training showed apart from new ones."""
    kinds = np.zeros(len(layout.ids), np.int8)  # 0: no text or too short a line to tell, 1: seen, 2: new
    for part in layout.parts:
        each = np.diff(part.of.rows, append=np.int32(len(part.of)))
        told = np.where(part.of.row_hashes == 0, 0, np.where(seen.fresh(part.of.row_hashes), 2, 1))
        kinds[part.at : part.at + part.end - part.start] = np.repeat(told, each)[part.start : part.end]
    for text, kind in (("seen", 1), ("new", 2)):
        for low, high in pairwise((*(bound for bound in BOUNDS if bound < length), length)):
            at = np.flatnonzero(kinds[low:high] == kind) + low
            if len(at):
                parts: Parts = {"from": low, "to": high, "text": text, "length": length}
                yield Row("position", "loss", parts, held.group, len(at), *losses.at(at).sums())


def _names(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Every name (hash) in a sequence and the token it stands at, `[names]` each, in order."""
    names: list[np.ndarray] = [np.zeros(0, np.uint32)]
    tokens: list[np.ndarray] = [np.zeros(0, np.int64)]
    for part in layout.parts:
        first, last = np.searchsorted(part.of.name_tokens, [part.start, part.end])
        names.append(part.of.names[first:last])
        tokens.append(part.of.name_tokens[first:last].astype(np.int64) - part.start + part.at)
    return np.concatenate(names), np.concatenate(tokens)


def _farthest(names: np.ndarray, tokens: np.ndarray, wanted: set[int], line: int) -> int | None:
    """Tokens from the start of a line back to the last sight of that of its names that was seen longest ago."""
    before = tokens < line
    last = [int(found[-1]) for name in sorted(wanted) if len(found := tokens[before & (names == name)])]
    return line - min(last) if last else None


def _bucket(distance: int, bounds: Sequence[int] = BOUNDS) -> tuple[int, int]:
    at = int(np.searchsorted(bounds, distance, "right")) - 1
    return bounds[at], bounds[at + 1] if at + 1 < len(bounds) else -1
