"""A commit's tree as git itself shows it: `git grep`, `ls-tree`, `diff-tree`, `rev-list`, over its objects alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from longrepo.errors import InputError
from longrepo.repository.decode import decode_path
from longrepo.repository.git import ObjectReader, run_inside
from longrepo.repository.snapshot import tracked

_NAMES_AT_ONCE = 400  # in one pattern of git grep


class Line(NamedTuple):
    """A line of a file; numbers begin at 1."""

    path: str
    number: int
    text: str


def object_reader(repository: Path, commit: str) -> ObjectReader:
    """Plumbing on a repository's objects. Raises InputError where it isn't one."""
    found, said = run_inside(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if found is None:
        raise InputError(f"{repository}: can't be read as a git repository ({said})")
    return ObjectReader(Path(found), "sha256" if len(commit) == 64 else "sha1")


def holds(repository: Path, commit: str) -> bool:
    """Whether a repository holds a commit (full id)."""
    with object_reader(repository, commit) as reader:
        return next(reader.sizes([commit]))[1] == "commit"


class Tree:
    """The files of one commit. Close it, or use it in a `with`."""

    def __init__(self, repository: Path, commit: str) -> None:
        """Raises InputError where the repository doesn't hold the commit."""
        self.commit = commit
        with ExitStack() as stack:
            self._reader = stack.enter_context(object_reader(repository, commit))
            if next(self._reader.sizes([commit]))[1] != "commit":
                raise InputError(f"{repository}: doesn't hold the commit {commit[:10]}; give the repository prepared")
            self._batch = stack.enter_context(self._reader.batch())
            self._open = stack.pop_all()
        self.text = lru_cache(maxsize=512)(self._text)
        self._lines: dict[str, list[Line]] = {}

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def blobs(self) -> dict[str, str]:
        """path -> object id of every regular file."""
        return {one.path: one.blob for one in tracked(self._reader, self.commit) if one.mode.startswith("100")}

    def _text(self, path: str) -> str:
        """A file's text; empty where there is none."""
        if path not in self.blobs:
            return ""
        self._batch.ask([self.blobs[path]])
        content = self._batch.content(self._batch.header()[1])
        return content.decode("utf-8-sig", "replace").replace("\r\n", "\n")

    def look_up(self, words: Iterable[str]) -> None:
        """Ask for many words at once: `lines` then answers without asking git again."""
        todo = sorted({word for word in words if re.fullmatch(r"\w+", word, re.ASCII)} - self._lines.keys())
        for first in range(0, len(todo), _NAMES_AT_ONCE):
            self._grep(todo[first : first + _NAMES_AT_ONCE])

    def lines(self, word: str) -> list[Line]:
        """The lines in which a word stands, anywhere in the tree, binary files left out."""
        self.look_up([word])
        return self._lines.get(word, [])

    def changed(self, commit: str) -> list[str]:
        """The paths a commit changed, as `git log --name-only` shows them."""
        options = ["--no-commit-id", "--name-only", "--root", "-r", "-z", "-M", "--no-ext-diff", "--no-textconv"]
        return [
            decode_path(one) for one in self._reader.output("diff-tree", *options, commit, "--").split(b"\0") if one
        ]

    def subject(self, commit: str) -> str:
        """The first line of a commit's message."""
        return self._reader.output("log", "-1", "--format=%s", commit, "--").decode("utf-8", "replace").strip()

    def ids(self, prefix: str) -> list[str]:
        """The commits of this history whose id begins like this."""
        return self._by_prefix.get(prefix[:8], [])

    @cached_property
    def _by_prefix(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for one in self._reader.output("rev-list", self.commit, "--").decode().split():
            found[one[:8]].append(one)
        return found

    def _grep(self, words: list[str]) -> None:
        found: dict[str, dict[tuple[str, int], Line]] = {word: {} for word in words}
        pattern = f"({'|'.join(words)})"
        any_word = re.compile(rf"\b(?:{'|'.join(words)})\b", re.ASCII)
        options = ["-I", "-n", "-z", "-w", "-E", "--full-name", "--no-textconv", "--no-color", "-e", pattern]
        # git grep ends with status 1 where it finds nothing, which is no failure.
        for raw in self._reader.fields("grep", *options, self.commit, "--", end=b"\n", strict=False):
            line = self._line(raw)
            for word in set(any_word.findall(line.text)):
                found[word][line.path, line.number] = line
        self._lines.update({word: list(lines.values()) for word, lines in found.items()})

    def _line(self, raw: bytes) -> Line:
        name, number, text = raw.rstrip(b"\r\n").split(b"\0", 2)
        return Line(decode_path(name.partition(b":")[2]), int(number), text.decode("utf-8", "replace"))


def suffix(path: str) -> str:
    """What follows the last dot of a file's name, in small letters; "" where there is none."""
    return PurePosixPath(path).suffix[1:].lower()


def paths_of(lines: Iterable[Line]) -> Iterator[str]:
    """The distinct paths of lines, in order."""
    yield from dict.fromkeys(line.path for line in lines)
