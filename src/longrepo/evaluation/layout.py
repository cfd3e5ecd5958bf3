"""Sequences to measure on: other files before, the beginning of the file in question, and the place where it goes on.

The format is that of training (`longrepo.sequences.compose`). A length is shared out like this: half of what the block
leaves is for the beginning of its own file, whatever else is shown, so that contexts differ in other files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from longrepo.evaluation.held import Held
from longrepo.evaluation.retrieval import LINES
from longrepo.evaluation.scoring import Ids
from longrepo.sequences import chance
from longrepo.sequences.compose import FilePiece, Sizes, write_file
from longrepo.sequences.draft import Draft, Part
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.tokens import FILE_START

CONTEXTS = ("none", "random", "related", "retrieved")
_SEARCHED = 200  # pieces taken of what a search finds
_LEAST = 32  # tokens of another file that are worth its frame


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


@dataclass(frozen=True)
class Layout:
    """`ids` `[tokens]`, of which those from `start` on are what is asked about; `parts`: where texts stand in it."""

    ids: Ids
    start: int
    parts: tuple[Part, ...]


def lay(place: Place, length: int, context: str, seed: int, tokenizer: RepoTokenizer) -> Layout | None:
    """The place's text behind a context, `length` tokens at most; None where they don't hold it."""
    sizes, of = Sizes(tokenizer), place.of
    room = length - sizes.frame(of) - (place.end - place.at)
    if room < 0:
        return None
    own = of.start_in(place.at, room // 2)
    draft = Draft(tokenizer)
    write_before(draft, OTHERS[context](place, seed), room - (place.at - own), sizes)
    draft.mark(FILE_START, 0.0)
    draft.plain(of.path_ids, 0.0)
    draft.text(of, own, place.at, 0.0, False)
    start = len(draft)
    draft.text(of, place.at, place.end, 1.0, True)
    return Layout(draft.arrays()[0], start, tuple(draft.parts))


def lay_short(place: Place, tokens: int, tokenizer: RepoTokenizer) -> Layout:
    """The place's text behind its path and so many tokens of its own file, at most, and nothing else."""
    draft = Draft(tokenizer)
    draft.mark(FILE_START, 0.0)
    draft.plain(place.of.path_ids, 0.0)
    draft.text(place.of, place.of.start_in(place.at, tokens), place.at, 0.0, False)
    start = len(draft)
    draft.text(place.of, place.at, place.end, 1.0, True)
    return Layout(draft.arrays()[0], start, tuple(draft.parts))


def lay_fim(place: Place, length: int, context: str, seed: int, tokenizer: RepoTokenizer) -> Layout | None:
    """A prompt for the middle `at`..`end` of a file: behind a context what stands before it, then what stands after
    (a quarter of the room). None where the tokenizer can't ask so, or the length is too short."""
    fim, sizes, of = tokenizer.fim, Sizes(tokenizer), place.of
    room = length - sizes.frame(of) - 3 - (place.end - place.at)
    if fim is None or room < 0:
        return None
    own = of.start_in(place.at, room // 4)
    after = of.cut_in(place.end, place.end + room // 4)[0] if len(of) - place.end > room // 4 else len(of)
    opening, closing, filling = (np.array([id], np.int32) for id in (fim.prefix, fim.suffix, fim.middle))
    draft = Draft(tokenizer)
    write_before(draft, OTHERS[context](place, seed), room - (place.at - own) - (after - place.end), sizes)
    draft.mark(FILE_START, 0.0)
    draft.plain(of.path_ids, 0.0)
    draft.plain(opening, 0.0)
    draft.text(of, own, place.at, 0.0, False)
    draft.plain(closing, 0.0)
    draft.text(of, place.end, after, 0.0, False)
    draft.plain(filling, 0.0)
    return Layout(draft.arrays()[0], len(draft), tuple(draft.parts))


def write_before(draft: Draft, pieces: Iterable[FilePiece], room: int, sizes: Sizes) -> None:
    """Write as much of the pieces as there is room for, the first of them last: nearest to what comes after."""
    chosen: list[FilePiece] = []
    for piece in pieces:
        free = room - sizes.frame(piece.of)
        if free < _LEAST:
            if room < _LEAST + 8:
                break
            continue
        end = piece.end if piece.size <= free else piece.of.cut_in(piece.start, piece.start + free, free // 2)[0]
        chosen.append(FilePiece(piece.of, piece.start, end, (), False))
        room -= sizes.file(chosen[-1])
    for piece in reversed(chosen):
        write_file(draft, piece, 0.0)


def _related(place: Place, seed: int) -> Iterator[FilePiece]:
    tree = place.held.tree
    return (FilePiece.whole(tree.texts[path], False) for path in tree.related(place.of.path, place.held.imports_above))


def _random(place: Place, seed: int) -> Iterator[FilePiece]:
    texts = place.held.tree.texts
    order = sorted(texts, key=lambda path: chance.number(seed, "random", place.held.key, path))
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
