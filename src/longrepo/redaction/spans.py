"""Spans of a text that a placeholder replaces, and the scan of a text that all rules share.

The scan says where a rule is worth trying: expensive patterns run only near a few letters that they require. These are
looked up in the text's distinct words first, which have about a fifth of its characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import xxhash

_WORD_CHARACTERS = bytes(c if chr(c).isascii() and (chr(c).isalnum() or chr(c) in "_-") else 32 for c in range(256))
_ESCAPED_WORD = re.compile(rb"\\[nrt]([a-z]{2,})")
_LETTERS = bytes(c if chr(c).isascii() and chr(c).isalpha() else 32 for c in range(256))
_PART_OF_A_WORD = re.compile(r"[a-z0-9_-]+")
_DIGITS = b"0123456789"
_LONG_WORD = 20  # characters; every provider's key has a run without punctuation at least this long
_LINE_REACH = 320  # characters searched on either side of a stem, within its line


class TextScan:
    """A text, its lower-case form of the same length, and a quick lookup of words that occur in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        lowered = text.lower()
        if len(lowered) != len(text):  # "İ" becomes two characters
            lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        self.lowered = lowered
        self._raw = lowered.encode("ascii", "replace")
        self._words = self._raw.translate(_WORD_CHARACTERS).split()
        self._vocabulary = b" ".join(set(self._words)).decode("ascii")

    @cached_property
    def latin_hashes(self) -> frozenset[int]:
        """The 32-bit hashes (xxHash) of all runs of two ASCII letters or more, in lower case."""
        words = set(self._vocabulary.encode("ascii").translate(_LETTERS).split())
        if b"\\" in self._raw:
            words.update(_ESCAPED_WORD.findall(self._raw))
        return frozenset(xxhash.xxh32_intdigest(word) for word in words if len(word) > 1)

    def has(self, stem: str) -> bool:
        """Return whether a stem (lower-case letters, digits, `_` and `-`) occurs in the text, in any case."""
        return stem in self._vocabulary

    def around(self, stems: Iterable[str]) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the lines around each lower-case stem, in order, not overlapping."""
        text, lowered = self.text, self.lowered
        hits: list[int] = []
        for stem in stems:
            if (part := _PART_OF_A_WORD.search(stem)) and part[0] not in self._vocabulary:
                continue
            at = lowered.find(stem)
            while at >= 0:
                hits.append(at)
                at = lowered.find(stem, at + len(stem))
        hits.sort()
        start = end = -1
        for hit in hits:
            if hit < end and end - hit < _LINE_REACH and text[end : end + 1] == "\n":
                continue
            first = max(text.rfind("\n", max(0, hit - _LINE_REACH), hit) + 1, hit - _LINE_REACH, 0)
            line_end = text.find("\n", hit, hit + _LINE_REACH)
            last = line_end if line_end >= 0 else min(len(text), hit + _LINE_REACH)
            if first > end + 1:
                if end >= 0:
                    yield start, end
                start = first
            end = max(end, last)
        if end >= 0:
            yield start, end

    def long_words(self, prefixes: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each word of 20 characters or more that has a digit or begins with one of `prefixes`
        (lower case); `_` and `-` count as letters."""
        raw, at = self._raw, 0
        for word in [word for word in self._words if len(word) >= _LONG_WORD]:
            if word.translate(None, _DIGITS) != word or word.startswith(prefixes):
                at = raw.find(word, at)
                yield at, at + len(word)
                at += len(word)


KEY, PASSWORD, EMAIL, NAME = "<KEY>", "<PASSWORD>", "<EMAIL>", "<NAME>"


class Span(NamedTuple):
    """Characters `start` to `end` of a text and their placeholder, which has the same number of line breaks."""

    start: int
    end: int
    kind: str
    placeholder: str


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, overlapping ones merged into one with the kind of the first in `spans`."""
    found: list[tuple[Span, int]] = []
    for span, rank in sorted(((span, rank) for rank, span in enumerate(spans)), key=lambda pair: pair[0][:2]):
        if found and span.start < found[-1][0].end:
            other, other_rank = found[-1]
            first = span if rank < other_rank else other
            span, rank = first._replace(start=other.start, end=max(other.end, span.end)), min(rank, other_rank)
            found.pop()
        found.append((span, rank))
    return [span for span, _ in found]


def spans_outside(spans: Iterable[Span], taken: list[Span]) -> Iterator[Span]:
    """Yield the spans that overlap none of `taken`. Both are in order."""
    at = 0
    for span in spans:
        while at < len(taken) and taken[at].end <= span.start:
            at += 1
        if at == len(taken) or span.end <= taken[at].start:
            yield span


def apply_spans(text: str, spans: Iterable[Span]) -> str:
    """Return the text with its spans (in order, not overlapping) replaced."""
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], span.placeholder]
        at = span.end
    return "".join([*parts, text[at:]])


def span_lines(text: str, spans: Iterable[Span]) -> Iterator[int]:
    """Yield the line (from 1) in which each span begins. Spans are in order."""
    line, at = 1, 0
    for span in spans:
        line += text.count("\n", at, span.start)
        at = span.start
        yield line
