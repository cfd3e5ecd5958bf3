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

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from longrepo.repository.model import TextFile
from longrepo.repository.syntax import definitions, nesting
from longrepo.sequences.draft import Draft, Part
from longrepo.sequences.sequence import DIFFICULTIES, LongContextSequence

PARTS = {"unseen": 0.35, "distance": 0.25, "references": 0.20, "nesting": 0.20}
# For a sequence built outside a corpus, which has no quantiles: set by hand, near what repositories give.
FIXED_THRESHOLDS = (0.25, 0.35, 0.45)
_NAME = re.compile(r"[A-Za-z_]\w+")
_FAR = 8192  # tokens
_COMMON_SHARE, _COMMON_FILES = 0.05, 3
_AMBIGUOUS = 3  # a name defined in more files than this says nothing about where it comes from


@dataclass(frozen=True)
class Names:
    """What the training snapshot knows of names: the common ones, and which files define a name."""

    common: frozenset[str] = frozenset()
    defined_in: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(files: Iterable[TextFile]) -> Names:
        """Read from the files of a snapshot."""
        held_by: Counter[str] = Counter()
        defined: defaultdict[str, list[str]] = defaultdict(list)
        count = 0
        for file in files:
            count += 1
            held_by.update(set(_NAME.findall(file.text)))
            for name in dict.fromkeys(one.name for one in definitions(file)):
                defined[name].append(file.path)
        enough = max(_COMMON_FILES, _COMMON_SHARE * count)
        return Names(
            frozenset(name for name, files_with in held_by.items() if files_with >= enough),
            {name: tuple(paths) for name, paths in defined.items() if len(paths) <= _AMBIGUOUS},
        )


def parts_of(draft: Draft, names: Names) -> dict[str, float]:
    """The four parts for the target text of a draft, each in 0..1."""
    first: dict[str, int] = {}  # name -> the token at which it first stands
    defined: dict[str, tuple[int, str]] = {}  # name -> (token, path) of its definition in this sequence
    new = total = 0
    distances: list[float] = []
    referenced: set[str] = set()
    deepest = 0
    for part in draft.parts:
        per_character = (part.end - part.start) / max(1, len(part.text))
        for match in _NAME.finditer(part.text):
            name, at = match.group(), part.start + int(match.start() * per_character)
            if part.target:
                total += 1
                new += name not in first and name not in names.common
                if name in defined:
                    where, path = defined[name]
                    distances.append(min(1.0, math.log2(1 + at - where) / math.log2(1 + _FAR)))
                    if path != part.path:
                        referenced.add(path)
            first.setdefault(name, at)
            if name not in defined and part.path in names.defined_in.get(name, ()):
                defined[name] = (at, part.path)
        if part.target:
            deepest = max(deepest, _nesting(part))
    return {
        "unseen": round(new / total, 4) if total else 0.0,
        "distance": round(sum(distances) / len(distances), 4) if distances else 0.0,
        "references": round(len(referenced) / (len(referenced) + 2), 4),
        "nesting": round(deepest / (deepest + 6), 4),
    }


def _nesting(part: Part) -> int:
    return nesting(part.text, part.language)


def score_of(parts: Mapping[str, float]) -> float:
    """The weighted sum, 0..1; grows with each part."""
    return round(sum(weight * parts[name] for name, weight in PARTS.items()), 6)


def label(score: float, thresholds: tuple[float, float, float] = FIXED_THRESHOLDS) -> str:
    """One of DIFFICULTIES: how many of the three ascending thresholds the score reaches."""
    return DIFFICULTIES[sum(score >= threshold for threshold in thresholds)]


def judge(draft: Draft, sequence: LongContextSequence, names: Names) -> LongContextSequence:
    """Write score, parts and the difficulty by fixed thresholds into a sequence's metadata; return it."""
    parts = parts_of(draft, names)
    score = score_of(parts)
    sequence.metadata |= {
        "curriculum_difficulty": label(score),
        "difficulty_score": score,
        "difficulty_parts": parts,
    }
    return sequence


def quantile_thresholds(scores: Iterable[float]) -> tuple[float, float, float]:
    """The scores at 25, 50 and 75 % of a phase's training sequences (the fixed ones where there are under four)."""
    ordered = sorted(scores)
    if len(ordered) < 4:
        return FIXED_THRESHOLDS
    one, two, three = (ordered[min(len(ordered) - 1, len(ordered) * quarter // 4)] for quarter in (1, 2, 3))
    return one, two, three
