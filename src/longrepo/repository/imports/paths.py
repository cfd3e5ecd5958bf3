"""The files of a repository, looked up by path, by name and by folder."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from longrepo.repository.model import TextFile


class Paths:
    """`files` by path; `named` the paths by file name, `inside` by folder ("" is the top), all in path order.
    `folders` holds every folder, those without files of their own too."""

    def __init__(self, files: Sequence[TextFile]) -> None:
        self.files = {file.path: file for file in sorted(files, key=lambda file: file.path)}
        self.named: defaultdict[str, list[str]] = defaultdict(list)
        self.inside: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.files:
            folder, _, name = path.rpartition("/")
            self.named[name].append(path)
            self.inside[folder].append(path)
        self.folders = {""}.union(*map(upward, [*self.inside]))

    def first(self, candidates: Iterable[str]) -> str | None:
        """The first of the candidates that there is."""
        return next((path for path in candidates if path in self.files), None)

    def text(self, path: str) -> str:
        """A file's text."""
        return self.files[path].text


def folder_of(path: str) -> str:
    """The folder that holds a path, "" for the top."""
    return path.rpartition("/")[0]


def upward(folder: str) -> list[str]:
    """A folder and those that hold it, the top last."""
    found = [folder]
    while found[-1]:
        found.append(folder_of(found[-1]))
    return found


def join(folder: str, path: str) -> str:
    """`folder/path`, of which either may be empty."""
    return f"{folder}/{path}" if folder and path else folder or path


def normal(path: str) -> str:
    """A path without `.` and `..`; "" is the top."""
    path = posixpath.normpath(path)
    return "" if path == "." else path


def ways_down(folder: str, inner: Sequence[str]) -> Iterator[str]:
    """A folder and those that hold it, each followed by the `inner` folders it could have."""
    for one in upward(folder):
        yield one
        yield from (join(one, name) for name in inner)


def nearest(path: str, candidates: Sequence[str]) -> list[str]:
    """The candidates that share the most folders with a path; of these, the ones with the fewest more."""
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
