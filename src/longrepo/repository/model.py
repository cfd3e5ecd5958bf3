"""What a repository is, to everything above: plain values, no git in sight."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class TextFile:
    """A tracked text file at a revision. `path` is as git stores it, each undecodable byte as U+FFFD and its hex."""

    path: str
    text: str
    blob: str  # git object id, 40 or 64 hex digits
    language: str  # "Python", "Rust", …, or "Other"


@dataclass(frozen=True)
class Snapshot:
    """The text files of one revision in path order, and what was left out, counted by reason."""

    commit: str
    files: tuple[TextFile, ...]
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> files
    left_out_bytes: Counter[str] = field(default_factory=Counter)  # reason -> bytes


class Change(NamedTuple):
    """One file in one commit: its text before and after (None where it did not exist) under the path after."""

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
    changes: tuple[Change, ...]


class FileChange(NamedTuple):
    """One file in one commit as object ids (None where it did not exist) under the path after."""

    path: str
    before: str | None
    after: str | None
    old_path: str | None = None  # set for a rename


@dataclass(frozen=True)
class CommitRecord:
    """A commit without its texts: no merge and no noise. `changes` are regular files in path order, without vendored,
    lock and generated files; `files` is how many files the commit changed, those included."""

    id: str
    parent: str | None
    message: str
    author_name: str
    author_email: str
    changes: tuple[FileChange, ...]
    files: int
