"""Chooses the text that a model has to fill in between a prefix and a suffix: never without either.

Half of the spans are scopes of the syntax (`longrepo.repository.scopes`): an identifier, an expression, a statement, a
block, each as often as the others. The other half begin at any character, as people stop in the middle of a word: half
of these reach to the end of a line, this one or one further down, and half to any other character. Their length is
log-uniform, from a token to MAX_SPAN_TOKENS. (Bavarian et al. 2022 have characters at random; Gong et al. 2025, arXiv
2506.00204, have syntax nodes in most of the files.) In prose, and without a grammar, words, what stands in parentheses,
lines and paragraphs are the scopes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from longrepo.data.text import TokenizedText, text_top
from longrepo.data.tokenizer import PLACEHOLDERS
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.repository.scopes import SCOPES, scope_spans
from longrepo.utils.hashing import seeded_int, seeded_uniform

RANDOM_SPANS = ("line end", "characters")  # from any character to the end of a line, or to any other character
SCOPE_SHARE = 0.5
MAX_SPAN_TOKENS = 256
_MAX_SPAN_SHARE = 2  # a span is at most one half of its piece
_TRIES = 8  # random places tried
_TEXT_SCOPES = {  # of a text without a grammar: the pattern, and the group that is the span
    "identifier": (re.compile(r"[^\W\d]\w+"), 0),
    "expression": (re.compile(r"\(([^()\n]{3,})\)"), 1),
    "statement": (re.compile(r"\S[^\n\r]*"), 0),
    "block": (re.compile(r"\S[^\n]*(?:\n[^\n]*\S[^\n]*)+"), 0),
}
_ENCODED = re.compile(r"[A-Za-z0-9+/=]{80,}")
_DATA_CHARACTERS = 40  # a shorter text may be all digits
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"  # they hold the characters around them together

Span = tuple[int, int]  # characters of a text, the last excluded


class FimSpan(NamedTuple):
    """Characters `start`..`end` of a text that are to be filled in; `kind`: one of SCOPES or RANDOM_SPANS."""

    start: int
    end: int
    kind: str


def choose_fim_span(of: TokenizedText, start: int, end: int, key: str) -> FimSpan | None:
    """Choose a span inside tokens `start`..`end` of a text, with text that isn't blank before and after it; it takes at
    most half of them. None if they are too short. The same key gives the same span."""
    text, low = of.text, int(of.starts[start]) if start < len(of) else len(of.text)
    piece = of.slice_text(start, end)
    low, high = low + len(piece) - len(piece.lstrip()) + 1, low + len(piece.rstrip()) - 1
    low = max(low, text_top(text, of.language)[0])  # nobody asks for a licence
    most = min(MAX_SPAN_TOKENS, (end - start) // _MAX_SPAN_SHARE)
    if high - low < 2 or not most:
        return None
    if seeded_uniform(key, "scope") < SCOPE_SHARE:
        first = seeded_int(key, "kind") % len(SCOPES)
        scopes = fim_scopes(text, of.language)
        for kind in (*SCOPES[first:], *SCOPES[:first]):
            inside = [
                span
                for span in scopes.get(kind, ())
                if low <= span[0]
                and span[1] <= high
                and _tokens(of, *span) <= most
                and not _is_data(text[slice(*span)])
            ]
            if inside:
                return FimSpan(*inside[seeded_int(key, "span") % len(inside)], kind)
    kind = RANDOM_SPANS[seeded_int(key, "random") % len(RANDOM_SPANS)]
    for turn in range(_TRIES):
        span = _random_span(of, low, high, most, kind, f"{key}/{turn}")
        if text[slice(*span)].strip() and not _is_data(text[slice(*span)]):
            return FimSpan(*span, kind)
    return None


def _is_data(text: str) -> bool:
    """Whether a text is values that nobody types: a third of it digits, as in a drawing's path, or encoded bytes."""
    characters = "".join(text.split())
    digits = sum(one.isdigit() for one in characters)
    return len(characters) >= _DATA_CHARACTERS and (3 * digits > len(characters) or bool(_ENCODED.search(text)))


def _tokens(of: TokenizedText, start: int, end: int) -> int:
    """Return how many tokens begin in a span of characters."""
    first, last = of.starts.searchsorted([start, end])
    return int(last - first)


def _random_span(of: TokenizedText, low: int, high: int, most: int, kind: str, key: str) -> Span:
    """Return a span between the characters low..high that begins anywhere and takes at most `most` tokens."""
    text = of.text
    start = whole_character(text, low + seeded_int(key, "at") % (high - low))
    size = max(1, round(most ** seeded_uniform(key, "size")))
    first = int(of.starts.searchsorted(start))
    limit = int(of.starts[first + size]) if first + size < len(of) else len(text)
    limit = min(high, limit)
    if kind == "line end":
        line = text.rfind("\n", start + 1, limit + 1)
        here = text.find("\n", start + 1, high + 1)
        end = line if line > start else here if here > 0 and _tokens(of, start, here) <= most else limit
        end -= text[end - 1 : end + 1] == "\r\n"
    else:
        end = limit - seeded_int(key, "end") % max(1, min(limit - start, 8))
    return max(start, low), max(start, whole_character(text, min(end, high)))


def whole_character(text: str, at: int) -> int:
    """Return `at`, or the nearest place before it where a cursor can stand: not inside a line break of two characters,
    a character with its combining ones, or the placeholder of redacted text."""
    while 0 < at < len(text) and (
        text[at - 1 : at + 1] == "\r\n"
        or text[at] in _JOINERS
        or text[at - 1] == "\u200d"
        or unicodedata.category(text[at])[0] == "M"
    ):
        at -= 1
    for name in PLACEHOLDERS:
        if (found := text.rfind(name, max(0, at - len(name) + 1), at + len(name) - 1)) >= 0 and found < at:
            return found
    return at


@lru_cache(maxsize=64)  # the pieces of a file are cut one after another
def fim_scopes(text: str, language: str) -> Mapping[str, Sequence[Span]]:
    """Return the spans of each of SCOPES in a text, in order."""
    found: defaultdict[str, list[Span]] = defaultdict(list)
    if language not in PROSE_LANGUAGES:
        for scope, start, end in scope_spans(text, language):
            found[scope].append((start, end))
    if not found:
        for scope, (pattern, group) in _TEXT_SCOPES.items():
            found[scope] += [match.span(group) for match in pattern.finditer(text)]
    return found
