"""What training shows, as far as held-out targets must not stand in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.near_duplicates import Blocks, Shingles, shingler
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer

_CONTAINED = 0.6  # of a block's shingles in one text: a sequence of several texts may hold more of them


class Shown:
    """Texts that any training sequence shows a part of."""

    def __init__(self, tokenizer: RepoTokenizer, texts: Iterable[TokenizedText]) -> None:
        self._texts = list({id(text): text for text in texts}.values())
        self.shingler = shingler(tokenizer)
        self._lines = np.unique(np.concatenate([np.zeros(1, np.uint64), *(text.row_hashes for text in self._texts)]))

    def fresh(self, lines: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which lines (hashes, 0 for one that doesn't count) stand in none of the texts."""
        at = np.minimum(self._lines.searchsorted(lines), len(self._lines) - 1)
        return (lines != 0) & (self._lines[at] != lines)

    def copied(self, blocks: Sequence[Shingles]) -> set[int]:
        """Which blocks stand in one of the texts nearly word for word."""
        known = Blocks(blocks, _CONTAINED)
        return {block for text in self._texts for block, _ in known.held_by(self.shingler.every(text.ids))}
