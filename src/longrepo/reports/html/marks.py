"""Where a completion differs from what was wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from longrepo.evaluation.result import Example

_PIECES = re.compile(r"\w+|\s+|[^\w\s]")
_MOST = 6


@dataclass(frozen=True)
class Piece:
    """A stretch of a completion: the same as wanted, other than wanted, or a gap where `text` was wanted."""

    kind: Literal["same", "other", "gap"]
    text: str


def marked(wanted: str, got: str) -> list[Piece]:
    """`got` in pieces, word by word against `wanted`."""
    old, new = _PIECES.findall(wanted), _PIECES.findall(got)
    pieces: list[Piece] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(Piece("same", "".join(new[c:d])))
        elif d > c:
            pieces.append(Piece("other", "".join(new[c:d])))
        else:
            pieces.append(Piece("gap", "".join(old[a:b])))
    return pieces


def chosen(examples: Sequence[Example]) -> list[Example]:
    """A few to look at: where tuned gained most on base, and, so that it isn't flattery, where it lost most."""
    ranked = sorted(examples, key=_gain, reverse=True)
    if len(ranked) <= _MOST:
        return ranked
    lost = [one for one in ranked[-_MOST // 3 :] if _gain(one) < 0]
    return ranked[: _MOST - len(lost)] + lost


def _gain(example: Example) -> float:
    metric = "edit" if "edit" in example.tuned_scores else next(iter(example.tuned_scores), "")
    return example.tuned_scores.get(metric, 0.0) - example.base_scores.get(metric, 0.0)
