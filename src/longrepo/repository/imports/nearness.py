"""Paths by nearness in the folder tree: first those of the same stem, then all, by steps up and down folders."""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

_TEST_AFFIX = re.compile(r"^tests?_(?=.)|(?<=.)[._-](tests?|spec)$|(?<=[a-z0-9])(Tests?|Spec|IT)$")


class Nearness:
    """An index over paths; a walk from one of them costs as much as what is taken of it."""

    def __init__(self, paths: Iterable[str]) -> None:
        ordered = sorted(paths)
        same_stem: defaultdict[str, list[str]] = defaultdict(list)
        for path in ordered:
            same_stem[_stem(path)].append(path)
        self._all = _FolderTree(ordered)
        self._same_stem = {stem: _FolderTree(ones) for stem, ones in same_stem.items()}

    def from_path(self, path: str) -> Iterator[str]:
        """All paths, nearest first, those of the same stem before the others; many come more than once."""
        if tree := self._same_stem.get(_stem(path)):
            yield from tree.from_path(path)
        yield from self._all.from_path(path)


class _FolderTree:
    def __init__(self, ordered: Iterable[str]) -> None:
        self._below: defaultdict[tuple[str, int], list[str]] = defaultdict(list)  # (folder, levels down) -> its paths
        self._levels = 0
        for path in ordered:
            for up, folder in enumerate(_folders(path)):
                self._below[folder, up].append(path)
                self._levels = max(self._levels, up + 1)

    def from_path(self, path: str) -> Iterator[str]:
        """The paths by how many folders one goes up and down to them, then in path order; a path comes again where
        one goes further up and back."""
        folders = _folders(path)
        for steps in range(len(folders) + self._levels):
            levels = (self._below.get((folder, steps - up), ()) for up, folder in enumerate(folders[: steps + 1]))
            yield from heapq.merge(*levels)


def _folders(path: str) -> list[str]:
    """The folders that hold a path, its own first, the root as "" last."""
    found = [path.rpartition("/")[0]]
    while found[-1]:
        found.append(found[-1].rpartition("/")[0])
    return found


def _stem(path: str) -> str:
    """A name that a file shares with its tests: `test_sizes.py`, `SizesTest.java`, `sizes.spec.ts`, `sizes.py`."""
    name = path.rpartition("/")[2]
    return _TEST_AFFIX.sub("", name.rpartition(".")[0] or name).lower()
