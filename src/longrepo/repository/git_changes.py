"""Commits with their raw changes, from one `git diff-tree --stdin`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from longrepo.repository.git import ObjectReader

MOST_BYTES = 3 << 28  # of git's memory: two files of a gigabyte aren't compared for likeness
_FORMAT = "%H%n%P%n%e%n%an%n%ae%n%B"  # not one of these can hold a NUL, nor all but the last a line break
_OPTIONS = ("-r", "-z", "--raw", "--no-abbrev", "--root", "--always", "--no-ext-diff", "--encoding=UTF-8")


class RawChange(NamedTuple):
    """One line of `--raw` output: modes are six octal digits, ids full, `status` a letter of ADMRT, paths bytes."""

    old_mode: str
    new_mode: str
    old_id: str
    new_id: str
    status: str
    path: bytes
    old_path: bytes | None


@dataclass(frozen=True)
class RawCommit:
    """A commit as git prints it. `changes` are the first ones, `files` counts them all."""

    id: str
    parent: str | None
    message: str
    author_name: str
    author_email: str
    changes: list[RawChange]
    files: int


def read_changes(reader: ObjectReader, ids: Sequence[str], most: int) -> Iterator[tuple[str, RawCommit | None, bool]]:
    """(id, commit, whether renames were judged in full) of each id, in order; None where its trees are missing.

    At most `most` changes and one more are kept of a commit. Judging a changed file as renamed reads both texts, so
    a commit that git dies of (one is missing, or too large) is tried once more with exact renames alone; what it dies
    of then is a missing tree.
    """
    rest = deque(ids)
    while rest:
        # A commit of `most` files can't need more comparisons than this limit allows, and others aren't looked into.
        for commit in parse_raw(_diff(reader, list(rest), "-M", f"-l{most + 1}"), most):
            yield rest.popleft(), commit, True
        if rest:
            stuck = rest.popleft()
            yield stuck, next(parse_raw(_diff(reader, [stuck], "-M100%"), most), None), False


def _diff(reader: ObjectReader, ids: Iterable[str], *renames: str) -> Iterator[bytes]:
    options = ("--stdin", *_OPTIONS, f"--format={_FORMAT}", *renames)
    return reader.fields("diff-tree", *options, stdin=ids, strict=False, most_bytes=MOST_BYTES)


def parse_raw(fields: Iterator[bytes], most: int) -> Iterator[RawCommit]:
    """Commits from the fields of `git diff-tree --stdin -z --raw`.

    A field is a commit's header and message, which begins with its id, or a change, which begins with ":" and is
    followed by its paths: neither a message nor a path that looks like a change can be mistaken for one. git prints a
    commit once all of it is known: the last is whole or absent.
    """
    header, changes, files = b"", list[RawChange](), 0
    for field in fields:
        if field[:1] == b"\n":  # stands between a message and the changes
            field = field[1:]
        if field[:1] != b":":
            if header:
                yield _commit(header, changes, files)
            header, changes, files = field, [], 0
            continue
        old_mode, new_mode, old_id, new_id, status = field[1:].decode("ascii").split(" ")
        path, old_path = next(fields, b""), None
        if status[0] in "RC":
            path, old_path = next(fields, b""), path
        files += 1
        if files <= most + 1:
            changes.append(RawChange(old_mode, new_mode, old_id, new_id, status[0], path, old_path))
    if header:
        yield _commit(header, changes, files)


def _commit(header: bytes, changes: list[RawChange], files: int) -> RawCommit:
    commit, parents, encoding, *rest = header.split(b"\n", 5)
    name, email, message = (decode_words(one, encoding) for one in rest)
    parent = parents.decode("ascii").split(" ")[0] or None
    return RawCommit(commit.decode("ascii"), parent, message.strip("\n"), name, email, changes, files)


def decode_words(raw: bytes, encoding: bytes) -> str:
    """A message or a name. git has made UTF-8 of it where it knows the encoding that the commit names; what isn't
    UTF-8 even so is read in that encoding, or with U+FFFD."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        with suppress(LookupError, ValueError):
            return raw.decode(encoding.decode("ascii", "replace"))
        return raw.decode("utf-8", "replace")
