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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.draft import Built, Part
from longrepo.sequences.sequence import DIFFICULTIES
from longrepo.sequences.text import TokenizedText

PARTS = {"unseen": 0.35, "distance": 0.25, "references": 0.20, "nesting": 0.20}
# For a sequence built outside a corpus, which has no quantiles: set by hand, near what repositories give.
FIXED_THRESHOLDS = (0.25, 0.35, 0.45)
_FAR = 8192  # tokens
_COMMON_SHARE, _COMMON_FILES = 0.05, 3
_AMBIGUOUS = 3  # a name defined in more files than this says nothing about where it comes from

Names32 = NDArray[np.uint32]


def _no_names() -> Names32:
    return np.zeros(0, np.uint32)


class Names:
    """What the training snapshot knows of names: those that are common, and those that so many files define that a
    definition says nothing."""

    def __init__(self, common: Names32 | None = None, ambiguous: Names32 | None = None) -> None:
        """Ascending hashes of names."""
        self.common = _no_names() if common is None else common
        self.ambiguous = _no_names() if ambiguous is None else ambiguous
        self._numbers: dict[int, int] = {}  # name -> its number here
        self._noted: dict[int, tuple[TokenizedText, _Noted]] = {}
        self._scratch: NDArray[np.int64] = np.full(0, -1, np.int64)

    @staticmethod
    def of(texts: Sequence[TokenizedText]) -> Names:
        """Read from the files of a snapshot."""
        held, by = _counted([np.unique(text.names) for text in texts])
        defined, places = _counted([text.defines for text in texts])
        enough = max(_COMMON_FILES, _COMMON_SHARE * len(texts))
        return Names(held[by >= enough], defined[places > _AMBIGUOUS])

    def noted(self, of: TokenizedText) -> _Noted:
        """What counts of a text's names, worked out once."""
        known = self._noted.get(id(of))
        if known is None:
            numbers = self._numbers
            distinct, place = np.unique(of.names, return_inverse=True)
            number = np.array([numbers.setdefault(name, len(numbers)) for name in distinct.tolist()], np.int64)[place]
            defines = _among(of.names, of.defines) & ~_among(of.names, self.ambiguous)
            known = self._noted[id(of)] = of, _Noted(number, _among(of.names, self.common), defines)
        return known[1]

    def scratch(self) -> NDArray[np.int64]:
        """A place for each name so far, holding -1; to be left so."""
        if len(self._scratch) < len(self._numbers):
            self._scratch = np.full(2 * len(self._numbers), -1, np.int64)
        return self._scratch


@dataclass(frozen=True)
class _Noted:
    """Of each name in a text: its number, whether it is common, whether the text defines it."""

    number: NDArray[np.int64]
    common: NDArray[np.bool_]
    defines: NDArray[np.bool_]


def _counted(each: Sequence[Names32]) -> tuple[Names32, NDArray[np.int64]]:
    return np.unique(np.concatenate([_no_names(), *each]), return_counts=True)


def parts_of(parts: Sequence[Part], names: Names) -> dict[str, float]:
    """The four parts for the target text among the parts of a sequence, each in 0..1."""
    number: list[NDArray[np.int64]] = []
    common: list[NDArray[np.bool_]] = []
    defines: list[NDArray[np.bool_]] = []
    place: list[NDArray[np.int64]] = []
    facts: list[tuple[int, bool, int]] = []  # names, target, file: of each part
    files: dict[str, int] = {}
    deepest = 0
    for part in parts:
        of, noted = part.of, names.noted(part.of)
        first, last = of.name_tokens.searchsorted((part.start, part.end)).tolist()
        number.append(noted.number[first:last])
        common.append(noted.common[first:last])
        defines.append(noted.defines[first:last])
        place.append(of.name_tokens[first:last] + np.int64(part.at - part.start))
        facts.append((last - first, part.target, files.setdefault(of.path, len(files))))
        if part.target and len(of.depth):
            deepest = max(deepest, int(of.depth[part.start : part.end].max()))
    result = {"unseen": 0.0, "distance": 0.0, "references": 0.0, "nesting": round(deepest / (deepest + 6), 4)}
    count = [size for size, _, _ in facts]
    uses = np.flatnonzero(np.repeat([target for _, target, _ in facts], count))
    if not len(uses):
        return result
    name = np.concatenate(number)
    at = np.arange(len(name))
    seen = names.scratch()
    seen[name[::-1]] = at[::-1]  # the first place of each name
    fresh = uses[(seen[name[uses]] == uses) & ~np.concatenate(common)[uses]]
    result["unseen"] = round(len(fresh) / len(uses), 4)
    seen[name] = -1
    defined = np.flatnonzero(np.concatenate(defines))[::-1]
    seen[name[defined]] = defined  # the first definition of each name
    definition = seen[name[uses]]
    seen[name[defined]] = -1
    used = (definition >= 0) & (definition < uses)
    uses, definition = uses[used], definition[used]
    if len(uses):
        where = np.concatenate(place)
        file = np.repeat([number for _, _, number in facts], count)
        away = np.minimum(1.0, np.log2(1.0 + where[uses] - where[definition]) / np.log2(1.0 + _FAR))
        others = len(set(file[definition][file[definition] != file[uses]].tolist()))
        result["distance"] = round(float(away.mean()), 4)
        result["references"] = round(others / (others + 2), 4)
    return result


def _among(some: Names32, ascending: Names32) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(some), bool)
    slot = np.minimum(ascending.searchsorted(some), len(ascending) - 1)
    return np.asarray(ascending[slot] == some)


def score_of(parts: Mapping[str, float]) -> float:
    """The weighted sum, 0..1; grows with each part."""
    return round(sum(weight * parts[name] for name, weight in PARTS.items()), 6)


def label(score: float, thresholds: tuple[float, float, float] = FIXED_THRESHOLDS) -> str:
    """One of DIFFICULTIES: how many of the three ascending thresholds the score reaches."""
    return DIFFICULTIES[sum(score >= threshold for threshold in thresholds)]


def judge(built: Built, names: Names) -> Built:
    """Write score, parts and the difficulty by fixed thresholds into a sequence; return it."""
    built.parts = parts_of(built.draft.parts, names)
    built.score = score_of(built.parts)
    built.difficulty = label(built.score)
    return built


def quantile_thresholds(scores: Iterable[float]) -> tuple[float, float, float]:
    """The scores at 25, 50 and 75 % of a phase's training sequences (the fixed ones where there are under four)."""
    ordered = sorted(scores)
    if len(ordered) < 4:
        return FIXED_THRESHOLDS
    one, two, three = (ordered[min(len(ordered) - 1, len(ordered) * quarter // 4)] for quarter in (1, 2, 3))
    return one, two, three
