"""How near a completion comes to what was written."""

from __future__ import annotations

import re
from collections import Counter

from rapidfuzz.distance import Levenshtein

_IDENTIFIER = re.compile(r"[^\W\d]\w*")


def similarity(wanted: str, written: str) -> dict[str, float]:
    """`exact`: equal; `edit`: 1 - edits / characters of the longer; `identifiers`: F1 of the words that may be names,
    each as often as it stands. All 0 to 1, higher is nearer; what CrossCodeEval measures (arXiv 2310.11248)."""
    return {
        "exact": float(wanted == written),
        "edit": Levenshtein.normalized_similarity(wanted, written),
        "identifiers": _f1(Counter(_IDENTIFIER.findall(wanted)), Counter(_IDENTIFIER.findall(written))),
    }


def _f1(wanted: Counter[str], written: Counter[str]) -> float:
    total = wanted.total() + written.total()
    return 2 * (wanted & written).total() / total if total else 1.0
