"""The text files of one commit, read from git's objects: no working tree, no filters.

Texts are streamed by object id: git inflates the next ones while this process decodes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from longrepo.repository.filters import path_noise, text_noise
from longrepo.repository.git import MAX_PENDING_IDS, MISSING, ObjectReader, in_groups
from longrepo.repository.types import Snapshot, TextFile, decode_path, decode_text, language_of


class TextPipe:
    """Requests blobs ahead of time and returns their texts in order.

    Sizes are requested first, one group ahead of the contents, so that a blob of more than `max_file_bytes` is never
    read: a size costs a twentieth of reading. Use it in a `with`, which ends its processes.
    """

    def __init__(self, reader: ObjectReader, max_file_bytes: int) -> None:
        self._max_file_bytes = max_file_bytes
        self._processes = ExitStack()
        self._sizes = self._processes.enter_context(reader.batch("--batch-check"))
        self._contents = self._processes.enter_context(reader.batch("--batch"))
        self._sizing: list[str] = []
        self._asked: deque[tuple[str, str]] = deque()  # blob, why it isn't read

    def __enter__(self) -> TextPipe:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def __len__(self) -> int:
        return len(self._asked) + len(self._sizing)

    def ask(self, blobs: list[str]) -> None:
        """Request these blobs. Together with those not taken yet, there may be at most `MAX_PENDING_IDS`."""
        self._ask_contents()
        self._sizes.ask(blobs)
        self._sizing = blobs

    def _ask_contents(self) -> None:
        reasons = [(blob, self._unread(*self._sizes.header())) for blob in self._sizing]
        self._contents.ask(blob for blob, reason in reasons if not reason)
        self._asked.extend(reasons)
        self._sizing = []

    def take(self) -> tuple[str, str | None, str]:
        """Return the next (blob, text, ""), or (blob, None, reason). An "empty" one has both a text and a reason."""
        if not self._asked:
            self._ask_contents()
        blob, reason = self._asked.popleft()
        if reason:
            return blob, None, reason
        kind, size = self._contents.header()
        if kind == MISSING:
            return blob, None, MISSING
        text = decode_text(self._contents.content(size))
        if text is None:
            return blob, None, "binary"
        reason = text_noise(text) or ""
        return blob, (text if reason in ("", "empty") else None), reason

    def _unread(self, kind: str, size: int) -> str:
        if kind != "blob":
            return MISSING
        return "oversized" if size > self._max_file_bytes else ""


def read_texts(
    reader: ObjectReader, blobs: Iterable[str], max_file_bytes: int
) -> Iterator[tuple[str, str | None, str]]:
    """Yield (blob, text, "") for each distinct blob in the order requested, or (blob, None, reason): missing,
    oversized, binary, empty, generated. One text at a time is in memory."""
    size = MAX_PENDING_IDS // 3
    with TextPipe(reader, max_file_bytes) as pipe:
        for group in in_groups(_distinct(blobs), size):
            pipe.ask(group)
            while len(pipe) > 2 * size:
                yield _without_empty(pipe.take())
        while pipe:
            yield _without_empty(pipe.take())


def _without_empty(taken: tuple[str, str | None, str]) -> tuple[str, str | None, str]:
    blob, text, reason = taken
    return blob, (None if reason else text), reason


def _distinct(blobs: Iterable[str]) -> Iterator[str]:
    seen = set[bytes]()  # half the size of the hex digits
    for blob in blobs:
        key = bytes.fromhex(blob)
        if key not in seen:
            seen.add(key)
            yield blob


_MODES = {"120000": "symlink", "160000": "submodule"}


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A tracked path; `size` is in bytes, None if the object isn't in this repository (or is a submodule's)."""

    path: str
    mode: str
    blob: str
    size: int | None


def tracked_entries(reader: ObjectReader, commit: str) -> Iterator[TreeEntry]:
    """Yield every tracked path of a commit, in git's order. Raises RunError if its trees are missing or damaged."""
    for line in reader.fields("ls-tree", "-r", "-z", "-l", "--full-tree", commit):
        facts, _, path = line.partition(b"\t")
        mode, _, blob, size = facts.decode("ascii").split()
        yield TreeEntry(decode_path(path), mode, blob, int(size) if size.isdigit() else None)


def read_snapshot(reader: ObjectReader, commit: str, max_file_bytes: int) -> Snapshot:
    """Read the text files of a commit in path order, and count by reason what is left out, in files and bytes.

    Reasons: submodule, symlink, missing, vendored, lock file, generated, oversized, binary, empty. A file that its
    path or size rules out is never read; a blob that occurs at several paths is read once.
    """
    left_out, left_out_bytes = Counter[str](), Counter[str]()
    wanted: list[TreeEntry] = []
    for entry in tracked_entries(reader, commit):
        if reason := unread_reason(entry, max_file_bytes):
            left_out[reason] += 1
            left_out_bytes[reason] += entry.size or 0
        else:
            wanted.append(entry)
    texts = {
        blob: (text, reason)
        for blob, text, reason in read_texts(reader, (entry.blob for entry in wanted), max_file_bytes)
    }
    files: list[TextFile] = []
    for entry in wanted:
        text, reason = texts[entry.blob]
        if text is None:
            left_out[reason] += 1
            left_out_bytes[reason] += entry.size or 0
        else:
            files.append(TextFile(entry.path, text, entry.blob, language_of(entry.path, text)))
    return Snapshot(commit, tuple(sorted(files, key=lambda file: file.path)), left_out, left_out_bytes)


def unread_reason(entry: TreeEntry, max_file_bytes: int) -> str | None:
    """Return why a file is left out for its path or size alone, or None if it has to be read."""
    if entry.mode in _MODES:
        return _MODES[entry.mode]
    if reason := path_noise(entry.path):
        return reason
    if entry.size is None:
        return MISSING
    if entry.size == 0:
        return "empty"
    return "oversized" if entry.size > max_file_bytes else None
