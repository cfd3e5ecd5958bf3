"""The tracked text files of one commit, read from git's objects: no working tree, no filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from longrepo.repository.blobs import read_texts
from longrepo.repository.decode import decode_path
from longrepo.repository.git import ObjectReader
from longrepo.repository.git_batch import MISSING
from longrepo.repository.languages import language_of
from longrepo.repository.model import Snapshot, TextFile
from longrepo.repository.noise import path_noise

_MODES = {"120000": "symlink", "160000": "submodule"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tracked path; `size` is in bytes, None where the object isn't in this repository (or is a submodule's)."""

    path: str
    mode: str
    blob: str
    size: int | None


def tracked(reader: ObjectReader, commit: str) -> Iterator[Entry]:
    """Every tracked path of a commit, in git's order. Raises RunError where its trees are missing or damaged."""
    for line in reader.fields("ls-tree", "-r", "-z", "-l", "--full-tree", commit):
        facts, _, path = line.partition(b"\t")
        mode, _, blob, size = facts.decode("ascii").split()
        yield Entry(decode_path(path), mode, blob, int(size) if size.isdigit() else None)


def read_snapshot(reader: ObjectReader, commit: str, max_file_bytes: int) -> Snapshot:
    """The text files of a commit in path order; what is left out is counted by reason, in files and bytes.

    Reasons: submodule, symlink, missing, vendored, lock file, generated, oversized, binary, empty. A file is read
    only where its path and size leave it in; a blob that stands at several paths is read once.
    """
    left_out, left_out_bytes = Counter[str](), Counter[str]()
    wanted: list[Entry] = []
    for entry in tracked(reader, commit):
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


def unread_reason(entry: Entry, max_file_bytes: int) -> str | None:
    """Why a file is left out by its path and size alone; None for one to be read."""
    if entry.mode in _MODES:
        return _MODES[entry.mode]
    if reason := path_noise(entry.path):
        return reason
    if entry.size is None:
        return MISSING
    if entry.size == 0:
        return "empty"
    return "oversized" if entry.size > max_file_bytes else None
