"""Packs files into the sequences of one phase, and says which lengths a phase has.

The caps of phases touch, so that no length falls between two of them. Files are ordered so that neighbors belong
together. A sequence is filled until the next file doesn't fit; that file is cut at the last syntax cut that fits and
continued in the next sequence, after its imports and enclosing lines as context. Every token of every file is scored in
exactly one sequence of each phase. A share of each sequence is kept free for context: what its files use, and sometimes
an unrelated file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain

from longrepo.config.schema import NUMBERED_PHASES, ContextSettings, Settings, phase_list
from longrepo.data.sequence import MIN_TARGETS
from longrepo.data.template import FilePiece, TemplateSizes
from longrepo.data.text import TokenizedText
from longrepo.data.used_context import Place, UsedContext, names_in
from longrepo.errors import InputError
from longrepo.repository.imports.graph import ImportGraph
from longrepo.utils import hashing

Positions = Callable[[ContextSettings], int | None]  # how far a model's positions reach; None: not known


@dataclass(frozen=True)
class Band:
    """A phase's lengths in tokens: sequences longer than `floor` (the cap of the phase before) and up to `cap` belong
    to it; they should be filled to `low` at least."""

    phase: int
    floor: int
    low: int
    cap: int


def last_phase(settings: Settings) -> int:
    """Return the last phase to build sequences for by default: 3, or the last further one that isn't off; with the
    plain recipe its only one."""
    known = phase_list(settings)
    return max(given.number for given in known if given.number <= NUMBERED_PHASES or given.enabled is not False)


def phase_bands(settings: Settings, phases: int, max_length: int) -> tuple[list[Band], list[str]]:
    """Return the bands of phases 1..`phases` without those before the last that are off, and notes on the choice.

    A `max_length` below the longest of them is raised to it, with a note; a larger one doesn't stretch the last band.
    Raises InputError if there aren't as many phases.
    """
    known = phase_list(settings)
    if phases > len(known) and settings.data.recipe == "plain":
        raise InputError(f"phase {phases} is asked for, and data.recipe=plain has phase 1 alone: leave out --phases")
    if phases > len(known):
        raise InputError(
            f"phase {phases} is asked for, but the settings have {len(known)}: add it to long_context.further_phases"
        )
    found, floor = [], 0
    for one in known[:phases]:
        if one.enabled is not False or one.number == phases:
            found.append(Band(one.number, floor, one.min_length, one.max_length))
        floor = one.max_length
    notes = []
    if max_length < floor:
        notes.append(f"length raised from {max_length} to {floor} tokens: phase {phases} is asked for and needs it")
    elif max_length > floor:
        notes.append(f"sequences reach {floor} tokens, not {max_length}: phase {phases} is the longest asked for")
    return found, notes


def reachable_phases(settings: Settings, phases: int, positions: Positions) -> tuple[int, list[str]]:
    """Return the last of phases 1..`phases` that a model's positions reach, and a note on each one left out.

    Only a phase that is off is left out. Raises InputError if one that is trained is beyond the positions.
    """
    name, notes = settings.model.name, []
    known = phase_list(settings)
    for phase in reversed(known[:phases] if phases <= len(known) else ()):  # `phase_bands` refuses more
        reach = positions(phase.positions(settings.context))
        if reach is None or phase.max_length <= reach:
            continue
        if phase.number < phases or (phase.enabled is not False and phase.epochs):
            raise InputError(phase.beyond_positions(name, reach))
        notes.append(
            f"phase {phase.number} (up to {phase.max_length:,} tokens) is left out: the positions of {name} reach "
            f"{reach:,}; set shorter phases, as examples/demo.yaml does, or extend them with context.method"
        )
        phases -= 1
    return phases, notes


def bands_up_to(settings: Settings, length: int) -> list[Band]:
    """Return the bands whose caps are within `length`, and a last one cut to `length` if that is between two caps."""
    found, _ = phase_bands(settings, last_phase(settings), length)
    whole = [band for band in found if band.cap <= length]
    if len(whole) < len(found):
        next_one = found[len(whole)]
        if next_one.floor < length:
            low = min(next_one.low, (next_one.floor + length + 1) // 2)
            whole.append(Band(next_one.phase, next_one.floor, low, length))
    return whole


def phase_of(length: int, of: list[Band]) -> int:
    """Return the phase whose band holds a sequence of `length` tokens (the last phase for anything longer)."""
    return next((band.phase for band in of if length <= band.cap), of[-1].phase)


_MIN_PIECE_TOKENS = 48  # a shorter beginning of a file isn't worth its frame
NO_ROOM_REASON = "the marks and the path alone are longer than the phase's cap"
TOO_SHORT_REASON = "too little text to fill this length"
_HEAD_SHARE = 12  # a repeated head takes at most a twelfth of a sequence

Related = Callable[[str], Sequence[str]]


@dataclass
class PackedFiles:
    """Sequences as lists of pieces, the tokens that were dropped by reason, and the cuts by kind."""

    packs: list[list[FilePiece]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)  # "syntax", "line", "token" -> cuts


def order_by_relation(paths: Sequence[str], related: Related, *seed: object) -> list[str]:
    """Order paths so that neighbors belong together: each file is followed by its closest one not yet visited, or else
    by one of the same folder, or else by any. The order depends on the seed."""
    left = dict.fromkeys(sorted(paths, key=lambda path: hashing.seeded_int(*seed, path)))
    folders: dict[str, dict[str, None]] = {}
    for path in left:
        folders.setdefault(path.rpartition("/")[0], {})[path] = None
    order: list[str] = []
    trail: list[str] = []  # visited files that may still have unvisited neighbors
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


def pack_files(texts: Sequence[TokenizedText], band: Band, sizes: TemplateSizes, reserve: int) -> PackedFiles:
    """Fill sequences of `band` with texts in this order; `reserve` tokens of each stay free."""
    result = PackedFiles()
    current: list[FilePiece] = []
    room = full = band.cap - reserve
    for text in texts:
        at = 0
        while at < len(text):
            piece, how = _next_piece(text, at, room, full, band, sizes)
            if how == NO_ROOM_REASON:
                result.dropped[NO_ROOM_REASON] += len(text) - at
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
    text: TokenizedText, at: int, room: int, full: int, band: Band, sizes: TemplateSizes
) -> tuple[FilePiece | None, str]:
    head = tuple(text.head(at, band.cap // _HEAD_SHARE, len(text)))
    whole = FilePiece(text, at, len(text), head)
    if sizes.file(whole) <= room:
        return whole, ""
    left = room - (sizes.file(whole) - (len(text) - at))
    fresh = room == full
    used = full - room
    if not fresh and left < _MIN_PIECE_TOKENS:
        return None, ""
    if left <= 0:
        return None, NO_ROOM_REASON
    # A syntax cut is taken if it leaves the sequence three quarters full, else a line start.
    end, how = text.cut_in(at, at + left, max(1, 3 * full // 4 - used, 0 if fresh else _MIN_PIECE_TOKENS))
    if not fresh and how == "token":
        return None, ""
    # The head of the piece alone, in the room of the one with all that the rest of the file needs.
    room = sum(last - first for first, last in head)
    for budget in (band.cap // _HEAD_SHARE, room + len(head), room):
        piece = FilePiece(text, at, end, tuple(text.head(at, budget, end)))
        if piece.size <= end - at + room:
            break
    return piece, how


class ContextFiller:
    """Adds context in front of a sequence's files until the phase's cap is nearly reached."""

    def __init__(
        self,
        band: Band,
        sizes: TemplateSizes,
        used: UsedContext,
        graph: ImportGraph,
        related: Related,
        negatives: float,
        *seed: object,
    ) -> None:
        """`negatives`: the share of sequences with an unrelated file."""
        self._band = band
        self._sizes = sizes
        self._used = used
        self._graph = graph
        self._related = related
        self._negatives = negatives
        self._seed = seed

    def complete(self, current: list[FilePiece], reserve: int) -> list[FilePiece]:
        """Return context pieces, then the sequence's own, together at most the cap less `reserve` tokens, and no more
        context than leaves the share of targets that a sequence must have."""
        most = int(sum(piece.end - piece.start for piece in current) / MIN_TARGETS)
        own = sum(map(self._sizes.file, current))
        room = min(self._band.cap, most) - reserve - own
        last, held = current[-1], {piece.of.path for piece in current}
        strangers: list[FilePiece] = []
        if hashing.seeded_uniform(*self._seed, "negative", last.of.path, last.start) < self._negatives:
            found = (self._context(path, room // 2) for path in self._strangers(last.of.path, held))
            strangers = [one for one in found if one is not None][:1]
        held |= {piece.of.path for piece in strangers}
        beside = sum(map(self._sizes.file, strangers))
        halves = [replace(piece, end=(piece.start + piece.end) // 2) for piece in current]
        return [*strangers, *self._fill(last.of.path, halves, held, room - beside, own + beside), *current]

    def before(self, path: str, shown: Sequence[FilePiece], held: set[str], size: int) -> list[FilePiece]:
        """Return context pieces to put before `size` tokens about the file `path`, none of a path in `held`; `shown`:
        what those tokens show of files."""
        return self._fill(path, shown, held, self._band.cap - size, size)

    def _fill(self, path: str, shown: Sequence[FilePiece], held: Set[str], room: int, size: int) -> list[FilePiece]:
        """Return what the text shown of files uses, then related files, then any files, until little room is left; none
        without a name of that text, unless the sequence, of `size` tokens so far, would be too short for its phase."""
        places = [Place(piece.of, piece.end) for piece in shown]
        edges = list(dict.fromkeys(edge for piece in reversed(shown) for edge in self._graph.edges(piece.of.path)))
        names = set[str]()
        for piece in shown:  # a target's head may be left out
            head = () if piece.target else piece.head
            names |= names_in(piece.of, [*head, (piece.start, piece.end)])
        found: list[FilePiece] = []
        for required in (names, None):
            near = chain(self._related(path), self._used.paths)
            found = self._used.pieces(places, edges, near, held, room, self._sizes, required)
            if size + sum(map(self._sizes.file, found)) > self._band.floor:
                break
        return found[::-1]

    def _strangers(self, path: str, held: Set[str]) -> list[str]:
        """Return files near `path` in name or folder that neither import it nor are imported by it, furthest first."""
        imports = self._graph.imports
        near = {*imports.get(path, ()), *held}
        return [one for one in reversed(self._related(path)) if one not in near and path not in imports.get(one, ())]

    def _context(self, path: str, room: int) -> FilePiece | None:
        text = self._used.text(path)
        left = room - self._sizes.frame(text) if text is not None else 0
        if text is None or not len(text) or left < _MIN_PIECE_TOKENS // 2:
            return None
        return context_piece(text, left)


def context_piece(text: TokenizedText, room: int) -> FilePiece:
    """Return a file as context in at most `room` tokens, behind its licence: all of it, or its beginning behind the
    imports up to a syntax cut (up to a line, if the syntax cut would leave half of the room empty)."""
    licence, imports = (at if at < len(text) else 0 for at in text.top)
    if len(text) - licence <= room:
        return FilePiece(text, licence, len(text), (), False)
    start = max(licence, imports)
    end = text.cut_in(start, start + room, room // 2)[0] if len(text) - start > room else len(text)
    return FilePiece(text, start, end, (), False)


def arrange_pieces(
    current: list[FilePiece], rank: Mapping[str, int], random_share: float, *key: object
) -> list[FilePiece]:
    """Put the context first, in its order, and targets last, definitions first among them; in `random_share` of the
    sequences use path or random order instead."""
    chosen = hashing.seeded_uniform(*key, "order")
    context = [piece for piece in current if not piece.target]
    targets = [piece for piece in current if piece.target]
    if chosen < random_share / 2:
        return sorted(current, key=lambda piece: (piece.of.path, piece.start))
    if chosen < random_share:
        return sorted(current, key=lambda piece: (hashing.seeded_int(*key, piece.of.path), piece.start))
    targets.sort(key=lambda piece: (rank.get(piece.of.path, len(rank)), piece.of.path, piece.start))
    return [*context, *targets]
