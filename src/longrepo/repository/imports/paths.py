"""Lookup of a repository's files by path, name and folder, and the paths nearest to one in the folder tree."""

from __future__ import annotations

import heapq
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache

from longrepo.repository.types import TextFile


class PathIndex:
    """`files` by path; paths by file name (`named`) and by folder (`inside`; "" is the top), all in path order.
    `folders` holds every folder, even those without files of their own."""

    def __init__(self, files: Sequence[TextFile]) -> None:
        self.files = {file.path: file for file in sorted(files, key=lambda file: file.path)}
        self.named: defaultdict[str, list[str]] = defaultdict(list)
        self.inside: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.files:
            folder, _, name = path.rpartition("/")
            self.named[name].append(path)
            self.inside[folder].append(path)
        self.folders = {""}.union(*map(folders_upward, [*self.inside]))

    def first(self, candidates: Iterable[str]) -> str | None:
        """Return the first candidate that exists."""
        return next((path for path in candidates if path in self.files), None)

    def text(self, path: str) -> str:
        """Return a file's text."""
        return self.files[path].text


def folder_of(path: str) -> str:
    """Return the folder that holds a path, "" for the top."""
    return path.rpartition("/")[0]


def folders_upward(folder: str) -> list[str]:
    """Return a folder and those that hold it, the top last."""
    found = [folder]
    while found[-1]:
        found.append(folder_of(found[-1]))
    return found


def join_path(folder: str, path: str) -> str:
    """Return `folder/path`, either of which may be empty."""
    return f"{folder}/{path}" if folder and path else folder or path


def normalize_path(path: str) -> str:
    """Return a path without `.` and `..`; "" is the top."""
    path = posixpath.normpath(path)
    return "" if path == "." else path


def folders_with_inner(folder: str, inner: Sequence[str]) -> Iterator[str]:
    """Yield a folder and those that hold it, each followed by the `inner` folders it could have."""
    for one in folders_upward(folder):
        yield one
        yield from (join_path(one, name) for name in inner)


def nearest_paths(path: str, candidates: Sequence[str]) -> list[str]:
    """Return the candidates that share the most folders with a path; of these, the ones in the fewest folders."""
    if len(candidates) < 2:
        return list(candidates)
    here = path.split("/")[:-1]

    def apart(other: str) -> tuple[int, int]:
        there = other.split("/")[:-1]
        common = 0
        while common < min(len(here), len(there)) and here[common] == there[common]:
            common += 1
        return -common, len(there)

    ranks = {one: apart(one) for one in candidates}
    best = min(ranks.values())
    return [one for one in candidates if ranks[one] == best]


_TEST_AFFIX = re.compile(
    r"^tests?[_-](?=.)|^Test(?=[A-Z])|(?<=.)[._-](tests?|spec|unittests?)$|(?<=[a-z0-9])(Tests?|Spec|Suite|IT)$"
)


_FEW_PATHS = 256  # of an index: sorting them is faster than a walk


class PathNearness:
    """An index of paths by nearness; a walk costs in proportion to the paths taken from it."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._ordered = sorted(paths)

    @cached_property
    def _all(self) -> _FolderTree:
        return _FolderTree(self._ordered)

    @cached_property
    def _same_stem(self) -> dict[str, _FolderTree]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in self._ordered:
            found[test_stem(path)].append(path)
        return {stem: _FolderTree(ones) for stem, ones in found.items()}

    def from_path(self, path: str) -> Iterator[str]:
        """Yield all paths, nearest first, those of the same stem before the others; many may come more than once."""
        if len(self._ordered) <= _FEW_PATHS:
            stem, folders = test_stem(path), _folders(folder_of(path))[::-1]
            yield from sorted(self._ordered, key=lambda other: (test_stem(other) != stem, _steps(folders, other)))
            return
        if tree := self._same_stem.get(test_stem(path)):
            yield from tree.from_path(path)
        yield from self._all.from_path(path)


def _steps(folders: Sequence[str], other: str) -> int:
    """Return the number of folders up and down to a path from the last of `folders`, the top first."""
    there = _folders(folder_of(other))[::-1]
    common = sum(1 for one, two in zip(folders, there, strict=False) if one == two)
    return len(folders) + len(there) - 2 * common


class _FolderTree:
    def __init__(self, ordered: Iterable[str]) -> None:
        self._below: defaultdict[tuple[str, int], list[str]] = defaultdict(list)  # (folder, levels down) -> its paths
        self._levels = 0
        for path in ordered:
            for up, folder in enumerate(_folders(folder_of(path))):
                self._below[folder, up].append(path)
                self._levels = max(self._levels, up + 1)

    def from_path(self, path: str) -> Iterator[str]:
        """Yield the paths by the number of folders up and down to them, then in path order; a path comes again if it
        is also reached by going further up and back."""
        folders = _folders(folder_of(path))
        for steps in range(len(folders) + self._levels):
            levels = (self._below.get((folder, steps - up), ()) for up, folder in enumerate(folders[: steps + 1]))
            yield from heapq.merge(*levels)


@lru_cache(maxsize=1 << 14)
def _folders(folder: str) -> tuple[str, ...]:
    """Return a folder and those that hold it, the root ("") last."""
    return tuple(folders_upward(folder))


@lru_cache(maxsize=1 << 14)
def test_stem(path: str) -> str:
    """Return the name a file shares with its tests: `test_sizes.py`, `SizesTest.java`, `sizes.spec.ts`, `sizes.py`."""
    name = path.rpartition("/")[2]
    return _TEST_AFFIX.sub("", name.rpartition(".")[0] or name).lower()
