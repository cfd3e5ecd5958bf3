"""Commits with the texts of their changes."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator

from longrepo.repository.blobs import TextPipe
from longrepo.repository.git import ObjectReader
from longrepo.repository.git_batch import ASKED_AHEAD
from longrepo.repository.model import Change, Commit, CommitRecord, FileChange
from longrepo.repository.noise import BULK_FILES, only_formatting

# A file's text after one commit is its text before the next: with this many, 1 to 6 in 100 are read twice.
_CACHED_CHARACTERS = 32_000_000
_BLOBS_AT_ONCE = ASKED_AHEAD // 2 - 2 * BULK_FILES  # before the last commit of a group; two groups are under way


class _Text:
    """A text, or why it is left out: filled in when git answers."""

    __slots__ = ("reason", "text")

    def __init__(self) -> None:
        self.text: str | None = None
        self.reason = ""


_Group = tuple[list[CommitRecord], dict[str, _Text], int]  # records, their texts, how many of those are asked for


class TextHistory:
    """Joins records and texts. `left_out` counts commits (formatting, no text change) and changes ("change: …")."""

    def __init__(self, reader: ObjectReader, max_file_bytes: int, left_out: Counter[str]) -> None:
        self._reader = reader
        self._max_file_bytes = max_file_bytes
        self._left_out = left_out
        self._cache: OrderedDict[str, _Text] = OrderedDict()
        self._characters = 0

    def commits(self, records: Iterable[CommitRecord]) -> Iterator[Commit]:
        """The records as commits, in order, while git reads the texts of the next ones."""
        with TextPipe(self._reader, self._max_file_bytes) as pipe:
            waiting: deque[_Group] = deque()
            for group in self._groups(records, pipe):
                waiting.append(group)
                if len(waiting) > 2:  # one is sized and one is read meanwhile
                    yield from self._finish(waiting.popleft(), pipe)
            while waiting:
                yield from self._finish(waiting.popleft(), pipe)

    def _groups(self, records: Iterable[CommitRecord], pipe: TextPipe) -> Iterator[_Group]:
        group: list[CommitRecord] = []
        texts: dict[str, _Text] = {}
        new: list[str] = []
        for record in records:
            group.append(record)
            for blob in _blobs(record.changes):
                if blob not in texts:
                    if blob not in self._cache:
                        self._cache[blob] = _Text()
                        new.append(blob)
                    self._cache.move_to_end(blob)
                    texts[blob] = self._cache[blob]
            if len(new) >= _BLOBS_AT_ONCE or len(group) >= _BLOBS_AT_ONCE:
                pipe.ask(new)
                yield group, texts, len(new)
                group, texts, new = [], {}, []
        if group:
            pipe.ask(new)
            yield group, texts, len(new)

    def _finish(self, group: _Group, pipe: TextPipe) -> Iterator[Commit]:
        records, texts, asked = group
        for _ in range(asked):
            blob, text, reason = pipe.take()
            found = texts[blob]
            found.text = text
            found.reason = "" if text is not None else reason  # an emptied file is a change like any other
            if self._cache.get(blob) is found:
                self._characters += len(text or "")
        self._forget()
        for record in records:
            changes = [*filter(None, (self._change(one, texts) for one in record.changes))]
            if not changes:
                self._left_out["no text change"] += 1
            elif only_formatting(changes):
                self._left_out["formatting"] += 1
            else:
                yield Commit(record.id, record.parent, record.message, record.author_name, tuple(changes))

    def _forget(self) -> None:
        """Drop the least recently used texts; a group under way holds its own."""
        while self._characters > _CACHED_CHARACTERS:
            _, oldest = self._cache.popitem(last=False)
            self._characters -= len(oldest.text or "")

    def _change(self, change: FileChange, texts: dict[str, _Text]) -> Change | None:
        before, after = (texts[blob] if blob else _Text() for blob in (change.before, change.after))
        if reason := before.reason or after.reason:
            self._left_out[f"change: {reason}"] += 1
            return None
        return Change(change.path, before.text, after.text, change.old_path)


def _blobs(changes: Iterable[FileChange]) -> Iterator[str]:
    return (blob for change in changes for blob in (change.before, change.after) if blob)
