"""A search for pieces of files similar to a text: what a user would have without tuning, as in CrossCodeEval
(arXiv 2310.11248). BM25: Robertson and Zaragoza 2009, Lucene's variant, from bm25s.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from longrepo.data.template import FilePiece
from longrepo.data.text import TokenizedText

PIECE_LINES = 20  # lines of a piece, and of a query
_WORD = re.compile(r"[^\W\d_]{2,}\w*|\w{3,}")


class BM25Index:
    """A search index of pieces of texts."""

    def __init__(self, texts: Sequence[TokenizedText]) -> None:
        import bm25s

        pieces = [one for of in texts for one in _cut_pieces(of)]
        self._pieces = [piece for piece, _ in pieces]
        self._own: dict[str, tuple[int, int]] = {}  # path → its pieces
        for at, piece in enumerate(self._pieces):
            self._own[piece.of.path] = self._own.get(piece.of.path, (at, at))[0], at + 1
        self._languages = np.array([piece.of.language for piece in self._pieces])
        self._scores = bm25s.BM25() if pieces else None
        if self._scores is not None:
            self._scores.index([words for _, words in pieces], show_progress=False)

    def search(self, query: str, without: Collection[str], most: int, language: str | None = None) -> list[FilePiece]:
        """Return up to `most` pieces that share a word with the query, best first, none of the paths `without`, of
        files in `language` alone if one of them does."""
        words = words_of(query)
        if self._scores is None or not words:
            return []
        scores = self._scores.get_scores(words)
        for path in without:
            first, end = self._own.get(path, (0, 0))
            scores[first:end] = 0
        of_language = np.where(self._languages == language, scores, 0)
        if of_language.any():
            scores = of_language
        least = np.partition(scores, -most)[-most] if most < len(scores) else 0
        best = np.flatnonzero((scores > 0) & (scores >= least))
        order = best[np.argsort(-scores[best], kind="stable")][:most]
        return [self._pieces[at] for at in order.tolist()]


def words_of(text: str) -> list[str]:
    """Return the words to search by, case kept."""
    return _WORD.findall(text)


def words_above(of: TokenizedText, at: int) -> str:
    """Return what to search by for token `at` of a text: its path and the lines above."""
    return "\n".join([of.path, *of.slice_text(0, at).split("\n")[-PIECE_LINES - 1 :]])


@lru_cache(maxsize=1 << 14)  # most files of a tree are also in the last one
def _cut_pieces(of: TokenizedText) -> list[tuple[FilePiece, list[str]]]:
    """Return a text's runs of PIECE_LINES lines with their words; runs without words are left out."""
    bounds = [*range(0, len(of.rows), PIECE_LINES), len(of.rows)]
    spans = [(of.row_token(first), of.row_token(last)) for first, last in pairwise(bounds)]
    pieces = [FilePiece(of, start, end, (), False) for start, end in spans]
    return [(piece, words) for piece in pieces if (words := words_of(of.slice_text(piece.start, piece.end)))]
