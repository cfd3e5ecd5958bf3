"""Scored blocks that stand almost word for word in another sequence.

Words are the tokens that hold a letter: white space, signs and digits neither make a copy nor hide one. A shingle is
five words in a row. A block is a near-duplicate of a sequence that holds at least 80 % of its distinct shingles
(containment: Broder 1997, "On the resemblance and containment of documents"). It is counted exactly, not estimated:
shingles are 64-bit numbers, looked up in a sorted table of those of the blocks, which takes under a microsecond each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.stored_text import marks_of
from longrepo.sequences.tokenizer import RepoTokenizer

WORDS = 5  # of a shingle
LEAST_SHINGLES = 20  # a block with fewer is too short to tell a copy from an idiom
CONTAINED = 0.8  # the share of a block's shingles from which on it is a copy
_LOW = np.uint64((1 << 20) - 1)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Shingles = NDArray[np.uint64]


class Shingler:
    """Shingles of token sequences."""

    def __init__(self, tokenizer: RepoTokenizer) -> None:
        texts = [tokenizer.decode([id]) for id in range(tokenizer.vocabulary_size)]
        # U+FFFD: a part of a character beyond ASCII, most likely of a letter.
        is_word = [any(one.isalpha() or one == "\ufffd" for one in text) for text in texts]
        self._is_word = np.array(is_word) & ~marks_of(tokenizer)

    def of(self, ids: NDArray[np.int32], scored: NDArray[np.bool_] | None = None) -> Shingles:
        """The distinct shingles of `ids` `[tokens]`, sorted; with `scored` `[tokens]` those of scored words alone."""
        shingles = self.every(ids)
        if scored is not None and len(shingles):
            runs = np.convolve(scored[self._is_word[ids]], np.ones(WORDS, np.int64), "valid")
            shingles = shingles[runs == WORDS]
        return np.unique(shingles)

    def every(self, ids: NDArray[np.int32]) -> Shingles:
        """The shingles of `ids` `[tokens]` in their order, those that stand twice too."""
        values = ids[self._is_word[ids]].astype(np.uint64)
        count = len(values) - WORDS + 1
        if count < 1:
            return np.zeros(0, np.uint64)
        shingles = np.zeros(count, np.uint64)
        for offset in range(WORDS):
            shingles = shingles * _FACTOR + values[offset : offset + count] + np.uint64(1)
        return shingles


@lru_cache(maxsize=1)
def shingler(tokenizer: RepoTokenizer) -> Shingler:
    """The one of a tokenizer: all its tokens have to be read for it."""
    return Shingler(tokenizer)


class Blocks:
    """Blocks by their shingles, to ask which of them a sequence holds: at least the share `contained` of one."""

    def __init__(self, blocks: Sequence[Shingles], contained: float = CONTAINED) -> None:
        self._contained = contained
        self._sizes = np.array([len(block) for block in blocks], np.int64)
        flat = np.concatenate([np.zeros(0, np.uint64), *blocks])
        order = np.argsort(flat, kind="stable")
        self._owners = np.repeat(np.arange(len(blocks)), self._sizes)[order]
        self._shingles, self._starts = np.unique(flat[order], return_index=True)
        self._ends = np.append(self._starts[1:], len(flat))
        self._may_hold = np.zeros(int(_LOW) + 1, bool)  # by the last bits: most shingles of a text are of no block
        self._may_hold[self._shingles & _LOW] = True

    def held_by(self, sequence: Shingles) -> Iterator[tuple[int, float]]:
        """Every block that a sequence with these shingles, in any order, is a near-duplicate of, and the share held."""
        if not len(self._shingles):
            return
        sequence = sequence[self._may_hold[sequence & _LOW]]
        at = np.searchsorted(self._shingles, sequence).clip(max=len(self._shingles) - 1)
        at = np.unique(at[self._shingles[at] == sequence])
        if not len(at):
            return
        owners = [self._owners[start:end] for start, end in zip(self._starts[at], self._ends[at], strict=True)]
        counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *owners]), minlength=len(self._sizes))
        for block in np.flatnonzero((counts >= self._contained * self._sizes) & (self._sizes >= LEAST_SHINGLES)):
            yield int(block), float(counts[block] / self._sizes[block])
