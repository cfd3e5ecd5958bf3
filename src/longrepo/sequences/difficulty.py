"""How hard a sequence is, judged without a model. Length plays no part: length is the phase.

score = 0.35 unseen + 0.25 distance + 0.20 references + 0.20 nesting, each part in 0..1:

- unseen: of the names in the target text, the share that stands nowhere earlier in the sequence and isn't common in
  the training snapshot (in 5 % of its files, and at least 3). Names are words of two letters or more.
- distance: from where a name is defined to its use in the target, mean over uses of log2(1 + d) / log2(1 + 8192) with
  d in tokens (1 at 8192 and beyond); 0 where nothing that is used is defined in the sequence.
- references: files in the sequence whose names the target uses from another file, r / (r + 2).
- nesting: the deepest nesting of bodies in the target (in a change, of indentation), n / (n + 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.draft import Built, Part
from longrepo.sequences.names import Names
from longrepo.sequences.sequence import DIFFICULTIES

PARTS = {"unseen": 0.35, "distance": 0.25, "references": 0.20, "nesting": 0.20}
# For a sequence built outside a corpus, which has no quantiles: set by hand, near what repositories give.
FIXED_THRESHOLDS = (0.25, 0.35, 0.45)
_FAR = 8192  # tokens
_AT_ONCE = 64  # sequences


def parts_of(each: Sequence[Sequence[Part]], names: Names) -> list[dict[str, float]]:
    """For the parts of each sequence the four parts of its difficulty, each in 0..1, for the target text among them."""
    found: list[dict[str, float]] = []
    for first in range(0, len(each), _AT_ONCE):
        found += _judged(each[first : first + _AT_ONCE], names)
    return found


def _judged(each: Sequence[Sequence[Part]], names: Names) -> list[dict[str, float]]:
    parts = [part for one in each for part in one]
    names.note(part.of for part in parts)
    files: dict[str, int] = {}
    began = np.array([names.began(part.of) for part in parts], np.int32)
    start, end = (np.array([getattr(part, name) for part in parts], np.int32) for name in ("start", "end"))
    first = names.token.searchsorted(began + start)
    size = names.token.searchsorted(began + end) - first
    ends = np.cumsum(size)
    index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + size, size)
    shift = np.array([part.at for part in parts], np.int64) - start - began
    which = np.repeat([files.setdefault(part.of.path, len(files)) for part in parts], size)
    limits = np.concatenate([[0], ends])[np.cumsum([0, *map(len, each)])]
    seen, definition = _places(names, index, limits)
    uses = np.flatnonzero(np.repeat([part.target for part in parts], size))
    owner = np.repeat(np.arange(len(each)), np.diff(limits))
    count = np.bincount(owner[uses], minlength=len(each))
    fresh = uses[(seen[uses] == uses) & ~names.known[index[uses]]]
    unseen = np.bincount(owner[fresh], minlength=len(each)) / np.maximum(count, 1)
    uses = uses[(definition[uses] >= limits[owner[uses]]) & (definition[uses] < uses)]
    where = names.token[index] + np.repeat(shift, size)
    away = np.minimum(1.0, np.log2(1.0 + where[uses] - where[definition[uses]]) / np.log2(1.0 + _FAR))
    told = np.bincount(owner[uses], minlength=len(each))
    distance = np.bincount(owner[uses], away, minlength=len(each)) / np.maximum(told, 1)
    other = uses[which[definition[uses]] != which[uses]]
    pairs = np.unique(owner[other] * max(1, len(files)) + which[definition[other]])
    references = np.bincount(pairs // max(1, len(files)), minlength=len(each))
    return [
        {
            "unseen": round(float(unseen[number]), 4),
            "distance": round(float(distance[number]), 4),
            "references": round(float(references[number] / (references[number] + 2)), 4),
            "nesting": _nesting(one),
        }
        for number, one in enumerate(each)
    ]


def _places(
    names: Names, index: NDArray[np.int64], limits: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in `index` each of its names stands first in the sequence, and where it is defined first (somewhere before
    the sequence, where it isn't). Sequences end at `limits`."""
    name, defines = names.number[index], names.defines[index]
    scratch, scratch_of_definitions = np.full(len(names), -1), np.full(len(names), -1)
    seen, definition = np.empty(len(index), np.int64), np.empty(len(index), np.int64)
    place = np.arange(len(index))
    for begin, end in pairwise(limits.tolist()):
        own, at = name[begin:end], place[begin:end]
        scratch[own[::-1]] = at[::-1]
        seen[begin:end] = scratch[own]
        defined = at[defines[begin:end]][::-1]
        scratch_of_definitions[name[defined]] = defined
        definition[begin:end] = scratch_of_definitions[own]
    return seen, definition


def _nesting(parts: Sequence[Part]) -> float:
    depths = [part.of.depth[part.start : part.end] for part in parts if part.target and len(part.of.depth)]
    deepest = max((int(depth.max()) for depth in depths), default=0)
    return round(deepest / (deepest + 6), 4)


def score_of(parts: Mapping[str, float]) -> float:
    """The weighted sum, 0..1; grows with each part."""
    return round(sum(weight * parts[name] for name, weight in PARTS.items()), 6)


def label(score: float, thresholds: tuple[float, float, float] = FIXED_THRESHOLDS) -> str:
    """One of DIFFICULTIES: how many of the three ascending thresholds the score reaches."""
    return DIFFICULTIES[sum(score >= threshold for threshold in thresholds)]


def judge(built: Sequence[Built], names: Names) -> None:
    """Write score, parts and the difficulty by fixed thresholds into sequences."""
    for one, parts in zip(built, parts_of([one.draft.parts for one in built], names), strict=True):
        one.parts = parts
        one.score = score_of(parts)
        one.difficulty = label(one.score)


def quantile_thresholds(scores: Iterable[float]) -> tuple[float, float, float]:
    """The scores at 25, 50 and 75 % of a phase's training sequences (the fixed ones where there are under four)."""
    ordered = sorted(scores)
    if len(ordered) < 4:
        return FIXED_THRESHOLDS
    one, two, three = (ordered[min(len(ordered) - 1, len(ordered) * quarter // 4)] for quarter in (1, 2, 3))
    return one, two, three
