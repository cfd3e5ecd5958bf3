"""A repository's commits, newest first, without the noise: as object ids, or with the texts of their changes.

One `git rev-list`, one `git diff-tree --stdin` and one `git cat-file --batch` serve any number of commits, each
working ahead of this process so that two cores are used; memory doesn't grow with the history. Results can be stored
by commit id: a second run then compares only commits that are new to it.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

from longrepo.repository.filters import BULK_FILES, commit_noise, only_formatting
from longrepo.repository.git import (
    MAX_PENDING_IDS,
    MISSING,
    ObjectReader,
    RawChange,
    RawCommit,
    decode_message,
    read_changes,
)
from longrepo.repository.rules import PathRules
from longrepo.repository.snapshot import TextPipe
from longrepo.repository.types import Commit, CommitRecord, FileChange, TextChange, decode_path


def read_people(reader: ObjectReader, tip: str) -> tuple[tuple[str, str], ...]:
    """Return the sorted distinct (name, e-mail address) of authors and committers of every commit `tip` reaches."""
    people = set[tuple[bytes, bytes, bytes]]()
    for entry in reader.fields("log", "-z", "--encoding=UTF-8", "--format=%e%n%an%n%ae%n%cn%n%ce", tip, "--"):
        encoding, *words = entry.split(b"\n")
        people |= {(encoding, words[0], words[1]), (encoding, words[2], words[3])}
    return tuple(
        sorted({(decode_message(name, encoding), decode_message(email, encoding)) for encoding, name, email in people})
    )


# A file's text after one commit is its text before the next: with this limit, 1 to 6 in 100 are read twice.
_MAX_CACHED_CHARACTERS = 32_000_000
_BLOBS_AT_ONCE = MAX_PENDING_IDS // 2 - 2 * BULK_FILES  # before a group's last commit; two groups are pending


class _PendingText:
    """A text, or the reason why it is left out; filled in when git answers."""

    __slots__ = ("reason", "text")

    def __init__(self) -> None:
        self.text: str | None = None
        self.reason = ""


_PendingGroup = tuple[
    list[CommitRecord], dict[str, _PendingText], int
]  # records, their texts, number of texts requested


class TextHistory:
    """Joins records with their texts. `left_out` counts commits (formatting, no text change) and single changes under
    "change: " and their reason."""

    def __init__(self, reader: ObjectReader, max_file_bytes: int, left_out: Counter[str], rules: PathRules) -> None:
        self._reader = reader
        self._rules = rules
        self._max_file_bytes = max_file_bytes
        self._left_out = left_out
        self._cache: OrderedDict[str, _PendingText] = OrderedDict()
        self._characters = 0

    def commits(self, records: Iterable[CommitRecord]) -> Iterator[Commit]:
        """Yield the records as commits, in order, while git reads the texts of the next ones."""
        with TextPipe(self._reader, self._max_file_bytes) as pipe:
            waiting: deque[_PendingGroup] = deque()
            for group in self._groups(records, pipe):
                waiting.append(group)
                if len(waiting) > 2:  # meanwhile git sizes one and reads another
                    yield from self._finish(waiting.popleft(), pipe)
            while waiting:
                yield from self._finish(waiting.popleft(), pipe)

    def _groups(self, records: Iterable[CommitRecord], pipe: TextPipe) -> Iterator[_PendingGroup]:
        group: list[CommitRecord] = []
        texts: dict[str, _PendingText] = {}
        new: list[str] = []
        forms: dict[str, str] = {}
        for record in records:
            group.append(record)
            for change in record.changes:
                if form := self._rules.form_of(change.path):
                    forms |= dict.fromkeys(_blobs([change]), form)
            for blob in _blobs(record.changes):
                if blob not in texts:
                    if blob not in self._cache:
                        self._cache[blob] = _PendingText()
                        new.append(blob)
                    self._cache.move_to_end(blob)
                    texts[blob] = self._cache[blob]
            if len(new) >= _BLOBS_AT_ONCE or len(group) >= _BLOBS_AT_ONCE:
                pipe.ask(new, forms)
                yield group, texts, len(new)
                group, texts, new, forms = [], {}, [], {}
        if group:
            pipe.ask(new, forms)
            yield group, texts, len(new)

    def _finish(self, group: _PendingGroup, pipe: TextPipe) -> Iterator[Commit]:
        records, texts, asked = group
        for _ in range(asked):
            blob, text, reason, _ = pipe.take()
            pending = texts[blob]
            pending.text = text
            pending.reason = "" if reason == "empty" else reason  # an emptied file is a change like any other
            if self._cache.get(blob) is pending:
                self._characters += len(text or "")
        self._shrink_cache()
        for record in records:
            changes = [*filter(None, (self._change(one, texts) for one in record.changes))]
            if not changes:
                self._left_out["no text change"] += 1
            elif only_formatting(changes):
                self._left_out["formatting"] += 1
            else:
                yield Commit(record.id, record.parent, record.message, record.author_name, tuple(changes))

    def _shrink_cache(self) -> None:
        """Drop the least recently used texts; pending groups hold their own."""
        while self._characters > _MAX_CACHED_CHARACTERS:
            _, oldest = self._cache.popitem(last=False)
            self._characters -= len(oldest.text or "")

    def _change(self, change: FileChange, texts: dict[str, _PendingText]) -> TextChange | None:
        before, after = (texts[blob] if blob else _PendingText() for blob in (change.before, change.after))
        reason = before.reason or after.reason
        if reason and not (reason == "generated" and self._rules.of(change.path).own):
            self._left_out[f"change: {reason}"] += 1
            return None
        return TextChange(change.path, before.text, after.text, change.old_path)


def _blobs(changes: Iterable[FileChange]) -> Iterator[str]:
    return (blob for change in changes for blob in (change.before, change.after) if blob)


RECORD_VERSION = 2  # raise it with any change to what counts as noise or to this format


class RecordStore(Protocol):
    """Stores entries by full commit id. An entry depends on nothing but the commit and `RECORD_VERSION`: which paths
    are left out is decided when it is read."""

    def get(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the entries of those of these commits that have one."""

    def put(self, items: Mapping[str, bytes]) -> None:
        """Store these entries."""


@dataclass(frozen=True)
class CommitOutcome:
    """A commit's record, or None and the reason; `counts` has the number of its changes left out, by reason."""

    record: CommitRecord | None
    reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def outcome_to_bytes(outcome: CommitOutcome) -> bytes:
    """Return an outcome as compact JSON, without the commit's id."""
    record = outcome.record
    if record is None:
        return _dump([RECORD_VERSION, outcome.reason, outcome.counts])
    changes = [[one.path, one.before, one.after, one.old_path] for one in record.changes]
    facts = [record.parent, record.message, record.author_name, record.author_email, changes, record.files]
    return _dump([RECORD_VERSION, "", outcome.counts, *facts])


def outcome_from_bytes(commit: str, entry: bytes) -> CommitOutcome | None:
    """Return the outcome of a commit, or None if another version wrote the entry."""
    version, reason, counts, *facts = json.loads(entry)
    if version != RECORD_VERSION:
        return None
    if reason:
        return CommitOutcome(None, reason, counts)
    parent, message, name, email, changes, files = facts
    kept = tuple(FileChange(*change) for change in changes)
    return CommitOutcome(CommitRecord(commit, parent, message, name, email, kept, files), "", counts)


def _dump(values: list[object]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


_COMMITS_AT_ONCE = (
    2048  # for each process: fewer pay for more starts and cold caches, more make the store's answer large
)
_RULES_AT_ONCE = 256  # commits whose paths' attributes are looked up by one process
_REGULAR_MODES = ("100644", "100755", "100664", "000000")  # zeros: there is no file


class History:
    """Walks commits. `left_out` counts whole commits by reason (merge, bot, revert, bulk, no text change, shallow
    edge, missing) and single file changes under "change: " and the reason."""

    def __init__(self, reader: ObjectReader, shallow: frozenset[str], left_out: Counter[str], rules: PathRules) -> None:
        self._reader = reader
        self._rules = rules
        self._shallow = shallow
        self._left_out = left_out

    def log(self, tip: str, exclude: str | None, known: RecordStore | None = None) -> Iterator[CommitRecord]:
        """Yield the non-merge commits that `tip` reaches and `exclude` doesn't (full ids), newest first, children
        before parents."""
        for group in self._candidates(tip, exclude):
            outcomes = self._outcomes(group, known)
            while some := list(islice(outcomes, _RULES_AT_ONCE)):
                self._rules.load(one.path for outcome in some if outcome.record for one in outcome.record.changes)
                for outcome in some:
                    if outcome.counts:
                        self._left_out.update(outcome.counts)
                    record = self._without_noise(outcome.record) if outcome.record else None
                    if record:
                        yield record
                    else:
                        self._left_out[outcome.reason or "no text change"] += 1

    def _without_noise(self, record: CommitRecord) -> CommitRecord | None:
        """Return a commit with the changes that the rules leave in, None if there are none."""
        kept: list[FileChange] = []
        for change in record.changes:
            if reason := self._rules.of(change.path).reason:
                self._left_out[f"change: {reason}"] += 1
            else:
                kept.append(change)
        return replace(record, changes=tuple(kept)) if kept else None

    def _candidates(self, tip: str, exclude: str | None) -> Iterator[list[str]]:
        limit = [tip, *([f"^{exclude}"] if exclude else []), "--"]
        group: list[str] = []
        for line in self._reader.fields("rev-list", "--topo-order", "--parents", *limit, end=b"\n"):
            commit, *parents = line.decode("ascii").split()
            if len(parents) > 1:
                self._left_out["merge"] += 1
            elif commit in self._shallow:  # without its parent all its files would seem new
                self._left_out["shallow edge"] += 1
            else:
                group.append(commit)
            if len(group) == _COMMITS_AT_ONCE:
                yield group
                group = []
        if group:
            yield group

    def _outcomes(self, group: list[str], known: RecordStore | None) -> Iterator[CommitOutcome]:
        entries = known.get(group) if known is not None else {}
        old = {commit: outcome_from_bytes(commit, entry) for commit, entry in entries.items()}
        compared = read_changes(self._reader, [one for one in group if not old.get(one)], BULK_FILES)
        new: dict[str, bytes] = {}
        for commit in group:
            outcome = old.get(commit)
            if outcome is None:
                _, raw, whole = next(compared)
                outcome = classify_commit(raw) if raw else CommitOutcome(None, MISSING)
                if known is not None and whole:  # what is missing now may be there next time
                    new[commit] = outcome_to_bytes(outcome)
            yield outcome
        if known is not None and new:
            known.put(new)


def classify_commit(commit: RawCommit) -> CommitOutcome:
    """Decide by its header and its changes' paths whether a commit is used, and with which changes."""
    if reason := commit_noise(commit.author_name, commit.author_email, commit.message):
        return CommitOutcome(None, reason)
    if commit.files > BULK_FILES:
        return CommitOutcome(None, "bulk")
    counts: dict[str, int] = {}
    changes: list[FileChange] = []
    for raw in commit.changes:
        path = decode_path(raw.path)
        if reason := _exclusion_reason(raw):
            counts[f"change: {reason}"] = counts.get(f"change: {reason}", 0) + 1
        elif raw.old_id != raw.new_id or raw.old_path is not None:
            old_path = decode_path(raw.old_path) if raw.old_path is not None else None
            changes.append(FileChange(path, _blob_or_none(raw.old_id), _blob_or_none(raw.new_id), old_path))
    if not changes:
        return CommitOutcome(None, "no text change", counts)
    changes.sort(key=lambda change: change.path)
    head = (commit.id, commit.parent, commit.message, commit.author_name, commit.author_email)
    return CommitOutcome(CommitRecord(*head, tuple(changes), commit.files), "", counts)


def _exclusion_reason(raw: RawChange) -> str | None:
    if "160000" in (raw.old_mode, raw.new_mode):
        return "submodule"
    regular = raw.old_mode in _REGULAR_MODES and raw.new_mode in _REGULAR_MODES
    return None if regular else "symlink"


def _blob_or_none(one: str) -> str | None:
    return one if one.strip("0") else None  # zeros: there is no file
