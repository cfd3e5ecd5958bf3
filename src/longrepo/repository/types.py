"""The plain values that describe a repository, and how paths become text. Nothing here knows git."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class TextFile:
    """A tracked text file at a revision. `path` is git's, with each undecodable byte as U+FFFD and its hex digits."""

    path: str
    text: str
    blob: str  # git object id, 40 or 64 hex digits
    language: str  # "Python", "Rust", …, or "Other"


@dataclass(frozen=True)
class Snapshot:
    """The text files of one revision in path order, and counts by reason of what was left out."""

    commit: str
    files: tuple[TextFile, ...]
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> files
    left_out_bytes: Counter[str] = field(default_factory=Counter)  # reason -> bytes


class BlobText(NamedTuple):
    """A blob's text, or the reason why it is left out. A text that is only judged to be noise ("empty", "generated")
    comes with its reason: what the path says may weigh more. `language` is set if the content names it."""

    blob: str
    text: str | None
    reason: str = ""
    language: str = ""


class TextChange(NamedTuple):
    """One file in one commit: its text before and after (None if it didn't exist), under its path after the commit."""

    path: str
    before: str | None
    after: str | None
    old_path: str | None = None  # set for a rename


@dataclass(frozen=True)
class Commit:
    """A non-merge commit with the text changes it made, in path order."""

    id: str
    parent: str | None
    message: str
    author_name: str
    changes: tuple[TextChange, ...]


class FileChange(NamedTuple):
    """One file in one commit, as object ids (None if it didn't exist), under its path after the commit."""

    path: str
    before: str | None
    after: str | None
    old_path: str | None = None  # set for a rename


@dataclass(frozen=True)
class CommitRecord:
    """A commit without its texts, never a merge or noise. `changes` are its regular files in path order, without those
    that the rules leave out; `files` counts all files that the commit changed, those included."""

    id: str
    parent: str | None
    message: str
    author_name: str
    author_email: str
    changes: tuple[FileChange, ...]
    files: int


def decode_path(raw: bytes) -> str:
    """Return a path as text. Each undecodable byte becomes U+FFFD and its two hex digits, so that two paths that
    differ only in such a byte stay different."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        escaped = raw.decode("utf-8", "surrogateescape")
        return "".join(f"\ufffd{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in escaped)
