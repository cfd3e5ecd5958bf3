"""Fill-in-the-middle in StarCoder2's format, so that tuning keeps the editor's completion ability.

PSM: `<fim_prefix>` prefix `<fim_suffix>` suffix `<fim_middle>` middle; SPM: `<fim_prefix><fim_suffix>` suffix
`<fim_middle>` prefix middle (the second variant of Bavarian et al. 2022, section 3, as BigCode trained it). In a file
of several, the path stands before `<fim_prefix>` (StarCoder 2, section 5.2: repository-context FIM).
"""

from __future__ import annotations

from longrepo.sequences.chance import number, share
from longrepo.sequences.draft import Draft
from longrepo.sequences.text import TokenizedText

EXTRA_TOKENS = 3
_SPM_SHARE = 0.5  # half and half, as in the training of the StarCoder models


def middle_of(text: TokenizedText, start: int, end: int, key: str) -> tuple[int, int] | None:
    """The token range of the piece start..end that is to be filled in: between two syntax cuts (else line starts),
    at most half of the piece. None where the piece has no two places to cut."""
    for boundaries in (text.cuts, text.lines):
        inside = [at for at in boundaries if start < at < end]
        spans = [
            (first, last)
            for index, first in enumerate(inside)
            for last in [*inside[index + 1 : index + 9], end]
            if 0 < last - first <= (end - start) // 2
        ]
        if spans:
            return spans[number(key, "middle") % len(spans)]
    return None


def write(
    draft: Draft, text: TokenizedText, piece: tuple[int, int], middle: tuple[int, int], key: str, context: float
) -> None:
    """Append the piece with its middle last; every token of it is scored. `context` weighs the three FIM tokens."""
    fim = draft.tokenizer.fim
    if fim is None:
        raise ValueError("the tokenizer has no fill-in-the-middle tokens")
    prefix, suffix = (piece[0], middle[0]), (middle[1], piece[1])
    draft.plain([fim.prefix], context)
    if share(key, "order") < _SPM_SHARE:
        draft.plain([fim.suffix], context)
        draft.text(text, *suffix, 1.0, True)
        draft.plain([fim.middle], context)
        draft.text(text, *prefix, 1.0, True)
    else:
        draft.text(text, *prefix, 1.0, True)
        draft.plain([fim.suffix], context)
        draft.text(text, *suffix, 1.0, True)
        draft.plain([fim.middle], context)
    draft.text(text, *middle, 1.0, True)
