"""Which file of a repository imports which: the statements of each language, matched with the paths there are."""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from longrepo.repository.import_targets import Targets
from longrepo.repository.model import TextFile

_TEST_AFFIX = re.compile(r"^tests?_(?=.)|(?<=.)[._-](tests?|spec)$|(?<=[a-z0-9])(Tests?|Spec|IT)$")


@dataclass(frozen=True)
class ImportGraph:
    """`imports`: path -> the paths in this repository it imports, in the order it names them; `imported_by` is the
    reverse, in path order. Every given path is a key of both."""

    imports: dict[str, tuple[str, ...]]
    imported_by: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def definitions_first(self, paths: Iterable[str]) -> list[str]:
        """The paths, once each, what is imported before what imports it.

        In a circle the file goes first that waits for the fewest others, then in path order: always the same answer.
        """
        chosen = set(paths)
        uses = {path: [one for one in self.imports.get(path, ()) if one in chosen] for path in sorted(chosen)}
        return [path for circle in _circles(uses) for path in self._opened(circle)]

    def _opened(self, circle: list[str]) -> list[str]:
        """Files that import each other in a circle, or one alone, in an order that begins with the fewest waits."""
        within = set(circle)
        waits = {path: (within & set(self.imports.get(path, ()))) - {path} for path in circle}
        queue = [(len(waiting), path) for path, waiting in waits.items()]
        heapq.heapify(queue)
        ordered: list[str] = []
        while queue:
            count, path = heapq.heappop(queue)
            if path not in waits or count != len(waits[path]):  # placed, or waits for fewer by now
                continue
            del waits[path]
            ordered.append(path)
            for user in self.imported_by.get(path, ()):
                if user in waits and path in waits[user]:
                    waits[user].discard(path)
                    heapq.heappush(queue, (len(waits[user]), user))
        return ordered

    def related(self, path: str, limit: int) -> list[str]:
        """Up to `limit` other paths, nearest first: by steps along imports (what it imports before what imports it),
        then its tests or files of the same stem, then by folders in common. Always the same answer."""
        near = self._by_steps(path, limit)
        rest = [other for other in self.imports if other != path and other not in near]
        stem, folders = _stem(path), PurePosixPath(path).parent.parts
        rest.sort(key=lambda other: (_stem(other) != stem, _apart(folders, other), other))
        return [*near, *rest][: max(limit, 0)]

    def _by_steps(self, path: str, limit: int) -> dict[str, None]:
        found: dict[str, None] = {}
        layer = [path]
        while layer and len(found) < limit:
            following: dict[str, None] = {}
            for one in layer:
                following |= dict.fromkeys((*self.imports.get(one, ()), *self.imported_by.get(one, ())))
            layer = [one for one in following if one != path and one not in found]
            found |= dict.fromkeys(layer)
        return found


def import_graph(files: Sequence[TextFile]) -> ImportGraph:
    """The import graph of a snapshot's files. Imports of anything outside these files leave no trace."""
    targets = Targets(files)
    imports = {file.path: targets.of(file) for file in sorted(files, key=lambda file: file.path)}
    imported_by: defaultdict[str, list[str]] = defaultdict(list)
    for path, found in imports.items():
        for one in found:
            imported_by[one].append(path)
    return ImportGraph(imports, {path: tuple(imported_by[path]) for path in imports})


def _circles(uses: dict[str, list[str]]) -> Iterator[list[str]]:
    """The strongly connected components of a graph, used before using (Tarjan 1972, without recursion)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    for start in uses:
        path: list[tuple[str, Iterator[str]]] = [(start, iter(uses[start]))] if start not in number else []
        while path:
            node, rest = path[-1]
            if node not in number:
                number[node] = lowest[node] = len(number)
                stack.append(node)
                on_stack.add(node)
            following = next(rest, None)
            if following is None:
                path.pop()
                if path:
                    above = path[-1][0]
                    lowest[above] = min(lowest[above], lowest[node])
                if lowest[node] == number[node]:
                    circle = stack[stack.index(node) :]
                    del stack[-len(circle) :]
                    on_stack.difference_update(circle)
                    yield circle
            elif following not in number:
                path.append((following, iter(uses[following])))
            elif following in on_stack:
                lowest[node] = min(lowest[node], number[following])


def _stem(path: str) -> str:
    """A name that a file shares with its tests: `test_sizes.py`, `SizesTest.java`, `sizes.spec.ts`, `sizes.py`."""
    name = PurePosixPath(path).name
    return _TEST_AFFIX.sub("", name.rpartition(".")[0] or name).lower()


def _apart(folders: tuple[str, ...], other: str) -> int:
    """How many folders one goes up and down from the one to the other."""
    theirs = PurePosixPath(other).parent.parts
    common = 0
    for one, two in zip(folders, theirs, strict=False):
        if one != two:
            break
        common += 1
    return len(folders) + len(theirs) - 2 * common
