"""Which file an `#include` of the C family reads."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import cache

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


class IncludeResolver:
    """Resolves `#include`: beside the file, then in an include folder above it, then the only path that ends like
    this, or the nearest. `<…>` has to be below a folder called `include`, `includes` or `inc`."""

    def __init__(self, paths: PathIndex) -> None:
        self._paths = paths
        self._from = cache(self._find)

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        found = self._from(folder_of(file.path), one.module)
        yield from (found,) if found else ()

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
