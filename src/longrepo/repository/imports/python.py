"""Which file a Python import loads."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

from longrepo.repository.imports.packages import HandedNames, PassedOn, SharedNames, is_test_path, words_in
from longrepo.repository.imports.paths import (
    PathIndex,
    PathNearness,
    folder_of,
    folders_upward,
    folders_with_inner,
    join_path,
)
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_MODULE_SUFFIXES = ("/__init__.py", ".py", ".pyx", "/__init__.pyi", ".pyi")  # in the interpreter's order, then stubs
_STUB_SUFFIXES = ("/__init__.pyi", ".pyi", "/__init__.py", ".py", ".pyx")
_PACKAGE_FILES = ("__init__.py", "__init__.pyi")
_SOURCE_FOLDERS = ("src", "lib")
_FIXTURE = re.compile(r"^@(?:pytest\.)?fixture\b[^\n]*+\n(?:[@ \t)][^\n]*+\n){0,20}?(?:async )?def (\w+)", re.MULTILINE)


class PythonResolver:
    """Resolves Python's imports: to the module's file, or for `from package import name` the submodule of that name."""

    def __init__(self, paths: PathIndex, statements: Mapping[str, Sequence[Import]]) -> None:
        self._paths = paths
        self._statements = statements
        self._holding = _folders_by_module_name(paths)
        self._packages = {folder_of(path) for path in (*paths.named["__init__.py"], *paths.named["__init__.pyi"])}
        shown = cache(self._shown_packages)
        for path, imports in statements.items():
            for one in imports:
                self._packages |= shown(folder_of(path), one.module, one.level, one.names if one.level else ())
        self._declared = sorted(set(_declared_roots(paths)))
        self._roots = cache(self._find_roots)
        self._handed = cache(self._find_handed)
        self._imported_names = cache(self._find_imported_names)

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        module, endings = (
            one.module.replace(".", "/"),
            _STUB_SUFFIXES if file.path.endswith(".pyi") else _MODULE_SUFFIXES,
        )
        if one.level:
            roots = folders_upward(folder_of(file.path))[one.level - 1 : one.level]
        else:
            roots = self._roots(folder_of(file.path), one.module.partition(".")[0])
        for root in roots:
            if found := self._under(join_path(root, module), one.names, endings):
                yield from found
                return

    def passed_on(self, file: TextFile, target: TextFile) -> Iterator[PassedOn]:
        """Yield where a module has names from that the file imports from it, or uses of a package it imports."""
        words = words_in(file.text) if target.path.endswith(_PACKAGE_FILES) else self._imported_names(file.path)
        handed = self._handed(target.path)
        named = (one._replace(names=(name,)) for name, one in handed.used(words))
        for one in (*named, *handed.whole):
            yield from (PassedOn(found, True) for found in self.of(target, one))

    def _find_imported_names(self, path: str) -> dict[str, None]:
        return dict.fromkeys(name for one in self._statements.get(path, ()) for name in one.names)

    def _find_handed(self, path: str) -> HandedNames:
        by_name: defaultdict[str, list[Import]] = defaultdict(list)
        whole: list[Import] = []
        everything = path.endswith(_PACKAGE_FILES) or " import *" in self._paths.text(path)
        for one in self._statements.get(path, ()):
            if not one.names and everything:
                whole.append(one)
            for name in one.names:
                by_name[name].append(one)
        return HandedNames(by_name, whole)

    def shared(self, file: TextFile) -> Iterator[SharedNames]:
        """Yield what tests get by name alone: the fixtures of each conftest.py beside and above them."""
        if is_test_path(file.path):
            above = (join_path(folder, "conftest.py") for folder in folders_upward(folder_of(file.path)))
            for path in above:
                if path in self._paths.files and path != file.path:
                    fixtures = dict.fromkeys(_FIXTURE.findall(self._paths.text(path)), (path,))
                    yield SharedNames(words_in(file.text), fixtures, partial(PathNearness, (path,)), lambda _: True)

    def _shown_packages(self, folder: str, module: str, level: int, names: tuple[str, ...]) -> frozenset[str]:
        """Return the folders that an import shows to be packages: an empty __init__.py isn't among the files."""
        parts = module.split(".")
        above = folders_upward(folder)
        if level:
            base = join_path(above[min(level, len(above)) - 1], "/".join(parts))
            found = above[:level] if self._under(base, names, _MODULE_SUFFIXES) else []
            return frozenset(one for one in found if one.rpartition("/")[2] not in _SOURCE_FOLDERS)
        if len(parts) > 1:
            for root in self._holders(folder, parts[0]):
                whole = join_path(root, "/".join(parts))
                if whole in self._paths.folders or self._under(whole, (), _MODULE_SUFFIXES):
                    packages = folders_upward(whole)[: len(parts)]
                    # Tests are often started as scripts too.
                    return frozenset(one for one in packages if not one.rpartition("/")[2].startswith("test"))
        return frozenset()

    def _under(self, module: str, names: Sequence[str], endings: Sequence[str]) -> list[str]:
        own = self._paths.first(module + ending for ending in endings)
        submodules = [self._paths.first(join_path(module, name) + ending for ending in endings) for name in names]
        known = [found for found in submodules if found]
        return [own, *known] if own and len(known) < max(len(submodules), 1) else known

    def _find_roots(self, folder: str, name: str) -> list[str]:
        """Return folders that may be on Python's path and hold this name: the file's own and those above it, nearest
        first, each with its `src` and `lib`; those the project declares; any other that holds such a package."""
        roots = [
            *self._holders(folder, name),
            *(root for root in self._declared if root in self._holding.get(name, ())),
        ]
        if name not in sys.stdlib_module_names:
            roots += sorted(root for root in self._holding.get(name, ()) if join_path(root, name) in self._packages)
        # A module of a package reaches its neighbors only with a leading dot.
        return [root for root in dict.fromkeys(roots) if root not in self._packages]

    def _holders(self, folder: str, name: str) -> list[str]:
        holding = self._holding.get(name)
        return [root for root in folders_with_inner(folder, _SOURCE_FOLDERS) if root in holding] if holding else []


def _folders_by_module_name(paths: PathIndex) -> defaultdict[str, set[str]]:
    """Return module or package name -> the folders that hold something of this name."""
    holding: defaultdict[str, set[str]] = defaultdict(set)
    for folder in paths.folders:
        holding[folder.rpartition("/")[2]].add(folder_of(folder))
    for path, file in paths.files.items():
        if file.language == "Python":
            folder, _, name = path.rpartition("/")
            holding[name.partition(".")[0]].add(folder)
    return holding


def _declared_roots(paths: PathIndex) -> Iterator[str]:
    """Yield the source folders that each pyproject.toml declares for setuptools and pytest."""
    for path in paths.named["pyproject.toml"]:
        try:
            tool = tomllib.loads(paths.text(path)).get("tool", {})
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        setuptools = _table(tool, "setuptools")
        where = _table(setuptools, "packages", "find").get("where", [])
        pytest = _table(tool, "pytest", "ini_options")
        named = [*_strings(where), *_table(setuptools, "package-dir").values(), *_strings(pytest.get("pythonpath", []))]
        yield from (join_path(folder_of(path), one.strip("./")) for one in named if isinstance(one, str))


def _table(value: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)]
