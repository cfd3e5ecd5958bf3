"""Chooses what to show of other files before a place in a file: what the text above it uses.

Three sources fill the room, one after the other:

1. definitions of the names that the text mentions and doesn't define itself, in files that it can see: signatures,
   small functions whole;
2. pieces similar to the lines right above the place, each with the lines that follow it (BM25); none above the first
   definition of a file, where the beginnings of other files are most like what is to come;
3. other files, nearest first by imports, name and folder.

Only text before the place decides (and the text after a gap, which is shown too). Training sequences, held-out
sequences, evaluation and completions choose alike, but that training leaves out pieces that share no telling name with
the text that decides (`shown`). In training every token of a piece is a target, so the first half of
each piece decides: to choose by all of it would show what the names to come are, which no completion can know.

What changes with every line stands last, next to the place: the beginning of a prompt stays as it is.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from longrepo.data.bm25 import BM25Index, words_above
from longrepo.data.features import defined_name
from longrepo.data.template import FilePiece, TemplateSizes
from longrepo.data.text import TokenizedText
from longrepo.repository.grammars import GRAMMARS, OWNER_KINDS
from longrepo.repository.imports.packages import is_test_path
from longrepo.repository.imports.visibility import Edge
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.utils.hashing import name_hash

TokenRange = tuple[int, int]
EVERYDAY_SHARE, EVERYDAY_FILES = 0.2, 3  # a name in more of the files says nothing about what belongs together
_NAME = re.compile(r"[^\W\d]\w{2,}")
_KEYWORD = re.compile(
    r"and|any|async|await|bool|boolean|break|case|catch|char|class|const|continue|def|default|del|else|elif|"
    r"enum|except|export|extends|extern|false|finally|float|for|from|func|function|global|goto|if|impl|"
    r"implements|import|include|int|interface|internal|is|let|long|match|module|mut|namespace|new|nil|none|"
    r"None|not|null|object|override|package|pass|private|protected|pub|public|raise|return|self|short|static|"
    r"string|struct|super|switch|this|throw|throws|trait|true|True|False|try|type|typedef|undefined|unsigned|"
    r"use|using|var|virtual|void|where|while|with|yield|the"
)
_MIN_ROOM = 32  # tokens: a shorter piece isn't worth its frame


class DefinedSpan(NamedTuple):
    """Where a text defines a name (a hash), in tokens, whole lines: its signature begins at `start` and ends at `body`.
    `owner` is the index of the definition around it, -1 for none; `is_type`: it is a class or the like."""

    name: int
    owner: int
    is_type: bool
    start: int
    body: int
    end: int


_SPANS: WeakKeyDictionary[TokenizedText, tuple[DefinedSpan, ...]] = WeakKeyDictionary()


def defined_spans(of: TokenizedText) -> tuple[DefinedSpan, ...]:
    """Return the definitions of a text in order, outer before inner; they are kept as long as the text."""
    if of not in _SPANS:
        _SPANS[of] = _read_spans(of)
    return _SPANS[of]


def _read_spans(of: TokenizedText) -> tuple[DefinedSpan, ...]:
    starts = [0, *(match.end() for match in re.finditer("\n", of.text))]
    found: list[DefinedSpan] = []
    around: list[tuple[int, int]] = []  # (end, index) of the definitions around
    for one in of.outline.definitions:
        while around and around[-1][0] <= one.start:
            around.pop()
        head = one.start + len(of.text[one.start : one.body].rstrip())
        first, of_head, last = (
            bisect_right(starts, max(one.start, at)) - 1 for at in (one.start, head - 1, one.end - 1)
        )
        span = (of.row_token(first), of.row_token(of_head + 1), of.row_token(last + 1))
        owner = around[-1][1] if around else -1
        around.append((one.end, len(found)))
        found.append(DefinedSpan(defined_name(one.name, of.language), owner, one.kind in OWNER_KINDS, *span))
    of.forget_outline()
    return tuple(found)


@dataclass
class Excerpts:
    """Ranges of files in at most `room` more tokens. All that is shown of a file is one piece, in the file's order.
    `names`: those of which the first ranges of a file must hold one; None: they may hold anything."""

    room: int
    sizes: TemplateSizes
    names: Set[str] | None = None
    _ranges: dict[TokenizedText, list[TokenRange]] = field(default_factory=dict)
    _used: dict[TokenizedText, int] = field(default_factory=dict)

    def add(self, of: TokenizedText, ranges: Iterable[TokenRange], limit: int | None = None) -> int | None:
        """Add ranges of whole lines if they take at most `limit` tokens and the room; return how many they took, None
        if they weren't added."""
        merged = _merge([*self._ranges.get(of, ()), *ranges])
        size = self.sizes.frame(of) + sum(end - start for start, end in of.separate_ranges(merged, len(of)))
        grown = size - self._used.get(of, 0)
        if grown > (self.room if limit is None else min(limit, self.room)):
            return None
        if self.names is not None and of not in self and not self.names & names_in(of, merged):
            return None
        self.room -= grown
        self._ranges[of], self._used[of] = merged, size
        return grown

    def add_beginning(self, of: TokenizedText, start: int, end: int) -> bool:
        """Add a range, or as much of its beginning as fits, up to a syntax cut or else a line, but no part of a line;
        return whether something was added."""
        if self.add(of, [(start, end)]) is not None:
            return True
        free = self.room - (0 if of in self._ranges else self.sizes.frame(of)) - 2  # line ends around it
        if free < _MIN_ROOM:
            return False
        cut, how = of.cut_in(start, min(start + free, end - 1), free // 2)
        return how != "token" and self.add(of, [(start, cut)]) is not None

    def __contains__(self, of: TokenizedText) -> bool:
        return of in self._ranges

    @property
    def texts(self) -> list[TokenizedText]:
        """The files with a piece, in the order in which they were first added to."""
        return list(self._ranges)

    def piece(self, of: TokenizedText) -> FilePiece:
        """Return what is shown of a file."""
        ranges = self._ranges[of]
        if len(ranges) == 1:
            return FilePiece(of, *ranges[0], (), False)
        return FilePiece(of, 0, 0, tuple(of.separate_ranges(ranges, len(of))), False)


def names_in(of: TokenizedText, ranges: Iterable[TokenRange]) -> set[str]:
    """Return the names in ranges of a text."""
    return set[str]().union(*(names_of(of.slice_text(*one)) for one in ranges))


def names_of(text: str) -> set[str]:
    """Return the words of a text that may say what it has to do with another: those of three letters or more but
    keywords."""
    return {name for name in _NAME.findall(text) if not _KEYWORD.fullmatch(name)}


def _merge(ranges: Iterable[TokenRange]) -> list[TokenRange]:
    found: list[TokenRange] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif end > start:
            found.append((start, end))
    return found


HALVED_AFTER = 256  # tokens: a name mentioned that far above the place counts half
_LEAST_WEIGHT = 0.1  # of a name mentioned far above


@dataclass(frozen=True)
class Place:
    """Where text is to come: after token `at` of `of`; `after`: the text shown after the gap, if any."""

    of: TokenizedText
    at: int
    after: FilePiece | None = None

    @property
    def is_on_top(self) -> bool:
        """Whether no definition begins above: what is to come is most like the beginnings of other files."""
        spans = defined_spans(self.of)
        return self.of.language in GRAMMARS and (not spans or spans[0].start >= self.at)

    def mentions(self) -> dict[int, float]:
        """Return the names (hashes) above and after the place with their weights, more the nearer they are."""
        found = dict[int, float]()
        last = int(self.of.name_tokens.searchsorted(self.at))
        sides = [(self.of.names[:last][::-1], self.at - self.of.name_tokens[:last][::-1])]
        if self.after is not None:
            of = self.after.of
            first, last = of.name_tokens.searchsorted([self.after.start, self.after.end])
            sides.append((of.names[first:last], of.name_tokens[first:last] - self.after.start))
        for names, distance in sides:
            names, nearest = np.unique(names, return_index=True)
            weights = np.maximum(_LEAST_WEIGHT, 0.5 ** (distance[nearest] / HALVED_AFTER))
            for name, weight in zip(names.tolist(), weights.tolist(), strict=True):
                found[name] = max(weight, found.get(name, 0.0))
        return found

    def own(self) -> set[int]:
        """Return the names (hashes) that the text above and after defines."""
        found = {one.name for one in defined_spans(self.of) if one.start < self.at}
        if self.after is not None:
            found |= {one.name for one in defined_spans(self.after.of) if one.start >= self.after.start}
        return found


DEFINITION_SHARE = 0.15  # of the room
SIMILAR_SHARE, SIMILAR_SHARE_IN_TESTS = 0.5, 0.85  # tests are like one another; other files fill the rest
_NAMED_KINDS = frozenset({"import", "path", "tested", "counterpart"})
_NAMED, _SEEN, _UNSEEN = 1.0, 0.8, 0.25  # what a definition counts in a file of one of these kinds, another, or unseen
AMBIGUOUS = 3  # a name that more files define counts only in files of the named kinds
SMALL_FUNCTION = 64  # tokens: a definition up to this size is shown whole
_MEMBER_SHARE = 0.3  # of the definitions' room, for one type's members
_MAX_DEFINITIONS = 200  # looked at
_MAX_MISSES = 20  # other files that don't fit
SIMILAR_PIECES = 60  # looked at
FOLLOWING_LINES = 40  # shown after a similar piece: they are to the place what the piece is to the lines above


class UsedContext:
    """Chooses context among the files of a snapshot. `index` is made when it is first used."""

    def __init__(self, texts: Mapping[str, TokenizedText], index: Callable[[], BM25Index]) -> None:
        self._texts = texts
        self._make_index = index

    @property
    def paths(self) -> Iterable[str]:
        """The files' paths."""
        return self._texts

    def text(self, path: str) -> TokenizedText | None:
        """Return a file's text."""
        return self._texts.get(path)

    def pieces(
        self,
        places: Sequence[Place],
        edges: Sequence[Edge],
        near: Iterable[str],
        without: Collection[str],
        room: int,
        sizes: TemplateSizes,
        shown: Set[str] | None = None,
    ) -> list[FilePiece]:
        """Return pieces of at most `room` tokens with their frames, the nearest to the last of the places first, none
        of a path in `without`. `edges`: the files that the places' see; `near`: paths to fill the rest with. `shown`:
        names, of which each piece must have one that isn't an everyday word here; without, any piece will do."""
        hidden = {*without, *(place.of.path for place in places)}
        for_definitions = int(DEFINITION_SHARE * room)
        in_test = bool(places) and is_test_path(places[-1].of.path)
        for_similar = min(int((SIMILAR_SHARE_IN_TESTS if in_test else SIMILAR_SHARE) * room), room - for_definitions)
        excerpts = Excerpts(for_definitions, sizes, None if shown is None else self._telling(shown))
        self._add_definitions(places, edges, hidden, excerpts)
        defining = excerpts.texts
        excerpts.room += for_similar
        on_top = bool(places) and places[-1].is_on_top
        if places and not on_top:
            self._add_similar(places[-1], hidden, excerpts)
        excerpts.room += room - for_definitions - for_similar
        similar = [of for of in excerpts.texts if of not in defining]
        misses = 0
        for path in near:
            if excerpts.room < _MIN_ROOM or misses == _MAX_MISSES:
                break
            of = self._texts.get(path)
            if of is not None and len(of) and of not in excerpts and path not in hidden:
                misses += not self._add_beginning(of, places, excerpts)
        filling = [of for of in excerpts.texts if of not in defining and of not in similar]
        order = (*filling, *defining) if on_top else (*similar, *defining, *filling)
        return [excerpts.piece(of) for of in order]

    @staticmethod
    def _add_beginning(of: TokenizedText, places: Sequence[Place], into: Excerpts) -> bool:
        """Add a file, or its beginning: behind its licence, as soon as one can be written above the place, and behind
        its imports, where they aren't what is to come; return whether something was added."""
        at, (licence, imports) = (places[-1].at if places else 1), of.top
        start = licence if at and licence < len(of) else 0
        if imports == len(of) or (places and places[-1].is_on_top):
            return into.add_beginning(of, start, len(of))
        return into.add(of, [(start, len(of))]) is not None or into.add_beginning(of, max(start, imports), len(of))

    def _add_similar(self, place: Place, hidden: Collection[str], into: Excerpts) -> None:
        """Add pieces of files in the same language like the lines above a place, each with what follows it; of tests
        only for a test."""
        query = words_above(place.of, place.at)
        without = hidden if is_test_path(place.of.path) else {*hidden, *self._tests}
        for piece in self._index.search(query, without, SIMILAR_PIECES, place.of.language):
            if into.room < _MIN_ROOM:
                break
            end = piece.of.row_token(int(piece.of.rows.searchsorted(piece.end)) + FOLLOWING_LINES)
            into.add_beginning(piece.of, piece.start, max(piece.end, end))

    @cached_property
    def _tests(self) -> Collection[str]:
        return [path for path in self._texts if is_test_path(path)]

    @cached_property
    def _index(self) -> BM25Index:
        return self._make_index()

    def _add_definitions(
        self, places: Sequence[Place], edges: Sequence[Edge], hidden: Collection[str], into: Excerpts
    ) -> None:
        mentions = dict[int, float]()
        for place in places:
            for name, weight in place.mentions().items():
                mentions[name] = max(weight, mentions.get(name, 0.0))
        own = {name for place in places for name in place.own()}
        room = into.room
        for path, name in self._definitions({name: mentions[name] for name in mentions if name not in own}, edges):
            if into.room < _MIN_ROOM // 2:
                break
            if path not in hidden:
                self._add(self._texts[path], name, mentions, int(_MEMBER_SHARE * room), into)

    def _definitions(self, mentions: Mapping[int, float], edges: Sequence[Edge]) -> list[tuple[str, int]]:
        """Return where mentioned names are defined, (path, name), rarest and nearest first."""
        seen = {edge.path: _NAMED if edge.kind in _NAMED_KINDS else _SEEN for edge in edges}
        named = [edge.path for edge in edges if edge.kind in _NAMED_KINDS]
        found: list[tuple[float, str, int]] = []
        for name, weight in mentions.items():
            paths: Sequence[str] = self._definers.get(name, [])
            if len(paths) > AMBIGUOUS:
                paths = [path for path in named if path in self._texts and _defines(self._texts[path], name)]
            rarity = math.log(1 + len(self._texts) / self._holders.get(name, 1)) if paths else 0.0
            found += [(-weight * rarity * seen.get(path, _UNSEEN), path, name) for path in paths]
        return [(path, name) for _, path, name in sorted(found)[:_MAX_DEFINITIONS]]

    def _add(self, of: TokenizedText, name: int, mentions: Mapping[int, float], limit: int, into: Excerpts) -> None:
        """Add a text's definitions of a name, in their owners, as far as they fit."""
        spans = defined_spans(of)
        for index, span in enumerate(spans):
            owner = spans[span.owner] if span.owner >= 0 else None
            if span.name != name or (owner is not None and owner.is_type and owner.name not in mentions):
                continue  # the last: a member of a type that isn't mentioned
            heads = [(owner.start, owner.body)] if owner is not None else []
            if span.end - span.start <= SMALL_FUNCTION and into.add(of, [*heads, (span.start, span.end)]) is not None:
                continue
            if into.add(of, [*heads, (span.start, span.body)]) is None or not span.is_type:
                continue
            left = limit
            members = [one for one in spans[index + 1 :] if one.owner == index]
            for member in sorted(members, key=lambda one: -mentions.get(one.name, 0.0)):
                left -= into.add(of, [(member.start, member.body)], left) or 0

    def _telling(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that aren't everyday words here; prose, of which sequences may hold little, adds
        none to the files that may have one."""
        code = sum(text.language not in PROSE_LANGUAGES for text in self._texts.values())
        most = max(EVERYDAY_FILES, EVERYDAY_SHARE * code)
        return {name for name in names if self._holders.get(name_hash(name), 0) <= most}

    @cached_property
    def _definers(self) -> Mapping[int, Sequence[str]]:
        """Name (hash) → the paths that define it."""
        found: defaultdict[int, list[str]] = defaultdict(list)
        for path, text in self._texts.items():
            for name in text.defines.tolist():
                found[name].append(path)
        return found

    @cached_property
    def _holders(self) -> Mapping[int, int]:
        """Name (hash) → the number of files with it."""
        each = [np.unique(text.names) for text in self._texts.values()]
        names, files = np.unique(np.concatenate([np.zeros(0, np.uint32), *each]), return_counts=True)
        return dict(zip(names.tolist(), files.tolist(), strict=True))


def _defines(of: TokenizedText, name: int) -> bool:
    at = int(of.defines.searchsorted(name))
    return at < len(of.defines) and int(of.defines[at]) == name
