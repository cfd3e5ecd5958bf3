"""The text files of one commit, read from git's objects: no working tree, no filters.

Texts are streamed by object id: git inflates the next ones while this process decodes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from longrepo.repository.encodings import (
    BROKEN_NOTEBOOK,
    MAX_NOTEBOOK_BYTES,
    NOTEBOOK_SUFFIX,
    decode_text,
    read_notebook,
    undecoded_reason,
)
from longrepo.repository.filters import pointer_noise, text_noise
from longrepo.repository.git import MAX_PENDING_IDS, MISSING, ObjectReader, in_groups
from longrepo.repository.rules import NOTEBOOK, PathRule, PathRules
from longrepo.repository.types import BlobText, Snapshot, TextFile, decode_path


class TextPipe:
    """Requests blobs ahead of time and returns their texts in order.

    Sizes are requested first, one group ahead of the contents, so that a blob of more than `max_file_bytes` is never
    read: a size costs a twentieth of reading. Use it in a `with`, which ends its processes.
    """

    def __init__(self, reader: ObjectReader, max_file_bytes: int) -> None:
        self._max_file_bytes = max_file_bytes
        self._forms: dict[str, str] = {}
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

    def ask(self, blobs: list[str], forms: Mapping[str, str]) -> None:
        """Request these blobs. Together with those not taken yet, there may be at most `MAX_PENDING_IDS`.

        `forms`: blob → how it is read: a notebook may be larger, as its outputs aren't part of the text; an encoding
        counts if the bytes aren't UTF-8.
        """
        self._ask_contents()
        self._forms.update(forms)
        self._sizes.ask(blobs)
        self._sizing = blobs

    def _ask_contents(self) -> None:
        reasons = [(blob, self._unread(blob, *self._sizes.header())) for blob in self._sizing]
        self._contents.ask(blob for blob, reason in reasons if not reason)
        self._asked.extend(reasons)
        self._sizing = []

    def take(self) -> BlobText:
        """Return the text of the next blob."""
        if not self._asked:
            self._ask_contents()
        blob, reason = self._asked.popleft()
        form = self._forms.pop(blob, "")
        if reason:
            return BlobText(blob, None, reason)
        kind, size = self._contents.header()
        if kind == MISSING:
            return BlobText(blob, None, MISSING)
        return self._read(blob, self._contents.content(size), "" if form == NOTEBOOK else form)

    def _read(self, blob: str, content: bytes, encoding: str) -> BlobText:
        if pointer := pointer_noise(content):
            return BlobText(blob, None, pointer)
        text, language = decode_text(content, encoding), ""
        if text is None:
            return BlobText(blob, None, undecoded_reason(content))
        try:
            if notebook := read_notebook(text):
                text, language = notebook
        except ValueError:
            return BlobText(blob, None, BROKEN_NOTEBOOK)
        if len(text) > self._max_file_bytes:
            return BlobText(blob, None, "oversized")
        return BlobText(blob, text, text_noise(text) or "", language)

    def _unread(self, blob: str, kind: str, size: int) -> str:
        if kind != "blob":
            return MISSING
        limit = MAX_NOTEBOOK_BYTES if self._forms.get(blob) == NOTEBOOK else self._max_file_bytes
        return "oversized" if size > max(limit, self._max_file_bytes) else ""


def read_texts(
    reader: ObjectReader, blobs: Iterable[str], max_file_bytes: int, forms: Mapping[str, str] | None = None
) -> Iterator[BlobText]:
    """Yield the text of each distinct blob in the order requested, or why it is left out: missing, oversized, binary,
    empty, generated, broken notebook, LFS pointer and the like. One text at a time is in memory."""
    size = MAX_PENDING_IDS // 3
    with TextPipe(reader, max_file_bytes) as pipe:
        for group in in_groups(_distinct(blobs), size):
            pipe.ask(group, {blob: forms[blob] for blob in group if blob in forms} if forms else {})
            while len(pipe) > 2 * size:
                yield pipe.take()
        while pipe:
            yield pipe.take()


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


def read_snapshot(reader: ObjectReader, commit: str, max_file_bytes: int, rules: PathRules) -> Snapshot:
    """Read the text files of a commit in path order, and count by reason what is left out, in files and bytes.

    Reasons: submodule, symlink, missing, vendored, lock file, generated, oversized, binary, empty, LFS pointer and
    the like. A file that its path or size rules out is never read; a blob that occurs at several paths is read once.
    """
    left_out, left_out_bytes = Counter[str](), Counter[str]()
    wanted: list[TreeEntry] = []
    entries = list(tracked_entries(reader, commit))
    rules.load(entry.path for entry in entries)
    for entry in entries:
        if reason := unread_reason(entry, max_file_bytes, rules.of(entry.path))[0]:
            left_out[reason] += 1
            left_out_bytes[reason] += entry.size or 0
        else:
            wanted.append(entry)
    forms = {entry.blob: form for entry in wanted if (form := rules.form_of(entry.path))}
    texts = {one.blob: one for one in read_texts(reader, (one.blob for one in wanted), max_file_bytes, forms)}
    files: list[TextFile] = []
    for entry in wanted:
        _, text, reason, language = texts[entry.blob]
        if text is None or (reason and not (reason == "generated" and rules.of(entry.path).own)):
            left_out[reason] += 1
            left_out_bytes[reason] += entry.size or 0
        else:
            files.append(TextFile(entry.path, text, entry.blob, rules.language_of(entry.path, text, language)))
    return Snapshot(commit, tuple(sorted(files, key=lambda file: file.path)), left_out, left_out_bytes)


def unread_reason(entry: TreeEntry, max_file_bytes: int, rule: PathRule) -> tuple[str, str]:
    """Return why a file is left out for its path or size alone and the rule that says so; ("", "") if it is read."""
    if entry.mode in _MODES:
        return _MODES[entry.mode], ""
    if rule.reason:
        return rule.reason, rule.rule
    if entry.size is None:
        return MISSING, ""
    if entry.size == 0:
        return "empty", ""
    limit = max(max_file_bytes, MAX_NOTEBOOK_BYTES if entry.path.endswith(NOTEBOOK_SUFFIX) else 0)
    return ("oversized", "data.max_file_bytes") if entry.size > limit else ("", "")
