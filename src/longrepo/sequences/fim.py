"""Fill-in-the-middle in StarCoder2's format, so that tuning keeps the editor's completion ability.

PSM: `<fim_prefix>` prefix `<fim_suffix>` suffix `<fim_middle>` middle; SPM: `<fim_prefix><fim_suffix>` suffix
`<fim_middle>` prefix middle (the second variant of Bavarian et al. 2022, section 3, as BigCode trained it). In a file
of several, the path stands before `<fim_prefix>` (StarCoder 2, section 5.2: repository-context FIM).
"""

from __future__ import annotations

import numpy as np

from longrepo.sequences.chance import number, share
from longrepo.sequences.draft import Draft
from longrepo.sequences.sequence import TARGET_WEIGHT
from longrepo.sequences.text import TokenizedText

EXTRA_TOKENS = 3
_SPM_SHARE = 0.5  # half and half, as in the training of the StarCoder models
_REACH = 8  # cuts that a middle reaches over at most


def middle_of(text: TokenizedText, start: int, end: int, key: str) -> tuple[int, int] | None:
    """The token range of the piece start..end that is to be filled in: between two syntax cuts (else line starts),
    at most half of the piece. None where the piece has no two places to cut."""
    for places in (text.cuts, text.lines):
        inside = places[places.searchsorted(start, "right") : places.searchsorted(end)].tolist()
        if not inside:
            continue
        first = number(key, "first") % len(inside)
        for turn in range(len(inside)):
            at = (first + turn) % len(inside)
            ends = [
                last for last in [*inside[at + 1 : at + 1 + _REACH], end] if last - inside[at] <= (end - start) // 2
            ]
            if ends:
                return inside[at], ends[number(key, "last") % len(ends)]
    return None


def write(
    draft: Draft, text: TokenizedText, piece: tuple[int, int], middle: tuple[int, int], key: str, context: float
) -> None:
    """Append the piece with its middle last; every token of it is scored. `context` weighs the three FIM tokens."""
    fim = draft.tokenizer.fim
    if fim is None:
        raise ValueError("the tokenizer has no fill-in-the-middle tokens")
    opening, closing, filling = (np.array([id], np.int32) for id in (fim.prefix, fim.suffix, fim.middle))
    prefix, suffix = (piece[0], middle[0]), (middle[1], piece[1])
    draft.plain(opening, context)
    if share(key, "order") < _SPM_SHARE:
        draft.plain(closing, context)
        draft.text(text, *suffix, TARGET_WEIGHT, True)
        draft.plain(filling, context)
        draft.text(text, *prefix, TARGET_WEIGHT, True)
    else:
        draft.text(text, *prefix, TARGET_WEIGHT, True)
        draft.plain(closing, context)
        draft.text(text, *suffix, TARGET_WEIGHT, True)
        draft.plain(filling, context)
    draft.text(text, *middle, TARGET_WEIGHT, True)
