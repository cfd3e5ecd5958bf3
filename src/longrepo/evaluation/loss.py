"""Loss by context, distance, line class, LongPPL.

What a line names: classes after those of Long Code Arena's code completion (arXiv 2406.11612), decided by the names
that syntax trees define.

LongPPL: the perplexity of the tokens that need long context (Fang et al. 2024, arXiv 2410.23771).

A key token is one whose loss falls by more than ALPHA nats from a truncated context to the long one (long-short
difference), and is below BETA nats then (long-context likelihood). The base chooses them, for both models.

Sequences to measure on: other files before, the beginning of the file in question, and the place where it goes on.

The format is that of training (`longrepo.sequences.prompt`). A length is shared out like this: half of what the block
leaves is for the beginning of its own file, whatever else is shown, so that contexts differ in other files alone.

Loss by where things stand: how far back the names of a line were last seen, and the position in the sequence.

The loss of the same held-out lines behind different contexts, and what it says: gain from context, loss by distance
and position, by what a line names, and on the tokens that need long context (LongPPL).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice, pairwise

import numpy as np

from longrepo.data.dedup import Shown
from longrepo.data.repo_tree import LINES
from longrepo.data.template import (
    Draft,
    FilePiece,
    Part,
    Sizes,
    fitting,
    following,
    write_beginning,
    write_gap,
    write_others,
)
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.engines.base import Engine
from longrepo.evaluation.blocks import Held, Material
from longrepo.evaluation.results import Parts
from longrepo.evaluation.scoring import Both, Ids, Mask, Measured, Row, Unit, score_both
from longrepo.utils import hashing

CLASSES = ("committed", "in_project", "in_file", "common", "other")
CROSS_FILE = ("committed", "in_project")


class LineClasses:
    """Classes of the rows of one held-out file."""

    def __init__(self, held: Held) -> None:
        self._of = held.target.of
        self._held = held

    def names(self, row: int) -> set[int]:
        """The names (hashes) on a row."""
        of = self._of
        first, last = np.searchsorted(of.name_tokens, [of.row_token(row), of.row_token(row + 1)])
        return set(of.names[first:last].tolist())

    def telling(self, row: int) -> set[int]:
        """Those of them that don't stand all over the project, keywords among those."""
        return self.names(row) - self._held.tree.common

    def of(self, row: int) -> str:
        """The class of a row: the first of CLASSES that holds, in this order."""
        names = self.telling(row)
        if names & self._new_beside:
            return "committed"
        if any(name in self._elsewhere for name in names):
            return "in_project"
        if self.names(row) & self._own:
            return "in_file"
        return "other" if names else "common"

    @cached_property
    def _own(self) -> set[int]:
        before = self._held.tree.texts.get(self._of.path)
        return {*self._of.defines.tolist(), *(before.defines.tolist() if before else ())}

    @cached_property
    def _new_beside(self) -> set[int]:
        """What other files of the commit define and the tree before it did not."""
        return self._held.defined_beside - self._held.tree.defined_in.keys() - self._own

    @cached_property
    def _elsewhere(self) -> set[int]:
        """What other files define, few enough to tell, and this one doesn't."""
        tree = self._held.tree
        return tree.defined_in.keys() - self._own - tree.ambiguous


ALPHA, BETA = 2.0, 2.0  # nats; as in the authors' code


def longppl_rows(held: Held, truncated: Both, long: Both, scored: Mask, length: int) -> Iterator[Row]:
    """One row, where there is a key token."""
    key = scored & (truncated.base - long.base > ALPHA) & (long.base < BETA)
    if key.any():
        yield Row("longppl", "longppl", {"length": length}, held.group, int(key.sum()), *long.at(key).sums())


CONTEXTS = ("none", "random", "related", "retrieved")
_SEARCHED = 200  # pieces taken of what a search finds


@dataclass(frozen=True)
class Place:
    """Where a file goes on: after token `at` of `of`; `end` is where what is asked about ends."""

    held: Held
    of: TokenizedText
    at: int
    end: int

    @staticmethod
    def of_block(held: Held) -> Place:
        """The held-out block as a whole."""
        return Place(held, held.target.of, held.target.start, held.target.end)

    def before(self, room: int) -> FilePiece:
        """At most `room` tokens of the file up to the place."""
        return FilePiece(self.of, self.of.start_in(self.at, room), self.at, (), False)


@dataclass(frozen=True)
class Layout:
    """`ids` `[tokens]`, of which those from `start` on are what is asked about; `parts`: where texts stand in it."""

    ids: Ids
    start: int
    parts: tuple[Part, ...]


def lay(place: Place, length: int, context: str, seed: int, tokenizer: RepoTokenizer) -> Layout | None:
    """The place's text behind a context, `length` tokens at most; None where they don't hold it."""
    sizes = Sizes(tokenizer)
    room = length - sizes.frame(place.of) - (place.end - place.at)
    if room < 0:
        return None
    before = place.before(room // 2)
    draft = Draft(tokenizer)
    write_others(draft, fitting(OTHERS[context](place, seed), room - before.size, sizes))
    return _with_block(draft, before, place)


def lay_short(place: Place, tokens: int, tokenizer: RepoTokenizer) -> Layout:
    """The place's text behind its path and so many tokens of its own file, at most, and nothing else."""
    return _with_block(Draft(tokenizer), place.before(tokens), place)


def _with_block(draft: Draft, before: FilePiece, place: Place) -> Layout:
    write_beginning(draft, before)
    start = len(draft)
    draft.text(place.of, place.at, place.end, 1.0, True)
    return Layout(draft.arrays()[0], start, tuple(draft.parts))


def lay_fim(place: Place, length: int, context: str, seed: int, tokenizer: RepoTokenizer) -> Layout | None:
    """A prompt for the middle `at`..`end` of a file: behind a context what stands before it, then what stands after
    (a quarter of the room). None where the tokenizer can't ask so, or the length is too short."""
    fim, sizes = tokenizer.fim, Sizes(tokenizer)
    room = length - sizes.frame(place.of) - 3 - (place.end - place.at)
    if fim is None or room < 0:
        return None
    before, after = place.before(room // 4), following(place.of, place.end, room // 4)
    draft = Draft(tokenizer)
    write_others(draft, fitting(OTHERS[context](place, seed), room - before.size - after.size, sizes))
    write_gap(draft, before, after, fim)
    return Layout(draft.arrays()[0], len(draft), tuple(draft.parts))


def _related(place: Place, seed: int) -> Iterator[FilePiece]:
    tree = place.held.tree
    return (FilePiece.whole(tree.texts[path], False) for path in tree.related(place.of.path, place.held.imports_above))


def _random(place: Place, seed: int) -> Iterator[FilePiece]:
    texts = place.held.tree.texts
    order = sorted(texts, key=lambda path: hashing.number(seed, "random", place.held.key, path))
    return (FilePiece.whole(texts[path], False) for path in order if path != place.of.path)


def _retrieved(place: Place, seed: int) -> Iterator[FilePiece]:
    above = [place.of.path, *place.of.slice_text(0, place.at).split("\n")[-LINES - 1 :]]
    return islice(place.held.tree.index.search("\n".join(above), place.of.path), _SEARCHED)


OTHERS: dict[str, Callable[[Place, int], Iterator[FilePiece]]] = {
    "none": lambda place, seed: iter(()),
    "random": _random,
    "related": _related,
    "retrieved": _retrieved,
}


BOUNDS = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # tokens


def distance_rows(held: Held, layout: Layout, losses: Both, length: int) -> Iterator[Row]:
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
            rows += distance_rows(held, layout, losses[context], length)
            if everywhere:
                rows += position_rows(held, layout, found, material.seen.shown, length)
    short = lay_short(place, SHORT, material.tokenizer)
    wanted = np.zeros(len(short.ids), bool)
    wanted[short.start :] = scored
    truncated = score_both(engine, short.ids, wanted).at(slice(short.start, None))
    rows = [*_by_context(held, losses, scored, length), *rows, *_by_class(held, losses, length)]
    rows += longppl_rows(held, truncated, losses["related"], scored, length)
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
