"""What a user would do without tuning: search the repository for text like what is being written, and show that.

BM25 over pieces of files (Robertson and Zaragoza 2009; Lucene's variant, from the bm25s library), asked with the lines
before the cursor, as in CrossCodeEval (arXiv 2310.11248).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from longrepo.sequences.compose import FilePiece
from longrepo.sequences.text import TokenizedText

LINES = 20  # of a piece, and of a question
_WORD = re.compile(r"[^\W\d_]{2,}\w*|\w{3,}")


class Index:
    """Pieces of texts by the words in them."""

    def __init__(self, texts: Sequence[TokenizedText]) -> None:
        import bm25s

        pieces = [one for of in texts for one in _pieces_of(of)]
        self._pieces = [piece for piece, _ in pieces]
        self._scores = bm25s.BM25() if pieces else None
        if self._scores is not None:
            self._scores.index([words for _, words in pieces], show_progress=False)

    def search(self, question: str, without: str) -> list[FilePiece]:
        """The pieces that share a word with a question, the best first, none of the path `without`."""
        words = words_of(question)
        if self._scores is None or not words:
            return []
        scores = self._scores.get_scores(words)
        order = np.argsort(-scores, kind="stable")
        return [self._pieces[at] for at in order.tolist() if scores[at] > 0 and self._pieces[at].of.path != without]


def words_of(text: str) -> list[str]:
    """The words to search by, as they stand."""
    return _WORD.findall(text)


@lru_cache(maxsize=1 << 14)  # most files of a tree are those of the last
def _pieces_of(of: TokenizedText) -> list[tuple[FilePiece, list[str]]]:
    """Runs of so many lines with the words in them, those without any left out."""
    bounds = [*range(0, len(of.rows), LINES), len(of.rows)]
    spans = [(of.row_token(first), of.row_token(last)) for first, last in pairwise(bounds)]
    pieces = [FilePiece(of, start, end, (), False) for start, end in spans]
    return [(piece, words) for piece in pieces if (words := words_of(of.slice_text(piece.start, piece.end)))]
