"""Replaces keys, passwords, e-mail addresses and authors' names in texts and commit messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from longrepo.redaction import secrets
from longrepo.redaction.addresses import find_addresses
from longrepo.redaction.people import People
from longrepo.redaction.spans import Span, TextScan, apply_spans, merge_spans, span_lines, spans_outside

_TRAILER = re.compile(r"^[ \t]*(?:[a-z]+(?:-[a-z]+)*-by|cc|change-id)[ \t]*:.*$", re.IGNORECASE | re.MULTILINE)
_CHANGE_ID = re.compile(r"\s*change-id", re.IGNORECASE)


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

    def text(self, text: str, language: str = "Other") -> RedactedText:
        """Replace secrets and names in a file's text; its number of lines doesn't change."""
        scan = TextScan(text)
        secrets = merge_spans(_secrets(scan, language))
        if "@" in text or "%40" in text:
            secrets = merge_spans(chain(secrets, spans_outside(find_addresses(text, language), secrets)))
        candidates, names, found = self._people.find(scan, language)
        spans = sorted(chain(secrets, spans_outside(found, secrets))) if found else secrets
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
        """Replace secrets and names in a commit message, and remove trailers that only name people or a review."""
        trailers = list(_TRAILER.finditer(text))
        prose = self.text(_TRAILER.sub("", text), "Text")
        named = (
            RedactionFinding("name", text.count("\n", 0, m.start()) + 1) for m in trailers if not _CHANGE_ID.match(m[0])
        )
        findings = tuple(sorted((*prose.findings, *named), key=lambda finding: finding.line))
        kept = re.sub(r"\n{3,}", "\n\n", prose.text).strip()
        return RedactedText(kept, findings, prose.candidates, prose.names)

    def current_names(self, candidates: Sequence[int]) -> tuple[int, ...]:
        """Return what `names` would be now for a stored result's candidates."""
        return tuple(sorted(hash for hash, _ in self._people.permitted(frozenset(candidates))))


def _secrets(scan: TextScan, language: str) -> Iterable[Span]:
    return chain(
        secrets.find_private_keys(scan),
        secrets.find_tokens(scan),
        secrets.find_credentials(scan),
        secrets.find_assignments(scan, language),
    )
