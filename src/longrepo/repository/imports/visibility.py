"""What a file can name: beyond what its import statements load, files that its language shows it without any.

`ImportGraph.edges` lists them with their kinds. Nothing here is an import: the graph keeps those apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cache, cached_property
from typing import Literal, NamedTuple

from longrepo.repository.imports.packages import SharedNames, is_test_path
from longrepo.repository.imports.paths import nearest_paths, test_stem
from longrepo.repository.imports.resolver import ImportResolver
from longrepo.repository.languages import NON_CODE_LANGUAGES
from longrepo.repository.types import TextFile

EdgeKind = Literal["import", "path", "tested", "counterpart", "package", "re-export", "package member"]
MAX_VISIBLE_FILES = 256  # above this, files of the same package that aren't used are left out
_MAX_PASSED_ON = 64  # files that imports hand on
_MAX_HANDS = 4  # from one file to the next
_FAMILIES = {"TypeScript": "JavaScript", "Vue": "JavaScript", "Kotlin": "Java", "Scala": "Java", "C++": "C"}
_FAMILIES |= {"Objective-C": "C"}  # languages whose files use one another


class Edge(NamedTuple):
    """A file whose definitions another file can name, and by what.

    `import`: a statement names it. `path`: a path in the code does (Rust). `tested`: its name is that of a test of the
    other. `counterpart`: the header of a source, or the sources of a header, also of an included one. `package`: of the
    same package, module or namespace, and a name that it declares is used; also fixtures of a conftest.py and macros of
    a crate. `re-export`: an imported file hands its names on; of a header, what it includes. `package member`: of the
    same package, but nothing that it declares is used.
    """

    path: str
    kind: EdgeKind


class VisibleFiles:
    """Finds what files can name without an import; what is found for a file is kept."""

    def __init__(self, resolver: ImportResolver, imports: Mapping[str, Sequence[str]]) -> None:
        """`imports`: path → what it imports."""
        self._resolver = resolver
        self._imports = imports
        self._own: TextFile | None = None
        self.used = cache(self._find_used)

    def seen_from(self, file: TextFile, imports: Sequence[str]) -> VisibleFiles:
        """Return the same with another text and other imports of one file, which may be new."""
        found = copy(self)
        found._imports, found._own = {**self._imports, file.path: imports}, file
        found.used = cache(lambda path: found._find_used(path) if path == file.path else self.used(path))
        return found

    def _file(self, path: str) -> TextFile | None:
        return self._own if self._own is not None and self._own.path == path else self._resolver.files.get(path)

    def _find_used(self, path: str) -> tuple[Edge, ...]:
        """Return the files that a file uses or needs without an import, once each, nearest first."""
        file = self._file(path)
        if file is None:
            return ()
        kinds: tuple[tuple[EdgeKind, Iterator[str]], ...] = (
            ("path", self._resolver.inline_paths(file)),
            ("tested", self._tested(file)),
            ("counterpart", self._counterparts(file, (path,))),
            ("package", self._shared(file)),
            ("re-export", self._passed_on(file)),
            ("counterpart", self._counterparts(file, self._imports.get(path, ()))),
        )
        found: dict[str, Edge] = {}
        for kind, others in kinds:
            for other in others:
                if other != path:
                    found.setdefault(other, Edge(other, kind))
        return tuple(found.values())

    def members(self, path: str) -> Iterator[Edge]:
        """Yield the other files of a file's packages, nearest first; those that it uses come again."""
        file = self._file(path)
        for one in self._resolver.packages(file) if file is not None else ():
            near = (other for other in one.members().from_path(path) if one.sees(other))
            yield from (Edge(other, "package member") for other in near)

    def _shared(self, file: TextFile) -> Iterator[str]:
        for shared in self._resolver.packages(file):
            for name in shared.named:
                yield from _declaring(shared, name, file.path)

    def _passed_on(self, file: TextFile) -> Iterator[str]:
        """Yield what the files that a file imports hand on to it, step by step."""
        seen = dict.fromkeys((file.path, *self._imports.get(file.path, ())))
        layer, listed = list(self._imports.get(file.path, ())), 0
        for _ in range(_MAX_HANDS):
            following: list[str] = []
            for target in layer:
                for other, used in self._resolver.passed_on(file, target):
                    if other not in seen:
                        seen[other] = None
                        following.append(other)
                        if used:
                            yield other
                            listed += 1
                            if listed == _MAX_PASSED_ON:
                                return
            layer = following

    def _counterparts(self, file: TextFile, of: Sequence[str]) -> Iterator[str]:
        """Yield the sources of headers, or the headers of sources: of that name, one that includes the other if any
        does, else the nearest."""
        for one in of if _family(file) == "C" else ():
            found = self._resolver.counterparts(one)
            including = [other for other in found if self._includes(one, other) or self._includes(other, one)]
            yield from including or nearest_paths(one, found)

    def _includes(self, path: str, other: str) -> bool:
        return other in self._imports.get(path, ())

    def _tested(self, file: TextFile) -> Iterator[str]:
        """Yield the files that a test is named after: of several, those whose folders have the most names in
        common with its own."""
        if not is_test_path(file.path):
            return
        found = self._by_stem.get((_family(file), test_stem(file.path)), ())
        own = set(file.path.split("/"))
        common = {path: len(own.intersection(path.split("/")[:-1])) for path in found}
        yield from nearest_paths(file.path, [path for path in found if common[path] == max(common.values())])

    @cached_property
    def _by_stem(self) -> dict[tuple[str, str], list[str]]:
        """Language and stem → the files of that name that are no tests."""
        found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for path, file in self._resolver.files.items():
            if file.language not in NON_CODE_LANGUAGES and not is_test_path(path):
                found[_family(file), test_stem(path)].append(path)
        return found


def _family(file: TextFile) -> str:
    return _FAMILIES.get(file.language, file.language)


def _declaring(shared: SharedNames, name: str, path: str) -> Sequence[str]:
    declaring = shared.declared.get(name, ())
    return () if path in declaring else nearest_paths(path, [other for other in declaring if shared.sees(other)])
