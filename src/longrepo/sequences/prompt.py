"""Prompts in the format of training: other files, then the beginning of a file, or what stands around a gap in it.

The order is that of `longrepo.sequences.compose`; a gap is asked for as `longrepo.sequences.fim` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from longrepo.sequences.compose import FilePiece, Sizes, write_file
from longrepo.sequences.draft import Draft
from longrepo.sequences.stored_text import marks_of
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import Fim, RepoTokenizer
from longrepo.sequences.tokens import FILE_START

_LEAST = 32  # tokens of another file that are worth its frame


def fitting(pieces: Iterable[FilePiece], room: int, sizes: Sizes) -> list[FilePiece]:
    """As much of the pieces, in their order, as `room` tokens hold with their frames; the last ones are cut."""
    chosen: list[FilePiece] = []
    for piece in pieces:
        free = room - sizes.frame(piece.of)
        if free < _LEAST:
            if room < _LEAST + 8:
                break
            continue
        end = piece.end if piece.size <= free else piece.of.cut_in(piece.start, piece.start + free, free // 2)[0]
        chosen.append(FilePiece(piece.of, piece.start, end, (), False))
        room -= sizes.file(chosen[-1])
    return chosen


def write_others(draft: Draft, nearest_first: Sequence[FilePiece]) -> None:
    """Other files, the first of them last: nearest to what comes after."""
    for piece in reversed(nearest_first):
        write_file(draft, piece, 0.0)


def write_beginning(draft: Draft, before: FilePiece) -> None:
    """A file's path and its text up to where it goes on."""
    draft.mark(FILE_START, 0.0)
    draft.plain(before.of.path_ids, 0.0)
    draft.text(before.of, before.start, before.end, 0.0, False)


def write_gap(draft: Draft, before: FilePiece, after: FilePiece, fim: Fim) -> None:
    """A file's path, its text up to a gap and from there on; what fills the gap comes next."""
    opening, closing, filling = (np.array([id], np.int32) for id in (fim.prefix, fim.suffix, fim.middle))
    draft.mark(FILE_START, 0.0)
    draft.plain(before.of.path_ids, 0.0)
    draft.plain(opening, 0.0)
    draft.text(before.of, before.start, before.end, 0.0, False)
    draft.plain(closing, 0.0)
    draft.text(after.of, after.start, after.end, 0.0, False)
    draft.plain(filling, 0.0)


def following(of: TokenizedText, start: int, room: int) -> FilePiece:
    """At most `room` tokens of a text from token `start` on."""
    end = of.cut_in(start, start + room)[0] if len(of) - start > room else len(of)
    return FilePiece(of, start, end, (), False)


def written(tokenizer: RepoTokenizer, ids: Sequence[int]) -> str:
    """The text of written tokens up to the first mark: a file's end ends a completion."""
    marks = marks_of(tokenizer)
    stop = next((at for at, id in enumerate(ids) if id >= len(marks) or marks[id]), len(ids))
    return tokenizer.decode(ids[:stop])
