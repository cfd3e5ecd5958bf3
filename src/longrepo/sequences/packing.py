"""Files into sequences of one phase: filled by related files, long ones cut between syntax nodes, nothing lost.

Files come in an order in which neighbours belong together. A sequence is filled with them until the next doesn't fit;
that one is cut at the last syntax cut that fits and goes on in the next sequence, after its imports and enclosing
lines as context. Every token of every file is scored in exactly one sequence of each phase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from longrepo.sequences import chance
from longrepo.sequences.compose import FilePiece, Sizes
from longrepo.sequences.lengths import Band
from longrepo.sequences.text import TokenizedText

_LEAST_PIECE = 48  # tokens: a shorter beginning of a file isn't worth its frame
NO_ROOM = "the marks and the path alone are longer than the phase's cap"
_HEAD_SHARE = 12  # a repeated head takes at most a twelfth of a sequence

Related = Callable[[str], Sequence[str]]


@dataclass
class Packs:
    """Sequences as lists of pieces, the tokens that found no place by reason, and how the cuts were made."""

    packs: list[list[FilePiece]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)  # "syntax", "line", "token" -> cuts


def walk(paths: Sequence[str], related: Related, *seed: object) -> list[str]:
    """The paths in an order in which neighbours belong together: from a file on to its nearest one not yet visited,
    and where there is none to a file of the same folder, else to any. Differs from seed to seed."""
    left = dict.fromkeys(sorted(paths, key=lambda path: chance.number(*seed, path)))
    folders: dict[str, dict[str, None]] = {}
    for path in left:
        folders.setdefault(path.rpartition("/")[0], {})[path] = None
    order: list[str] = []
    trail: list[str] = []  # visited files that may still have unvisited neighbours
    while left:
        following = None
        while trail and following is None:
            following = next((path for path in related(trail[-1]) if path in left), None)
            if following is None:
                done = trail.pop()
                following = next(iter(folders[done.rpartition("/")[0]]), None)
        path = following or next(iter(left))
        del left[path]
        del folders[path.rpartition("/")[0]][path]
        order.append(path)
        trail.append(path)
    return order


def pack(texts: Sequence[TokenizedText], band: Band, sizes: Sizes, reserve: int) -> Packs:
    """Fill sequences of `band` from texts in this order. `reserve` tokens of each stay free (end token, FIM)."""
    result = Packs()
    current: list[FilePiece] = []
    room = full = band.cap - reserve
    for text in texts:
        at = 0
        while at < len(text):
            piece, how = _next_piece(text, at, room, full, band, sizes)
            if how == NO_ROOM:
                result.dropped[NO_ROOM] += len(text) - at
                break
            if piece is None:  # the next sequence begins with this file
                result.packs.append(current)
                current, room = [], full
                continue
            current.append(piece)
            room -= sizes.file(piece)
            at = piece.end
            if how:
                result.cuts[how] += 1
                result.packs.append(current)
                current, room = [], full
    if current:
        result.packs.append(current)
    return result


def _next_piece(
    text: TokenizedText, at: int, room: int, full: int, band: Band, sizes: Sizes
) -> tuple[FilePiece | None, str]:
    head = tuple(text.head(at, band.cap // _HEAD_SHARE)) if at else ()
    whole = FilePiece(text, at, len(text), head)
    if sizes.file(whole) <= room:
        return whole, ""
    left = room - (sizes.file(whole) - (len(text) - at))
    short = max(0, band.low - (full - room) - (room - left))  # what this piece must have for `low` to be reached
    fresh = room == full
    if not fresh and short <= 0 and left < _LEAST_PIECE:
        return None, ""
    if left <= 0:
        return None, NO_ROOM if fresh else ""
    end, how = text.cut_in(at, at + left, max(1, short, 0 if fresh else min(left, _LEAST_PIECE)))
    if not fresh and short <= 0 and how == "token":
        return None, ""  # long enough without it: begin the next sequence with this file, uncut
    return FilePiece(text, at, end, head), how


def grow(
    packs: Packs, band: Band, sizes: Sizes, reserve: int, texts: Mapping[str, TokenizedText], near: Related
) -> None:
    """Bring sequences that are shorter than the band's low up to it, with related files in front as context; drop
    (and count) one that stays within the phase below for want of text."""
    kept: list[list[FilePiece]] = []
    for current in packs.packs:
        size = sum(map(sizes.file, current)) + reserve
        if size < band.low:
            held = {piece.of.path for piece in current}
            for path in [*near(current[-1].of.path), *texts]:
                if size >= band.low:
                    break
                if path in held or path not in texts:
                    continue
                room = band.cap - size - sizes.frame(texts[path])
                if room < _LEAST_PIECE:
                    continue
                added = context_piece(texts[path], room)
                if added.end:
                    held.add(path)
                    current.insert(0, added)
                    size += sizes.file(added)
        if size - reserve + 1 <= band.floor:
            packs.dropped["too little text to fill this length"] += sum(
                piece.end - piece.start for piece in current if piece.target
            )
        else:
            kept.append(current)
    packs.packs = kept


def context_piece(text: TokenizedText, room: int) -> FilePiece:
    """A file as context in at most `room` tokens: whole, or its beginning up to a syntax cut."""
    if len(text) <= room:
        return FilePiece.whole(text, target=False)
    return FilePiece(text, 0, text.cut_in(0, room)[0], (), False)


def arrange(current: list[FilePiece], rank: Mapping[str, int], random_share: float, *key: object) -> list[FilePiece]:
    """Definitions first and the target last; for `random_share` of the sequences in path or random order."""
    chosen = chance.share(*key, "order")
    if chosen < random_share / 2:
        return sorted(current, key=lambda piece: (piece.of.path, piece.start))
    if chosen < random_share:
        return sorted(current, key=lambda piece: (chance.number(*key, piece.of.path), piece.start))
    return sorted(current, key=lambda piece: (rank.get(piece.of.path, len(rank)), piece.of.path, piece.start))
