"""What a file can name: beyond what its import statements load, files that its language shows it without any.

`ImportGraph.edges` lists them with their kinds. Nothing here is an import: the graph keeps those apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Literal, NamedTuple

from longrepo.repository.imports.packages import SharedNames
from longrepo.repository.imports.paths import nearest_paths
from longrepo.repository.types import TextFile

EdgeKind = Literal["import", "package", "package member"]
MAX_VISIBLE_FILES = 256  # above this, files of the same package that aren't used are left out


class Edge(NamedTuple):
    """A file whose definitions another file can name, and by what.

    `import`: a statement names it. `package`: of the same package, module or namespace, and a name that it declares is
    used. `package member`: of the same package, but nothing that it declares is used.
    """

    path: str
    kind: EdgeKind


class VisibleFiles:
    """Finds what files can name without an import; what is found for a file is kept."""

    def __init__(self, files: dict[str, TextFile], packages: Callable[[TextFile], Iterator[SharedNames]]) -> None:
        """`files`: by path; `packages`: the packages whose names a file uses freely, its own first."""
        self._files = files
        self._packages = packages
        self.used = cache(self._used)

    def _used(self, path: str) -> tuple[Edge, ...]:
        """Return the files that a file uses without an import, once each, nearest first."""
        file = self._files.get(path)
        if file is None:
            return ()
        found = (
            other
            for shared in self._packages(file)
            for name in shared.named
            for other in _declaring(shared, name, path)
        )
        return tuple(Edge(other, "package") for other in dict.fromkeys(found))

    def members(self, path: str) -> Iterator[Edge]:
        """Yield the other files of a file's packages, nearest first; those that it uses come again."""
        file = self._files.get(path)
        for one in self._packages(file) if file is not None else ():
            near = (other for other in one.members().from_path(path) if one.sees(other))
            yield from (Edge(other, "package member") for other in near)


def _declaring(shared: SharedNames, name: str, path: str) -> Sequence[str]:
    declaring = shared.declared.get(name, ())
    return () if path in declaring else nearest_paths(path, [other for other in declaring if shared.sees(other)])
