"""Near-duplicates: files of which only one is trained on, and scored blocks that training already shows.

Two files are duplicates if the Jaccard similarity of their sets of lines (white space removed, short lines ignored) is
at least 0.85. They are found exactly, without comparing all pairs: two sets that similar share one of their few rarest
lines (prefix filtering, Chaudhuri et al. 2006; Bayardo et al. 2007).

For blocks, words are the tokens that hold a letter: white space, signs and digits neither make a copy nor hide one. A
shingle is five words in a row. A block is a near-duplicate of a sequence that holds at least 80 % of its distinct
shingles (containment: Broder 1997, "On the resemblance and containment of documents"). The share is counted exactly,
not estimated: shingles are 64-bit numbers, looked up in a sorted table in under a microsecond each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from longrepo.data.stored_text import special_token_mask
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer

DUPLICATE_SIMILARITY = 0.85
_MIN_LINES = 10  # shorter files are alike by chance


def find_duplicates(texts: Mapping[str, TokenizedText]) -> dict[str, str]:
    """Return path → the path of the file it duplicates; of two similar files the later path is left out."""
    found: dict[str, str] = {}
    contents: dict[bytes, str] = {}
    for path in sorted(texts):
        same = contents.setdefault(texts[path].ids.tobytes(), path)
        if same != path and len(texts[path]):
            found[path] = same
    return found | _find_near(_line_sets({path: text for path, text in texts.items() if path not in found}))


def _line_sets(texts: Mapping[str, TokenizedText]) -> dict[str, NDArray[np.int64]]:
    """Return path → its lines as ascending ranks, rank 0 for the rarest line of all texts; short files are left out."""
    by_path = {path: np.unique(text.row_hashes[text.row_hashes != 0]) for path, text in sorted(texts.items())}
    by_path = {path: lines for path, lines in by_path.items() if len(lines) >= _MIN_LINES}
    lines, back, count = np.unique(
        np.concatenate([np.zeros(0, np.uint64), *by_path.values()]), return_inverse=True, return_counts=True
    )
    rank = np.empty(len(lines), np.int64)
    rank[np.lexsort((lines, count))] = np.arange(len(lines))
    ends = np.cumsum([len(one) for one in by_path.values()])
    ranked = np.split(rank[back], ends[:-1]) if by_path else []
    return {path: np.sort(one) for path, one in zip(by_path, ranked, strict=True)}


def _find_near(sets: Mapping[str, NDArray[np.int64]]) -> dict[str, str]:
    found: dict[str, str] = {}
    holders: defaultdict[int, list[str]] = defaultdict(list)
    for path, lines in sets.items():
        prefix = lines[: len(lines) - int(np.ceil(DUPLICATE_SIMILARITY * len(lines))) + 1].tolist()
        others = dict.fromkeys(other for line in prefix for other in holders.get(line, ()))
        alike = next((other for other in others if _jaccard(lines, sets[other]) >= DUPLICATE_SIMILARITY), None)
        if alike is not None:
            found[path] = alike
            continue
        for line in prefix:
            holders[line].append(path)
    return found


def _jaccard(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    if min(len(one), len(other)) < DUPLICATE_SIMILARITY * max(len(one), len(other)):
        return 0.0
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


SHINGLE_WORDS = 5
MIN_SHINGLES = 20  # a block with fewer is too short to tell a copy from an idiom
COPY_SHARE = 0.8  # a block of which a sequence holds at least this share of shingles is a copy
_LOW_BITS = np.uint64((1 << 20) - 1)
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Shingles = NDArray[np.uint64]


class Shingler:
    """Makes shingles of token sequences."""

    def __init__(self, tokenizer: RepoTokenizer) -> None:
        texts = [tokenizer.decode([id]) for id in range(tokenizer.vocabulary_size)]
        # U+FFFD: part of a non-ASCII character, most likely a letter.
        is_word = [any(one.isalpha() or one == "\ufffd" for one in text) for text in texts]
        self._is_word = np.array(is_word) & ~special_token_mask(tokenizer)

    def of(self, ids: NDArray[np.int32], scored: NDArray[np.bool_] | None = None) -> Shingles:
        """Return the distinct shingles of `ids` `[tokens]`, sorted; with the mask `scored` `[tokens]`, only those made
        of scored words."""
        shingles = self.every(ids)
        if scored is not None and len(shingles):
            runs = np.convolve(scored[self._is_word[ids]], np.ones(SHINGLE_WORDS, np.int64), "valid")
            shingles = shingles[runs == SHINGLE_WORDS]
        return np.unique(shingles)

    def every(self, ids: NDArray[np.int32]) -> Shingles:
        """Return all shingles of `ids` `[tokens]` in order, repeated ones included."""
        values = ids[self._is_word[ids]].astype(np.uint64)
        count = len(values) - SHINGLE_WORDS + 1
        if count < 1:
            return np.zeros(0, np.uint64)
        shingles = np.zeros(count, np.uint64)
        for offset in range(SHINGLE_WORDS):
            shingles = shingles * _HASH_FACTOR + values[offset : offset + count] + np.uint64(1)
        return shingles


@lru_cache(maxsize=1)
def shingler_for(tokenizer: RepoTokenizer) -> Shingler:
    """Return the shingler of a tokenizer, cached: making one decodes the whole vocabulary."""
    return Shingler(tokenizer)


class BlockIndex:
    """An index of blocks by shingle, to find those that a sequence holds at least the share `contained` of."""

    def __init__(self, blocks: Sequence[Shingles], contained: float = COPY_SHARE) -> None:
        self._contained = contained
        self._sizes = np.array([len(block) for block in blocks], np.int64)
        flat = np.concatenate([np.zeros(0, np.uint64), *blocks])
        order = np.argsort(flat, kind="stable")
        self._owners = np.repeat(np.arange(len(blocks)), self._sizes)[order]
        self._shingles, self._starts = np.unique(flat[order], return_index=True)
        self._ends = np.append(self._starts[1:], len(flat))
        self._may_hold = np.zeros(int(_LOW_BITS) + 1, bool)  # by the low bits: most shingles of a text are in no block
        self._may_hold[self._shingles & _LOW_BITS] = True

    def found_in(self, sequence: Shingles) -> Iterator[tuple[int, float]]:
        """Yield every block that a sequence with these shingles, in any order, nearly repeats, with the share held."""
        if not len(self._shingles):
            return
        sequence = sequence[self._may_hold[sequence & _LOW_BITS]]
        at = np.searchsorted(self._shingles, sequence).clip(max=len(self._shingles) - 1)
        at = np.unique(at[self._shingles[at] == sequence])
        if not len(at):
            return
        owners = [self._owners[start:end] for start, end in zip(self._starts[at], self._ends[at], strict=True)]
        counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *owners]), minlength=len(self._sizes))
        for block in np.flatnonzero((counts >= self._contained * self._sizes) & (self._sizes >= MIN_SHINGLES)):
            yield int(block), float(counts[block] / self._sizes[block])


_COPY_SHARE_OF_ONE_TEXT = 0.6  # lower than COPY_SHARE: a sequence of several texts may hold more of a block


class TrainingTexts:
    """Texts that any training sequence shows a part of."""

    def __init__(self, tokenizer: RepoTokenizer, texts: Iterable[TokenizedText]) -> None:
        self._texts = list({id(text): text for text in texts}.values())
        self.shingler = shingler_for(tokenizer)
        self._lines = np.unique(np.concatenate([np.zeros(1, np.uint64), *(text.row_hashes for text in self._texts)]))

    def fresh(self, lines: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which lines (hashes, 0 for a line that doesn't count) are in none of the texts."""
        at = np.minimum(self._lines.searchsorted(lines), len(self._lines) - 1)
        return (lines != 0) & (self._lines[at] != lines)

    def copied_blocks(self, blocks: Sequence[Shingles]) -> set[int]:
        """Return which blocks one of the texts holds nearly word for word."""
        known = BlockIndex(blocks, _COPY_SHARE_OF_ONE_TEXT)
        return {block for text in self._texts for block, _ in known.found_in(self.shingler.every(text.ids))}
