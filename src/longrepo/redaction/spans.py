"""Stretches of a text that a placeholder replaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

KEY, PASSWORD, EMAIL, NAME = "<KEY>", "<PASSWORD>", "<EMAIL>", "<NAME>"


class Span(NamedTuple):
    """Characters `start` to `end` of a text, and what stands there instead: as many line breaks as before."""

    start: int
    end: int
    kind: str
    placeholder: str


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order and apart: where some overlap, one span over all of them, named by the first given."""
    found: list[tuple[Span, int]] = []
    for span, rank in sorted(((span, rank) for rank, span in enumerate(spans)), key=lambda pair: pair[0][:2]):
        if found and span.start < found[-1][0].end:
            other, other_rank = found[-1]
            first = span if rank < other_rank else other
            span, rank = first._replace(start=other.start, end=max(other.end, span.end)), min(rank, other_rank)
            found.pop()
        found.append((span, rank))
    return [span for span, _ in found]


def outside(spans: Iterable[Span], taken: list[Span]) -> Iterator[Span]:
    """The spans that overlap none of `taken`. Both are in order."""
    at = 0
    for span in spans:
        while at < len(taken) and taken[at].end <= span.start:
            at += 1
        if at == len(taken) or span.end <= taken[at].start:
            yield span


def applied(text: str, spans: Iterable[Span]) -> str:
    """The text with its spans, in order and apart, replaced."""
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], span.placeholder]
        at = span.end
    return "".join([*parts, text[at:]])


def lines_of(text: str, spans: Iterable[Span]) -> Iterator[int]:
    """The line, from 1, that each span begins in. They come in order."""
    line, at = 1, 0
    for span in spans:
        line += text.count("\n", at, span.start)
        at = span.start
        yield line
