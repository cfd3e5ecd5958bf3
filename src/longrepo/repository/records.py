"""What a commit came to, as bytes to keep: a second run asks git's diff only for commits it has not seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from longrepo.repository.model import CommitRecord, FileChange

RECORD_VERSION = 1  # to be raised with any change to what is noise, or to this format


class RecordStore(Protocol):
    """Keeps entries by full commit id. An entry depends on nothing but the commit and `RECORD_VERSION`."""

    def get(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """The entries there are for these commits; the others are left out."""

    def put(self, items: Mapping[str, bytes]) -> None:
        """Keep these entries."""


@dataclass(frozen=True)
class Outcome:
    """A commit's record, or None and the reason; `counts` holds its single changes left out, by reason."""

    record: CommitRecord | None
    reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def to_bytes(outcome: Outcome) -> bytes:
    """An outcome as compact JSON, without the commit's id."""
    record = outcome.record
    if record is None:
        return _dump([RECORD_VERSION, outcome.reason, outcome.counts])
    changes = [[one.path, one.before, one.after, one.old_path] for one in record.changes]
    facts = [record.parent, record.message, record.author_name, record.author_email, changes, record.files]
    return _dump([RECORD_VERSION, "", outcome.counts, *facts])


def from_bytes(commit: str, entry: bytes) -> Outcome | None:
    """The outcome of a commit, or None where another version wrote the entry."""
    version, reason, counts, *facts = json.loads(entry)
    if version != RECORD_VERSION:
        return None
    if reason:
        return Outcome(None, reason, counts)
    parent, message, name, email, changes, files = facts
    kept = tuple(FileChange(*change) for change in changes)
    return Outcome(CommitRecord(commit, parent, message, name, email, kept, files), "", counts)


def _dump(values: list[object]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
