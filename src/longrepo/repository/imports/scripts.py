"""Which file a JavaScript or TypeScript import loads."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from functools import cache

from longrepo.repository.imports.node import NodePackages
from longrepo.repository.imports.paths import Paths, folder_of, join, normal
from longrepo.repository.imports.statements import Import
from longrepo.repository.model import TextFile

_UNTYPED = (".js", ".jsx", ".mjs", ".cjs", ".json", ".ts", ".tsx", ".mts", ".cts", ".d.ts", ".vue", ".svelte")
_TYPED = (".ts", ".tsx", ".mts", ".cts", ".d.ts", ".d.mts", ".d.cts", *_UNTYPED)
_COMPILED = {  # TypeScript imports its output's name
    ".js": (".ts", ".tsx", ".d.ts"),
    ".jsx": (".tsx", ".d.ts"),
    ".mjs": (".mts", ".d.mts"),
    ".cjs": (".cts", ".d.cts"),
}
_CONDITIONS = frozenset({"node", "module", "default"})


class ScriptTargets:
    """`of` a statement: a path's file, a package's entry, or what an alias stands for."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._packages = NodePackages(paths)
        self._bare = cache(self._find_bare)

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        module = one.module.partition("?")[0]
        typed = file.language == "TypeScript"
        found: str | None = None
        if module.startswith("."):
            found = self._file(normal(join(folder_of(file.path), module)), typed)
        elif module:
            found = self._bare(folder_of(file.path), module, typed, "require" in one.names)
        yield from (found,) if found else ()

    def _find_bare(self, folder: str, module: str, typed: bool, required: bool) -> str | None:
        accepted = _CONDITIONS | {"require" if required else "import"} | ({"types"} if typed else frozenset())
        tries = list(self._packages.internal(folder, module, accepted)) if module.startswith("#") else []
        tries += self._packages.aliases(folder, module)
        scope = 2 if module.startswith("@") else 1
        name, subpath = "/".join(module.split("/")[:scope]), "/".join(module.split("/")[scope:])
        if (package := self._packages.named(folder, name)) is not None:
            tries += self._packages.entries(package, subpath, accepted)
        return next((found for one in tries if (found := self._file(one, typed))), None)

    def _file(self, target: str, typed: bool) -> str | None:
        """The file of a path as an import writes it: its own, with a suffix added or changed, or its folder's."""
        stem, suffix = posixpath.splitext(target)
        suffixes = _TYPED if typed else _UNTYPED
        tries = [target, *(stem + other for other in _COMPILED.get(suffix, ()))] if target else []
        tries += [target + one for one in suffixes] if target else []
        return self._paths.first(tries) or (self._entry(target, suffixes) if target in self._paths.folders else None)

    def _entry(self, folder: str, suffixes: Sequence[str]) -> str | None:
        if join(folder, "package.json") in self._paths.files:
            for one in self._packages.main(folder):
                if found := self._paths.first((one, *(one + suffix for suffix in suffixes))):
                    return found
        return self._paths.first(join(folder, f"index{one}") for one in suffixes)
