"""A repository's commits, newest first, without the noise: as object ids, or with their texts.

One `git rev-list`, `git diff-tree --stdin` and `git cat-file --batch` whatever the number of commits, each working
ahead of this process, so that two cores are used; memory doesn't grow with the history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from longrepo.repository.decode import decode_path
from longrepo.repository.git import ObjectReader
from longrepo.repository.git_batch import MISSING
from longrepo.repository.git_changes import RawChange, RawCommit, read_changes
from longrepo.repository.model import CommitRecord, FileChange
from longrepo.repository.noise import BULK_FILES, commit_noise, path_noise
from longrepo.repository.records import Outcome, RecordStore, from_bytes, to_bytes

_COMMITS_AT_ONCE = 2048  # a process each: fewer cost their start and git's caches, more make the store's answer large
_REGULAR = ("100644", "100755", "100664", "000000")  # zeros: there is no file


class History:
    """Walks commits. `left_out` counts whole commits by reason (merge, bot, revert, bulk, no text change, shallow
    edge, missing) and single file changes under "change: " and their reason."""

    def __init__(self, reader: ObjectReader, shallow: frozenset[str], left_out: Counter[str]) -> None:
        self._reader = reader
        self._shallow = shallow
        self._left_out = left_out

    def log(self, tip: str, exclude: str | None, known: RecordStore | None = None) -> Iterator[CommitRecord]:
        """Non-merge commits that `tip` reaches and `exclude` doesn't (full ids), newest first, children first."""
        for group in self._candidates(tip, exclude):
            for outcome in self._outcomes(group, known):
                if outcome.counts:
                    self._left_out.update(outcome.counts)
                if outcome.record:
                    yield outcome.record
                else:
                    self._left_out[outcome.reason] += 1

    def _candidates(self, tip: str, exclude: str | None) -> Iterator[list[str]]:
        limit = [tip, *([f"^{exclude}"] if exclude else []), "--"]
        group: list[str] = []
        for line in self._reader.fields("rev-list", "--topo-order", "--parents", *limit, end=b"\n"):
            commit, *parents = line.decode("ascii").split()
            if len(parents) > 1:
                self._left_out["merge"] += 1
            elif commit in self._shallow:  # its parent isn't here: all its files would seem new
                self._left_out["shallow edge"] += 1
            else:
                group.append(commit)
            if len(group) == _COMMITS_AT_ONCE:
                yield group
                group = []
        if group:
            yield group

    def _outcomes(self, group: list[str], known: RecordStore | None) -> Iterator[Outcome]:
        entries = known.get(group) if known is not None else {}
        old = {commit: from_bytes(commit, entry) for commit, entry in entries.items()}
        compared = read_changes(self._reader, [one for one in group if not old.get(one)], BULK_FILES)
        new: dict[str, bytes] = {}
        for commit in group:
            outcome = old.get(commit)
            if outcome is None:
                _, raw, whole = next(compared)
                outcome = judge(raw) if raw else Outcome(None, MISSING)
                if known is not None and whole:  # what was missing may be here next time
                    new[commit] = to_bytes(outcome)
            yield outcome
        if known is not None and new:
            known.put(new)


def judge(commit: RawCommit) -> Outcome:
    """What a commit comes to by its header and its changes' paths."""
    if reason := commit_noise(commit.author_name, commit.author_email, commit.message):
        return Outcome(None, reason)
    if commit.files > BULK_FILES:
        return Outcome(None, "bulk")
    counts: dict[str, int] = {}
    changes: list[FileChange] = []
    for raw in commit.changes:
        path = decode_path(raw.path)
        if reason := _unwanted(raw, path):
            counts[f"change: {reason}"] = counts.get(f"change: {reason}", 0) + 1
        elif raw.old_id != raw.new_id or raw.old_path is not None:
            old_path = decode_path(raw.old_path) if raw.old_path is not None else None
            changes.append(FileChange(path, _blob(raw.old_id), _blob(raw.new_id), old_path))
    if not changes:
        return Outcome(None, "no text change", counts)
    changes.sort(key=lambda change: change.path)
    head = (commit.id, commit.parent, commit.message, commit.author_name, commit.author_email)
    return Outcome(CommitRecord(*head, tuple(changes), commit.files), "", counts)


def _unwanted(raw: RawChange, path: str) -> str | None:
    if "160000" in (raw.old_mode, raw.new_mode):
        return "submodule"
    if raw.old_mode not in _REGULAR or raw.new_mode not in _REGULAR:
        return "symlink"
    return path_noise(path)


def _blob(one: str) -> str | None:
    return one if one.strip("0") else None  # zeros: there is no file
