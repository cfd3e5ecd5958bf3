"""Sequences to measure on: other files before, the beginning of the file in question, and the place where it goes on.

The format is that of training (`longrepo.sequences.prompt`). A length is shared out like this: half of what the block
leaves is for the beginning of its own file, whatever else is shown, so that contexts differ in other files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from longrepo.evaluation.held import Held
from longrepo.evaluation.retrieval import LINES
from longrepo.evaluation.scoring import Ids
from longrepo.sequences import chance
from longrepo.sequences.compose import FilePiece, Sizes
from longrepo.sequences.draft import Draft, Part
from longrepo.sequences.prompt import fitting, following, write_beginning, write_gap, write_others
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer

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
