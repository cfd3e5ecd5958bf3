"""Which file an #include of C or C++ reads."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import cache

from longrepo.repository.imports.paths import Paths, folder_of, join, nearest, normal, ways_down
from longrepo.repository.imports.statements import Import
from longrepo.repository.model import TextFile

_INNER = ("include", "src", "inc", "lib")
_PUBLIC = frozenset({"include", "includes", "inc"})


class IncludeTargets:
    """`of` a statement: beside the file, then in an include folder above it, then the only file that ends like this,
    or the nearest. `<…>` has to lie below a folder that is called `include`."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._from = cache(self._find)

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        found = self._from(folder_of(file.path), one.module)
        yield from (found,) if found else ()

    def _find(self, folder: str, module: str) -> str | None:
        public = module.startswith("<")
        name = normal(module.strip("<>"))
        beside = normal(join(folder, name))
        if not public and beside in self._paths.files:
            return beside
        inner = ("include", "inc") if public else _INNER
        above = (join(one, name) for one in ways_down(folder, inner))
        usual = (one for one in above if not public or self._public(one, name))
        if found := self._paths.first(usual):
            return found
        name = name.lstrip("./")
        ends = [one for one in self._paths.named[posixpath.basename(name)] if f"/{one}".endswith(f"/{name}")]
        if public:
            ends = [one for one in ends if self._public(one, name)]
        close = nearest(join(folder, "file"), ends)
        return close[0] if len(close) == 1 else None

    @staticmethod
    def _public(path: str, name: str) -> bool:
        """Whether `<name>` may mean a path: it lies below a folder that is called so."""
        return posixpath.basename(path[: len(path) - len(name)].rstrip("/")) in _PUBLIC
