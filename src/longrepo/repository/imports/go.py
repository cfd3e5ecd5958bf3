"""Which files a Go import means: of the package's files, those that define what the importing file takes from it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from longrepo.repository.imports.paths import Paths, folder_of, join
from longrepo.repository.imports.statements import Import
from longrepo.repository.model import TextFile

_MODULE = re.compile(r"^[ \t]*module[ \t]+\"?([^\s\"]+)", re.MULTILINE)
_NO_CODE = re.compile(  # each goes on to the end where its own is missing, or broken code takes time squared
    r"""//[^\n]*+|/\*(?:.*?\*/|.*+)|`[^`]*+`?|"(?:[^"\\\n]++|\\[^\n])*+"?|'(?:[^'\\\n]++|\\[^\n])*+'?""", re.DOTALL
)
_WORD = re.compile(r"\w+")
_INSIDE = re.compile(r"[\w.]")
_PACKAGE = re.compile(r"^package\s+(\w+)", re.MULTILINE)
_DEFINED = re.compile(r"^(?:func|type|var|const)\s+(\w+(?:\s*,\s*\w+)*)", re.MULTILINE)
_GROUP = re.compile(r"^(?:type|var|const)[ \t]*\(((?:[^\n]*+\n(?!\))(?=[ \t\n]))*+[^\n]*)\n\)", re.MULTILINE)
_GROUPED = re.compile(r"^(?:\t| {1,8})(\w+(?:\s*,\s*\w+)*)", re.MULTILINE)  # gofmt's indentation, once


class GoTargets:
    """`of` a statement: a blank import means the files with an `init` function."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        modules = ((_MODULE.search(paths.text(path)), folder_of(path)) for path in paths.named["go.mod"])
        found = [(match.group(1), folder) for match, folder in modules if match]
        self._modules = sorted(found, key=lambda module: -len(module[0]))
        self._definitions = cache(self._find_definitions)
        self._code = cache(lambda path: _NO_CODE.sub('""', paths.text(path)))  # without comments and strings

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        folder = self._folder(one.module)
        if folder is None or folder not in self._paths.inside:
            return
        package, defined = self._definitions(folder)
        given = one.names[0] if one.names else package
        own_tests = file.path.endswith("_test.go") and folder_of(file.path) == folder
        paths = {path for name in self._used(file.path, given) for path in defined.get(name, ())}
        yield from sorted(path for path in paths if own_tests or not path.endswith("_test.go"))

    def _used(self, path: str, package: str) -> set[str]:
        """What a file takes from a package by the name that it gives it."""
        if package == "_":
            return {"init"}
        if package == ".":
            return set(_WORD.findall(self._code(path)))
        # Many times as fast as a pattern that begins with a name's edge.
        pairs = pairwise(self._code(path).split(f"{package}."))
        return {match[0] for before, after in pairs if not _INSIDE.match(before[-1:]) and (match := _WORD.match(after))}

    def _folder(self, imported: str) -> str | None:
        for module, folder in self._modules:
            if imported == module or imported.startswith(f"{module}/"):
                return join(folder, imported[len(module) + 1 :])
        return None

    def _find_definitions(self, folder: str) -> tuple[str, dict[str, list[str]]]:
        """A package's name, and which of its files define each identifier."""
        package, defined = "", defaultdict[str, list[str]](list)
        for path in self._paths.inside[folder]:
            if not path.endswith(".go"):
                continue
            code = self._code(path)
            if not path.endswith("_test.go") and not package and (match := _PACKAGE.search(code)):
                package = match.group(1)
            found = _DEFINED.findall(code)
            found += [names for group in _GROUP.findall(code) for names in _GROUPED.findall(group)]
            for name in {name.strip() for names in found for name in names.split(",")}:
                defined[name].append(path)
        return package, defined
