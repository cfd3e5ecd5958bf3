"""Reads the lines of a stored row back from its tokens alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from longrepo.data.dialects import FimOrder
from longrepo.data.marks import COMMIT_START, STRUCTURE_TOKENS
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.data.tokenizer import RepoTokenizer

_STRUCTURE_TOKEN_PATTERN = re.compile("|".join(map(re.escape, STRUCTURE_TOKENS)))


@dataclass(frozen=True)
class StoredLine:
    """A line of a row: its number from 1, whether it is scored as a whole, and whether it is part of a commit."""

    number: int
    text: str
    scored: bool
    in_commit: bool


class StoredText:
    """Reads the lines of stored rows.

    Special tokens (marks, end and padding) end a line. Fill-in-the-middle is put back into the file's order, so that
    the lines it was cut in are whole again.
    """

    def __init__(self, tokenizer: RepoTokenizer) -> None:
        self._tokenizer = tokenizer
        self._marks = special_token_mask(tokenizer)
        self._commit = tokenizer.structure_ids.get(COMMIT_START)

    def lines(
        self, ids: NDArray[np.int32], kind: str, weights: NDArray[np.float32] | None = None
    ) -> Iterator[StoredLine]:
        """Yield the lines of a row of a kind. With `weights` a line is `scored` if all its tokens that aren't white
        space have weight 1; without, no line is."""
        number = 0
        for places, opened_by in self._stretches(ids):
            in_commit = kind == "commit_evolution" and (self._commit is None or opened_by == self._commit)
            for text, scored in self._split(ids[places], weights[places] if weights is not None else None):
                number += 1
                yield StoredLine(number, text, scored, in_commit)

    def _stretches(self, ids: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Yield the token places of each stretch of text, in the file's order, and the mark before it (-1: none)."""
        at = np.flatnonzero(self._marks[ids])
        bounds = [-1, *at.tolist(), len(ids)]
        stretches = [np.arange(start + 1, end) for start, end in pairwise(bounds)]
        marks = [-1, *ids[at].tolist()]
        fim = self._tokenizer.fim
        layouts = [fim.steps(order) for order in FimOrder] if fim else []
        number = 0
        while number < len(stretches):
            places, width = stretches[number], 1
            for steps in layouts:
                if marks[number : number + len(steps)] == [id for id, _ in steps]:
                    parts = list(zip(steps, stretches[number:], strict=False))  # the middle is behind the last mark
                    ordered = sorted(parts, key=lambda part: part[0][1] == "suffix")
                    places, width = np.concatenate([one for _, one in ordered]), len(steps)
                    break
            if len(places):
                yield places, marks[number]
            number += width

    def _split(self, ids: NDArray[np.int32], weights: NDArray[np.float32] | None) -> Iterator[tuple[str, bool]]:
        """Yield the lines of one stretch, and whether each is scored as a whole. Its last line break ends a line and
        begins no other."""
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
        return text if self._tokenizer.kind != "none" else _STRUCTURE_TOKEN_PATTERN.sub("\n", text)


def special_token_mask(tokenizer: RepoTokenizer) -> NDArray[np.bool_]:
    """Return a mask of the ids that aren't text: those in marks, end, padding and fill-in-the-middle tokens,
    `[vocabulary]`."""
    marks = np.zeros(tokenizer.vocabulary_size, bool)
    fim = tokenizer.fim
    marks[[*tokenizer.structure_ids.values(), *tokenizer.marks.token_ids, tokenizer.end_id, tokenizer.pad_id]] = True
    marks[list(fim.marks) if fim else []] = True
    return marks
