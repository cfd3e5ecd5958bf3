"""The loss of the same held-out lines behind different contexts: gain from context, loss by distance, position and
line class, and LongPPL.

A prompt is laid out as in training (`longrepo.data.template`): other files, the beginning of the block's own file, then
the block. Half of the room beside the block is for its own file whatever else is shown, so that contexts differ in
other files alone.

Line classes follow those of Long Code Arena's code completion (arXiv 2406.11612), decided by the names that syntax
trees define. Distance is how far back a line's names were last seen.

LongPPL is the perplexity of the tokens that need long context (Fang et al. 2024, arXiv 2410.23771). A key token is one
whose loss falls by more than ALPHA nats from a truncated context to the long one (long-short difference) and is then
below BETA nats (long-context likelihood). The base model chooses them for both models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np

from longrepo.data.bm25 import words_above
from longrepo.data.dedup import TrainingTexts
from longrepo.data.template import (
    FilePiece,
    SequenceBuilder,
    SequencePart,
    TemplateSizes,
    fit_pieces,
    piece_from,
    write_context_files,
    write_file_gap,
    write_file_prefix,
)
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.used_context import Place
from longrepo.engines.base import Engine
from longrepo.evaluation.blocks import EvalData, HeldOutBlock
from longrepo.evaluation.results import FigureParts
from longrepo.evaluation.scoring import (
    IdArray,
    MaskArray,
    Measurement,
    MeasurementRow,
    Measurements,
    PairedLosses,
    score_both,
)
from longrepo.utils import hashing

LINE_CLASSES = ("committed", "in_project", "in_file", "common", "other")
CROSS_FILE_CLASSES = ("committed", "in_project")


class LineClassifier:
    """Classifies the rows of one held-out file."""

    def __init__(self, held: HeldOutBlock) -> None:
        self._of = held.target.of
        self._held = held

    def names(self, row: int) -> set[int]:
        """Return the names (hashes) on a row."""
        of = self._of
        first, last = np.searchsorted(of.name_tokens, [of.row_token(row), of.row_token(row + 1)])
        return set(of.names[first:last].tolist())

    def distinctive(self, row: int) -> set[int]:
        """Return the names on a row that aren't common all over the project, as keywords are."""
        return self.names(row) - self._held.tree.common

    def of(self, row: int) -> str:
        """Return the class of a row: the first of LINE_CLASSES that applies."""
        names = self.distinctive(row)
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
        """Names that other files of the commit define and no file of the tree before it did."""
        return self._held.names_in_other_files - self._held.tree.defined_in.keys() - self._own

    @cached_property
    def _elsewhere(self) -> set[int]:
        """Names that a few other files define (too many would be ambiguous) and this one doesn't."""
        tree = self._held.tree
        return tree.defined_in.keys() - self._own - tree.ambiguous


LONGPPL_ALPHA, LONGPPL_BETA = 2.0, 2.0  # nats; as in the authors' code


def longppl_rows(
    held: HeldOutBlock, truncated: PairedLosses, long: PairedLosses, scored: MaskArray, length: int
) -> Iterator[MeasurementRow]:
    """Yield one row if there is a key token."""
    key = scored & (truncated.base - long.base > LONGPPL_ALPHA) & (long.base < LONGPPL_BETA)
    if key.any():
        yield MeasurementRow("longppl", "longppl", {"length": length}, held.group, int(key.sum()), *long.at(key).sums())


CONTEXTS = ("none", "random", "related", "retrieved")
_MAX_SEARCHED = 200  # pieces used of a search's results


@dataclass(frozen=True)
class TargetSpan:
    """Tokens `at`..`end` of the text `of`: what a prompt asks for."""

    held: HeldOutBlock
    of: TokenizedText
    at: int
    end: int

    @staticmethod
    def of_block(held: HeldOutBlock) -> TargetSpan:
        """Return the span of a whole held-out block."""
        return TargetSpan(held, held.target.of, held.target.start, held.target.end)

    def before(self, room: int) -> FilePiece:
        """Return at most `room` tokens of the file before the span."""
        return FilePiece(self.of, self.of.start_in(self.at, room), self.at, (), False)


@dataclass(frozen=True)
class PromptLayout:
    """A prompt. `ids` `[tokens]`, the span asked for from `start` on; `parts`: where each text stands in it."""

    ids: IdArray
    start: int
    parts: tuple[SequencePart, ...]


def lay_out_prompt(
    place: TargetSpan, length: int, context: str, seed: int, tokenizer: RepoTokenizer
) -> PromptLayout | None:
    """Return the span's text behind a context, `length` tokens at most; None if it doesn't fit."""
    sizes = TemplateSizes(tokenizer, place.held.trees.name)
    room = length - sizes.head - sizes.frame(place.of) - (place.end - place.at)
    if room < 0:
        return None
    before = place.before(room // 2)
    builder = sizes.begin()
    write_context_files(builder, context_pieces(place, context, seed, room - before.size, sizes))
    return _add_block(builder, before, place)


def lay_out_short_prompt(place: TargetSpan, tokens: int, tokenizer: RepoTokenizer) -> PromptLayout:
    """Return the span's text behind its path and at most `tokens` tokens of its own file, and nothing else."""
    return _add_block(TemplateSizes(tokenizer, place.held.trees.name).begin(), place.before(tokens), place)


def _add_block(builder: SequenceBuilder, before: FilePiece, place: TargetSpan) -> PromptLayout:
    write_file_prefix(builder, before)
    start = len(builder)
    builder.text(place.of, place.at, place.end, 1.0, True)
    return PromptLayout(builder.arrays()[0], start, tuple(builder.parts))


def lay_out_fim_prompt(
    place: TargetSpan, length: int, context: str, seed: int, tokenizer: RepoTokenizer
) -> PromptLayout | None:
    """Return a fill-in-the-middle prompt for a span: a context, the text before it, then the text after it (a quarter
    of the room each). None if the tokenizer has no such tokens or the length is too short."""
    fim, sizes = tokenizer.fim, TemplateSizes(tokenizer, place.held.trees.name)
    if fim is None:
        return None
    room = length - sizes.head - sizes.frame(place.of) - fim.size - (place.end - place.at)
    if room < 0:
        return None
    before, after = place.before(room // 4), piece_from(place.of, place.end, room // 4)
    builder = sizes.begin()
    write_context_files(builder, context_pieces(place, context, seed, room - before.size - after.size, sizes, after))
    write_file_gap(builder, before, after, fim)
    return PromptLayout(builder.arrays()[0], len(builder), tuple(builder.parts))


def context_pieces(
    place: TargetSpan, context: str, seed: int, room: int, sizes: TemplateSizes, after: FilePiece | None = None
) -> list[FilePiece]:
    """Return pieces of other files in `room` tokens, the nearest to the place first; `after`: the text shown after a
    gap."""
    if context == "related":
        return place.held.tree.context(Place(place.of, place.at, after), place.held.imports_above, room, sizes)
    return fit_pieces(CONTEXT_SOURCES[context](place, seed), room, sizes)


def _random_files(place: TargetSpan, seed: int) -> Iterator[FilePiece]:
    texts = place.held.tree.texts
    order = sorted(texts, key=lambda path: hashing.seeded_int(seed, "random", place.held.key, path))
    return (FilePiece.whole(texts[path], False) for path in order if path != place.of.path)


def _retrieved_pieces(place: TargetSpan, seed: int) -> Iterator[FilePiece]:
    return iter(place.held.tree.index.search(words_above(place.of, place.at), (place.of.path,), _MAX_SEARCHED))


CONTEXT_SOURCES: dict[str, Callable[[TargetSpan, int], Iterator[FilePiece]]] = {
    "none": lambda place, seed: iter(()),
    "random": _random_files,
    "retrieved": _retrieved_pieces,
}


DISTANCE_BOUNDS = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # tokens


def distance_rows(
    held: HeldOutBlock, layout: PromptLayout, losses: PairedLosses, length: int
) -> Iterator[MeasurementRow]:
    """Yield the loss of each scored line by how far back the farthest of its names was last seen. Names that are common
    all over the project don't count, nor do lines without others; -1: none of a line's names occurs before it."""
    names, tokens = _name_positions(layout)
    classes, of, start = LineClassifier(held), held.target.of, held.target.start
    for row in held.rows:
        telling = classes.distinctive(row)
        if not telling:
            continue
        first, last = of.row_token(row) - start, of.row_token(row + 1) - start
        back = _farthest_distance(names, tokens, telling, layout.start + first)
        low, high = _bucket(back) if back is not None else (-1, -1)
        both = losses.at(slice(first, last))
        parts: FigureParts = {"from": low, "to": high, "length": length}
        yield MeasurementRow("distance", "loss", parts, held.group, last - first, *both.sums())


def position_rows(
    held: HeldOutBlock, layout: PromptLayout, losses: PairedLosses, seen: TrainingTexts, length: int
) -> Iterator[MeasurementRow]:
    """Yield the loss of every token of the files shown by its position, for lines that training showed and for new
    ones separately."""
    kinds = np.zeros(len(layout.ids), np.int8)  # 0: no text, or a line too short to count; 1: seen; 2: new
    for part in layout.parts:
        sizes = np.diff(part.of.rows, append=np.int32(len(part.of)))
        row_kinds = np.where(part.of.row_hashes == 0, 0, np.where(seen.fresh(part.of.row_hashes), 2, 1))
        kinds[part.at : part.at + part.end - part.start] = np.repeat(row_kinds, sizes)[part.start : part.end]
    for text, kind in (("seen", 1), ("new", 2)):
        for low, high in pairwise((*(bound for bound in DISTANCE_BOUNDS if bound < length), length)):
            at = np.flatnonzero(kinds[low:high] == kind) + low
            if len(at):
                parts: FigureParts = {"from": low, "to": high, "text": text, "length": length}
                yield MeasurementRow("position", "loss", parts, held.group, len(at), *losses.at(at).sums())


def _name_positions(layout: PromptLayout) -> tuple[np.ndarray, np.ndarray]:
    """Return every name (hash) in a prompt and its token, `[names]` each, in order."""
    names: list[np.ndarray] = [np.zeros(0, np.uint32)]
    tokens: list[np.ndarray] = [np.zeros(0, np.int64)]
    for part in layout.parts:
        first, last = np.searchsorted(part.of.name_tokens, [part.start, part.end])
        names.append(part.of.names[first:last])
        tokens.append(part.of.name_tokens[first:last].astype(np.int64) - part.start + part.at)
    return np.concatenate(names), np.concatenate(tokens)


def _farthest_distance(names: np.ndarray, tokens: np.ndarray, wanted: set[int], line: int) -> int | None:
    """Return the tokens from the start of a line back to the latest occurrence of each of its names, the largest of
    them; None if no name occurs before it."""
    before = tokens < line
    last = [int(found[-1]) for name in sorted(wanted) if len(found := tokens[before & (names == name)])]
    return line - min(last) if last else None


def _bucket(distance: int, bounds: Sequence[int] = DISTANCE_BOUNDS) -> tuple[int, int]:
    at = int(np.searchsorted(bounds, distance, "right")) - 1
    return bounds[at], bounds[at + 1] if at + 1 < len(bounds) else -1


SHORT_CONTEXT_TOKENS = 128  # tokens of its own file before a line in the short-context task
CLASSED_CONTEXTS = ("none", "related")


def context_measurements(data: EvalData, lengths: Sequence[int], seed: int) -> Iterator[Measurement]:
    """Yield one measurement for each held-out block and length."""
    for held in data.held:
        for length in lengths:
            whole = length == max(lengths)
            yield Measurement(
                f"context/{length}/{held.key}/{whole}",
                partial(_measure_context, data, held, length, seed, whole),
                length,
            )


def _measure_context(
    data: EvalData, held: HeldOutBlock, length: int, seed: int, whole: bool, engine: Engine
) -> Measurements:
    """Measure a block at a length. `whole`: also what is measured at the longest length alone: loss by position and
    behind a short context."""
    place, scored = TargetSpan.of_block(held), held.scored
    losses: dict[str, PairedLosses] = {}
    rows: list[MeasurementRow] = []
    for context in CONTEXTS:
        layout = lay_out_prompt(place, length, context, seed, data.tokenizer)
        if layout is None:
            return Measurements()
        everywhere = whole and context == "related"
        wanted = _file_tokens(layout) if everywhere else np.zeros(len(layout.ids), bool)
        wanted[layout.start :] |= scored
        found = score_both(engine, layout.ids, wanted)
        losses[context] = found.at(slice(layout.start, None))
        if context == "related":
            rows += distance_rows(held, layout, losses[context], length)
            if everywhere:
                rows += position_rows(held, layout, found, data.seen.shown, length)
    short = lay_out_short_prompt(place, SHORT_CONTEXT_TOKENS, data.tokenizer)
    wanted = np.zeros(len(short.ids), bool)
    wanted[short.start :] = scored
    truncated = score_both(engine, short.ids, wanted).at(slice(short.start, None))
    rows = [*_context_rows(held, losses, scored, length), *rows, *_line_class_rows(held, losses, length)]
    rows += longppl_rows(held, truncated, losses["related"], scored, length)
    if whole:
        rows.append(loss_row("short", {"context_tokens": SHORT_CONTEXT_TOKENS}, held.group, truncated.at(scored)))
    return Measurements(rows)


def loss_row(measure: str, parts: FigureParts, group: str, losses: PairedLosses) -> MeasurementRow:
    """Return the row for the loss of some tokens."""
    return MeasurementRow(measure, "loss", parts, group, len(losses.base), *losses.sums())


def _file_tokens(layout: PromptLayout) -> MaskArray:
    """Return a mask of the tokens that are text of files, not marks or paths, `[tokens]`."""
    found = np.zeros(len(layout.ids), bool)
    for part in layout.parts:
        found[part.at : part.at + part.end - part.start] = True
    return found


def _context_rows(
    held: HeldOutBlock, losses: Mapping[str, PairedLosses], scored: MaskArray, length: int
) -> Iterator[MeasurementRow]:
    none = losses["none"].at(scored)
    for context, both in losses.items():
        parts: FigureParts = {"context": context, "length": length}
        yield loss_row("context", parts, held.group, both.at(scored))
        if context != "none":
            gained = PairedLosses(none.base - both.at(scored).base, none.tuned - both.at(scored).tuned)
            yield MeasurementRow("gain", "gain", parts, held.group, len(gained.base), *gained.sums())


def _line_class_rows(held: HeldOutBlock, losses: Mapping[str, PairedLosses], length: int) -> Iterator[MeasurementRow]:
    classes, of, start = LineClassifier(held), held.target.of, held.target.start
    for row in held.rows:
        tokens = slice(of.row_token(row) - start, of.row_token(row + 1) - start)
        for context in CLASSED_CONTEXTS:
            parts: FigureParts = {"class": classes.of(row), "context": context, "length": length}
            yield loss_row("line", parts, held.group, losses[context].at(tokens))
