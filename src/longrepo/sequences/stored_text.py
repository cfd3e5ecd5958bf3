"""The lines of a stored row, read back from its tokens alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.sequence import TARGET_WEIGHT
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.tokens import COMMIT_START, STRUCTURE_TOKENS

_NAMES = re.compile("|".join(map(re.escape, STRUCTURE_TOKENS)))


@dataclass(frozen=True)
class Line:
    """A line of a row: its number from 1, whether it is scored as a whole, and whether it stands in a commit."""

    number: int
    text: str
    scored: bool
    in_commit: bool


class StoredText:
    """Reads rows with a tokenizer.

    Marks (structure, end and padding tokens) end a line. Fill-in-the-middle is put back into the file's order, so that
    the lines it was cut in are whole again.
    """

    def __init__(self, tokenizer: RepoTokenizer) -> None:
        self._tokenizer = tokenizer
        self._marks = marks_of(tokenizer)
        self._commit = tokenizer.structure_ids.get(COMMIT_START)

    def lines(self, ids: NDArray[np.int32], kind: str, weights: NDArray[np.float32] | None = None) -> Iterator[Line]:
        """The lines of a row of that kind. With `weights` a line is `scored` whose tokens, as far as they hold more
        than white space, all have weight 1; without, none is."""
        number = 0
        for places, opened_by in self._stretches(ids):
            in_commit = kind == "commit_evolution" and (self._commit is None or opened_by == self._commit)
            for text, scored in self._split(ids[places], weights[places] if weights is not None else None):
                number += 1
                yield Line(number, text, scored, in_commit)

    def _stretches(self, ids: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.intp], int]]:
        """The places of each stretch of text, in the file's order, and the mark before it (-1: none)."""
        at = np.flatnonzero(self._marks[ids])
        bounds = [-1, *at.tolist(), len(ids)]
        stretches = [np.arange(start + 1, end) for start, end in pairwise(bounds)]
        marks = [-1, *ids[at].tolist()]
        fim = self._tokenizer.fim
        number = 0
        while number < len(stretches):
            places, width = stretches[number], 1
            if fim and marks[number : number + 3] == [fim.prefix, fim.suffix, fim.middle]:
                before, after, middle = stretches[number : number + 3]  # where the middle holds both, `before` is empty
                places, width = np.concatenate([before, middle, after]), 3
            if len(places):
                yield places, marks[number]
            number += width

    def _split(self, ids: NDArray[np.int32], weights: NDArray[np.float32] | None) -> Iterator[tuple[str, bool]]:
        """The lines of one stretch (nothing after its last break is no line), and whether each is scored as a whole."""
        if weights is None:
            yield from ((text, False) for text in self._decode(ids).removesuffix("\n").split("\n"))
            return
        full = weights == TARGET_WEIGHT
        cuts = np.flatnonzero(np.diff(full)) + 1
        line, whole = "", True
        for part, scored in zip(np.split(ids, cuts), full[[0, *cuts.tolist()]].tolist(), strict=True):
            head, *rest = self._decode(part).split("\n")
            for text, starts in [(head, False), *((one, True) for one in rest)]:
                if starts:
                    yield line, whole and bool(line.strip())
                    line, whole = "", True
                line += text
                whole = whole and (scored or not text.strip())
        if line:
            yield line, whole and bool(line.strip())

    def _decode(self, ids: NDArray[np.int32]) -> str:
        text = self._tokenizer.decode(ids.tolist())
        return text if self._tokenizer.structure_ids else _NAMES.sub("\n", text)


def marks_of(tokenizer: RepoTokenizer) -> NDArray[np.bool_]:
    """Which ids are no text: structure tokens, end, padding, fill-in-the-middle, `[vocabulary]`."""
    marks = np.zeros(tokenizer.vocabulary_size, bool)
    fim = tokenizer.fim
    marks[[*tokenizer.structure_ids.values(), tokenizer.end_id, tokenizer.pad_id]] = True
    marks[[fim.prefix, fim.suffix, fim.middle] if fim else []] = True
    return marks
