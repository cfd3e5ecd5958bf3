"""The import graph: which file of a repository imports which.

The import statements of each language are matched with the paths of the repository; imports of anything outside it
are dropped.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from longrepo.repository.imports.paths import PathNearness
from longrepo.repository.imports.resolver import ImportResolver
from longrepo.repository.imports.statements import Import
from longrepo.repository.imports.statements import read_imports as statements_of
from longrepo.repository.imports.visibility import MAX_VISIBLE_FILES, Edge, VisibleFiles
from longrepo.repository.rules import context_paths
from longrepo.repository.types import TextFile


@dataclass(frozen=True)
class ImportGraph:
    """`imports`: path -> the paths in this repository that it imports, in the order it names them; `imported_by` is
    the reverse, in path order. Every file's path is a key of both. `beyond`: what files can name without an import."""

    imports: dict[str, tuple[str, ...]]
    imported_by: dict[str, tuple[str, ...]] = field(default_factory=dict)
    beyond: VisibleFiles | None = field(default=None, repr=False, compare=False)

    def visible(self, path: str) -> tuple[str, ...]:
        """Return the other files whose definitions a file can name, nearest first: its imports, the files it uses
        without one, and of the rest of its package at most `MAX_VISIBLE_FILES`, less those before."""
        return tuple(edge.path for edge in self.edges(path))

    def edges(self, path: str) -> tuple[Edge, ...]:
        """Return the files of `visible`, each with its kind."""
        found = {one: Edge(one, "import") for one in self.imports.get(path, ())}
        if self.beyond is not None:
            for edge in self.beyond.used(path):
                found.setdefault(edge.path, edge)
            for edge in self.beyond.members(path):
                if len(found) >= MAX_VISIBLE_FILES:
                    break
                if edge.path != path:
                    found.setdefault(edge.path, edge)
        return tuple(found.values())

    def seen_from(self, file: TextFile, imports: Sequence[str]) -> ImportGraph:
        """Return the graph as it is with another text of one file, which may be new, and with these imports of it."""
        beyond = self.beyond.seen_from(file, imports) if self.beyond is not None else None
        return replace(self, imports={**self.imports, file.path: tuple(imports)}, beyond=beyond)

    def definitions_first(self, paths: Iterable[str]) -> list[str]:
        """Return the paths, once each, with every file after those it imports or uses without an import.

        In a cycle the file that waits for the fewest others comes first, ties in path order, so that the result is
        always the same.
        """
        chosen = set(paths)
        uses = {path: [one for one in self._needs(path) if one in chosen] for path in sorted(chosen)}
        return [path for circle in _cycles(uses) for path in _opened(circle, uses)]

    def _needs(self, path: str) -> tuple[str, ...]:
        """Return what a file imports, then what it uses of its package or by a path, and what it tests."""
        used = self.beyond.used(path) if self.beyond is not None else ()
        return (*self.imports.get(path, ()), *(edge.path for edge in used if edge.kind in _ORDERING_KINDS))

    def related(self, path: str, limit: int) -> list[str]:
        """Return up to `limit` other paths, nearest first: by steps along imports and uses without one (what it needs
        before what needs it), then its tests or files of the same stem, then by common folders. Licences, fixtures and
        the like (`context_noise`) are among them only if the file imports them. The result is always the same."""
        context, imported, found = self._context, self.imports.get(path, ()), dict[str, None]()
        for other in itertools.chain(self._by_steps(path), self._nearness.from_path(path)):
            if len(found) >= limit:
                break
            if other != path and (other in context or other in imported):
                found[other] = None
        return list(found)

    @cached_property
    def _context(self) -> frozenset[str]:
        return context_paths(self.imports)

    @cached_property
    def _nearness(self) -> PathNearness:
        return PathNearness(self.imports)

    def _by_steps(self, path: str) -> Iterator[str]:
        """Yield the paths that imports, in either direction, and uses without an import lead to, step by step."""
        seen = {path: None}
        queue = deque((path,))
        while queue:
            one = queue.popleft()
            used = (edge.path for edge in self.beyond.used(one)) if self.beyond is not None else ()
            for other in itertools.chain(self.imports.get(one, ()), used, self.imported_by.get(one, ())):
                if other not in seen:
                    seen[other] = None
                    queue.append(other)
                    yield other


def build_import_graph(files: Sequence[TextFile], imports: Mapping[str, Sequence[Import]] | None = None) -> ImportGraph:
    """Build the import graph of a snapshot's files. Imports of anything outside these files are dropped.

    `imports`: path -> the statements of that file, if they have been read before; then no file is parsed.
    """
    statements = {file.path: statements_of(file) for file in files} if imports is None else imports
    targets = ImportResolver(files, statements)
    found = {file.path: targets.of(file) for file in sorted(files, key=lambda file: file.path)}
    imported_by: defaultdict[str, list[str]] = defaultdict(list)
    for path, ones in found.items():
        for one in ones:
            imported_by[one].append(path)
    return ImportGraph(found, {path: tuple(imported_by[path]) for path in found}, VisibleFiles(targets, found))


_ORDERING_KINDS = frozenset({"path", "package", "tested"})


def _opened(circle: list[str], uses: Mapping[str, Sequence[str]]) -> list[str]:
    """Order the files of a cycle (or a single file): those that wait for the fewest others first."""
    if len(circle) == 1:
        return circle
    within = set(circle)
    waits = {path: within.intersection(uses[path]) - {path} for path in circle}
    users: defaultdict[str, list[str]] = defaultdict(list)
    for path in circle:
        for one in waits[path]:
            users[one].append(path)
    queue = [(len(waiting), path) for path, waiting in waits.items()]
    heapq.heapify(queue)
    ordered: list[str] = []
    while queue:
        count, path = heapq.heappop(queue)
        if path not in waits or count != len(waits[path]):  # placed, or waits for fewer by now
            continue
        del waits[path]
        ordered.append(path)
        for user in users[path]:
            if user in waits:
                waits[user].discard(path)
                heapq.heappush(queue, (len(waits[user]), user))
    return ordered


def _cycles(uses: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield the strongly connected components of a graph, imported before importing (Tarjan 1972, no recursion)."""
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
                    circle = [stack.pop()]
                    while circle[-1] != node:
                        circle.append(stack.pop())
                    on_stack.difference_update(circle)
                    yield circle
            elif following not in number:
                path.append((following, iter(uses[following])))
            elif following in on_stack:
                lowest[node] = min(lowest[node], number[following])
