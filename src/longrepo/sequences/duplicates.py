"""Files that say nearly the same: one of them is learnt, the others are left out and counted.

Alike means: the Jaccard similarity of the sets of lines (without white space, short ones apart) is at least 0.85. Found
exactly, without comparing all pairs: two sets that alike share one of their few rarest lines (prefix filtering,
Chaudhuri et al. 2006; Bayardo et al. 2007).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.text import TokenizedText

ALIKE = 0.85
_LEAST_LINES = 10  # a shorter file is alike by chance


def duplicates(texts: Mapping[str, TokenizedText]) -> dict[str, str]:
    """Path → the path of a file it repeats; of two that are alike, the one whose path comes later is a duplicate."""
    found: dict[str, str] = {}
    contents: dict[bytes, str] = {}
    for path in sorted(texts):
        same = contents.setdefault(texts[path].ids.tobytes(), path)
        if same != path and len(texts[path]):
            found[path] = same
    return found | _near(_line_sets({path: text for path, text in texts.items() if path not in found}))


def _line_sets(texts: Mapping[str, TokenizedText]) -> dict[str, NDArray[np.int64]]:
    """Path → its lines as ranks, ascending, the rarest line of all texts first; files of few lines are left out."""
    said = {path: np.unique(text.row_hashes[text.row_hashes != 0]) for path, text in sorted(texts.items())}
    said = {path: lines for path, lines in said.items() if len(lines) >= _LEAST_LINES}
    lines, back, count = np.unique(
        np.concatenate([np.zeros(0, np.uint64), *said.values()]), return_inverse=True, return_counts=True
    )
    rank = np.empty(len(lines), np.int64)
    rank[np.lexsort((lines, count))] = np.arange(len(lines))
    ends = np.cumsum([len(one) for one in said.values()])
    ranked = np.split(rank[back], ends[:-1]) if said else []
    return {path: np.sort(one) for path, one in zip(said, ranked, strict=True)}


def _near(sets: Mapping[str, NDArray[np.int64]]) -> dict[str, str]:
    found: dict[str, str] = {}
    holders: defaultdict[int, list[str]] = defaultdict(list)
    for path, lines in sets.items():
        prefix = lines[: len(lines) - int(np.ceil(ALIKE * len(lines))) + 1].tolist()
        others = dict.fromkeys(other for line in prefix for other in holders.get(line, ()))
        alike = next((other for other in others if _jaccard(lines, sets[other]) >= ALIKE), None)
        if alike is not None:
            found[path] = alike
            continue
        for line in prefix:
            holders[line].append(path)
    return found


def _jaccard(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    if min(len(one), len(other)) < ALIKE * max(len(one), len(other)):
        return 0.0
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
