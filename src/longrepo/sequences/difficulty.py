"""How hard a sequence is, judged without a model. Length plays no part: length is the phase.

score = 0.35 unseen + 0.25 distance + 0.20 references + 0.20 nesting, each part in 0..1:

- unseen: of the names in the target text, the share that stands nowhere earlier in the sequence and isn't common in
  the training snapshot (in 5 % of its files, and at least 3). Names are words of two letters or more.
- distance: from where a name is defined to its use in the target, mean over uses of log2(1 + d) / log2(1 + 8192) with
  d in tokens (1 at 8192 and beyond); 0 where nothing that is used is defined in the sequence.
- references: files in the sequence whose names the target uses from another file, r / (r + 2).
- nesting: the deepest nesting in the target, n / (n + 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Names:
    """What the training snapshot knows of names, as ascending hashes: the common ones, and those that so many files
    define that a definition says nothing."""

    common: Names32 = field(default_factory=_no_names)
    ambiguous: Names32 = field(default_factory=_no_names)

    @staticmethod
    def of(texts: Sequence[TokenizedText]) -> Names:
        """Read from the files of a snapshot."""
        held, by = _counted([np.unique(text.names) for text in texts])
        defined, places = _counted([text.defines for text in texts])
        enough = max(_COMMON_FILES, _COMMON_SHARE * len(texts))
        return Names(held[by >= enough], defined[places > _AMBIGUOUS])


def _counted(each: Sequence[Names32]) -> tuple[Names32, NDArray[np.int64]]:
    return np.unique(np.concatenate([_no_names(), *each]), return_counts=True)


def parts_of(parts: Sequence[Part], names: Names) -> dict[str, float]:
    """The four parts for the target text among the parts of a sequence, each in 0..1."""
    found: list[Names32] = []
    places: list[NDArray[np.int64]] = []
    defining: list[NDArray[np.bool_]] = []
    facts: list[tuple[int, bool, str]] = []  # names, target, path: of each part
    deepest = 0
    for part in parts:
        of = part.of
        first, last = of.name_tokens.searchsorted([part.start, part.end])
        found.append(of.names[first:last])
        places.append(of.name_tokens[first:last].astype(np.int64) + (part.at - part.start))
        defining.append(_definitions(of, names)[first:last])
        facts.append((int(last - first), part.target, of.path))
        if part.target and len(of.depth):
            deepest = max(deepest, int(of.depth[part.start : part.end].max()))
    name = np.concatenate([_no_names(), *found])
    count = [size for size, _, _ in facts]
    target = np.repeat([is_target for _, is_target, _ in facts], count)
    total = int(target.sum())
    result = {"unseen": 0.0, "distance": 0.0, "references": 0.0, "nesting": round(deepest / (deepest + 6), 4)}
    if not total:
        return result
    _, earliest = np.unique(name, return_index=True)
    fresh = earliest[target[earliest]]
    result["unseen"] = round(float(len(fresh) - np.count_nonzero(_among(name[fresh], names.common))) / total, 4)
    defined_at = np.flatnonzero(np.concatenate([np.zeros(0, bool), *defining]))
    if len(defined_at):
        where = np.concatenate(places)
        paths: dict[str, int] = {}
        file = np.repeat([paths.setdefault(path, len(paths)) for _, _, path in facts], count)
        known, first_of = np.unique(name[defined_at], return_index=True)
        uses = np.flatnonzero(target)
        slot = np.minimum(known.searchsorted(name[uses]), len(known) - 1)
        definition = defined_at[first_of[slot]]
        used = (known[slot] == name[uses]) & (definition < uses)
        uses, definition = uses[used], definition[used]
        if len(uses):
            away = np.minimum(1.0, np.log2(1.0 + where[uses] - where[definition]) / np.log2(1.0 + _FAR))
            others = len(np.unique(file[definition][file[definition] != file[uses]]))
            result["distance"] = round(float(away.mean()), 4)
            result["references"] = round(others / (others + 2), 4)
    return result


def _definitions(of: TokenizedText, names: Names) -> NDArray[np.bool_]:
    """Which names of a text the text itself defines."""
    known = of.noted.get("definitions")
    if known is None:
        known = of.noted["definitions"] = _among(of.names, of.defines) & ~_among(of.names, names.ambiguous)
    return known


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
