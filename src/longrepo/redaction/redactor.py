"""Replaces keys, passwords, e-mail addresses and authors' names in texts and commit messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

from longrepo.redaction import secrets
from longrepo.redaction.addresses import find_addresses
from longrepo.redaction.people import People
from longrepo.redaction.spans import NAME, Span, TextScan, apply_spans, merge_spans, span_lines, spans_outside

# As git itself finds trailers (trailer.c); these two make a paragraph of trailers of one that is mostly something else.
_GIT_TRAILERS = ("Signed-off-by: ", "(cherry picked from commit ")
_TRAILER = re.compile(r"([A-Za-z0-9-]+)[ \t]*:[ \t]*")
_CONFLICTS = re.compile(r"^Conflicts:\n(?:\t[^\n]*\n?)+\s*\Z", re.MULTILINE)  # git's own, after the trailers
_PERSON_KEY = re.compile(
    r"(?:signed-off|co-authored|co-developed|reviewed|acked|tested|reported|suggested|helped|mentored|approved|authored"
    r"|committed|requested|submitted|diagnosed|noticed|improved|contributed|original(?:ly)?(?:-patch)?|based-on-patch"
    r"|thanks-to|reported-and-tested|reviewed-and-tested)-by|cc|author|reviewers?|thanks-to",
    re.IGNORECASE,
)
_NAME_OR_HANDLE = re.compile(r"@?([^\W_](?:(?!://)[^@<>#\n]){0,60})")
_PERSON = re.compile(r"[^<>\n]*?[^<>\s][ \t]*(?=<[^<>\s]+@[^<>\s]+>)")


@dataclass(frozen=True)
class RedactionFinding:
    """What was replaced, and the line (from 1) of the original text where it began."""

    kind: str
    line: int


@dataclass(frozen=True)
class RedactedText:
    """A redacted text. `candidates` are the hashes of the words in it, `names` those of the known spellings of names
    that consist of these words; both sorted."""

    text: str
    findings: tuple[RedactionFinding, ...]
    candidates: tuple[int, ...]
    names: tuple[int, ...]


class Redactor:
    """Replaces secrets in any text, and the names of `people`: (name, e-mail) of git's authors and committers.

    A result depends on the people only through its `names`: as long as `current_names(candidates)` equals them, a
    stored result is still valid.
    """

    def __init__(self, people: Iterable[tuple[str, str]]) -> None:
        self._people = People(people)

    def text(self, text: str, language: str = "Other", more: Sequence[Span] = ()) -> RedactedText:
        """Replace secrets and names in a file's text; its number of lines doesn't change. `more`: names found already,
        in order."""
        scan = TextScan(text)
        secrets = merge_spans(_secrets(scan, language))
        if "@" in text or "%40" in text:
            secrets = merge_spans(chain(secrets, spans_outside(find_addresses(text, language), secrets)))
        candidates, names, found = self._people.find(scan, language)
        if more:
            found = [*more, *spans_outside(found, list(more))]
        spans = sorted(chain(secrets, spans_outside(sorted(found), secrets))) if found else secrets
        if not spans:
            return RedactedText(text, (), candidates, names)
        findings = tuple(
            RedactionFinding(span.kind, line) for span, line in zip(spans, span_lines(text, spans), strict=True)
        )
        return RedactedText(apply_spans(text, spans), findings, candidates, names)

    def path(self, path: str) -> str:
        """Replace e-mail addresses and names in a path."""
        scan = TextScan(path)
        addresses = list(find_addresses(path))
        names = spans_outside(self._people.find(scan, "Text")[2], addresses)
        return apply_spans(path, sorted(chain(addresses, names)))

    def message(self, text: str) -> RedactedText:
        """Replace secrets and names in a commit message, and in its trailers whoever they name."""
        people = list(_trailer_people(text))
        redacted = self.text(text, "Text", people)
        return replace(redacted, text=re.sub(r"\n{3,}", "\n\n", redacted.text).strip())

    def current_names(self, candidates: Sequence[int]) -> tuple[int, ...]:
        """Return what `names` would be now for a stored result's candidates."""
        return tuple(sorted(hash for hash, _ in self._people.permitted(frozenset(candidates))))


def trailer_start(message: str) -> int:
    """Return where the trailers of a commit message begin, as `git interpret-trailers --parse` finds them: in its last
    paragraph, if all lines are trailers, or one is git's own and at least a quarter are. Its length if there are none.
    """
    lines = _CONFLICTS.sub("", message).split("\n")
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
    title = next((at for at, line in enumerate(lines) if not line.strip()), len(lines))
    trailers = others = continued = 0
    own = seen = False
    for at in range(len(lines) - 1, title - 1, -1):
        line = lines[at]
        if not line.strip():
            if not seen:
                continue
            others += continued
            found = (own and trailers * 3 >= others) or (trailers and not others)
            return starts[at + 1] if found else len(message)
        seen = True
        if line.startswith(_GIT_TRAILERS):
            trailers, continued, own = trailers + 1, 0, True
        elif _TRAILER.match(line):
            trailers, continued = trailers + 1, 0
        elif line[0].isspace():
            continued += 1
        else:
            others, continued = others + 1 + continued, 0
    return len(message)


def _trailer_people(message: str) -> Iterator[Span]:
    """Yield the names in a message's trailers, whether git has them as authors or not."""
    at = trailer_start(message)
    for line in message[at:].split("\n"):
        if match := _TRAILER.match(line):
            start = at + match.end()
            value = line[match.end() :].rstrip()
            if person := _PERSON.match(value):
                yield Span(start, start + len(person[0].rstrip()), "name", NAME)
            elif _PERSON_KEY.fullmatch(match[1]) and (handle := _NAME_OR_HANDLE.fullmatch(value)):
                yield Span(start + handle.start(1), start + len(value), "name", NAME)
        at += len(line) + 1


def _secrets(scan: TextScan, language: str) -> Iterable[Span]:
    return chain(
        secrets.find_private_keys(scan),
        secrets.find_tokens(scan),
        secrets.find_credentials(scan),
        secrets.find_assignments(scan, language),
    )
