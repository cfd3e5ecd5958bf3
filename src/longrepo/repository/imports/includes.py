"""Which file an `#include` of the C family reads."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from longrepo.repository.imports.packages import PassedOn
from longrepo.repository.imports.paths import (
    PathIndex,
    folder_of,
    folders_with_inner,
    join_path,
    nearest_paths,
    normalize_path,
)
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_INNER_FOLDERS = ("include", "src", "inc", "lib")
_PUBLIC_FOLDERS = frozenset({"include", "includes", "inc"})

_HEADERS = frozenset({"h", "hh", "hpp", "hxx", "h++", "inc", "ipp", "inl", "tpp"})
_SOURCES = frozenset({"c", "cc", "cpp", "cxx", "c++", "m", "mm", "cu"})
_IMPLEMENTATION_AFFIX = re.compile(r"(?<=.)[-_](impl|inl|internal)$")


def _ending(path: str) -> str:
    return path.rpartition(".")[2].lower()


def _stem(path: str) -> str:
    return _IMPLEMENTATION_AFFIX.sub("", posixpath.splitext(posixpath.basename(path))[0].lower())


class IncludeResolver:
    """Resolves `#include`: beside the file, then in an include folder above it, then the only path that ends like
    this, or the nearest. `<…>` has to be below a folder called `include`, `includes` or `inc`."""

    def __init__(self, paths: PathIndex) -> None:
        self._paths = paths
        self._from = cache(self._find)
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for path in paths.files:
            if _ending(path) in _HEADERS | _SOURCES:
                self._by_stem[_stem(path)].append(path)

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        found = self._from(folder_of(file.path), one.module)
        yield from (found,) if found else ()

    def passed_on(self, target: TextFile, statements: Mapping[str, Sequence[Import]]) -> Iterator[PassedOn]:
        """Yield what a header includes."""
        if _ending(target.path) in _HEADERS:
            for one in statements.get(target.path, ()):
                yield from (PassedOn(found, True) for found in self.of(target, one))

    def counterparts(self, path: str) -> list[str]:
        """Return the sources of a header's name, or the headers of a source's."""
        ending = _ending(path)
        wanted = _SOURCES if ending in _HEADERS else _HEADERS if ending in _SOURCES else frozenset()
        return [other for other in self._by_stem.get(_stem(path), ()) if _ending(other) in wanted] if wanted else []

    def _find(self, folder: str, module: str) -> str | None:
        public = module.startswith("<")
        name = normalize_path(module.strip("<>"))
        beside = normalize_path(join_path(folder, name))
        if not public and beside in self._paths.files:
            return beside
        inner = ("include", "inc") if public else _INNER_FOLDERS
        above = (join_path(one, name) for one in folders_with_inner(folder, inner))
        usual = (one for one in above if not public or self._public(one, name))
        if found := self._paths.first(usual):
            return found
        name = name.lstrip("./")
        ends = [one for one in self._paths.named[posixpath.basename(name)] if f"/{one}".endswith(f"/{name}")]
        if public:
            ends = [one for one in ends if self._public(one, name)]
        close = nearest_paths(join_path(folder, "file"), ends)
        return close[0] if len(close) == 1 else None

    @staticmethod
    def _public(path: str, name: str) -> bool:
        """Whether `<name>` may mean a path: it is below a folder for public headers."""
        return posixpath.basename(path[: len(path) - len(name)].rstrip("/")) in _PUBLIC_FOLDERS
