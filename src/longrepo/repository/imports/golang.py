"""Which files a Go import means: those of the package's files that define what the importing file uses of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, lru_cache, partial
from itertools import pairwise

from longrepo.repository.imports.packages import SharedNames, identifiers, strip_non_code
from longrepo.repository.imports.paths import PathIndex, PathNearness, folder_of, join_path
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_GO_MODULE = re.compile(r"^[ \t]*module[ \t]+\"?([^\s\"]+)", re.MULTILINE)
_WORD = re.compile(r"\w+")
_NAME_PART = re.compile(r"[\w.]")
_GO_KEYWORDS = frozenset(
    (
        *("break", "case", "chan", "const", "continue", "default", "defer", "else", "fallthrough", "for", "func", "go"),
        *("goto", "if", "import", "interface", "map", "package", "range", "return", "select", "struct", "switch"),
        *("type", "var"),
    )
)
_GO_NAME = rf"(?<![\w.])(?!(?:{'|'.join(sorted(_GO_KEYWORDS))})\b)[^\W\d]\w*+"
_GO_TYPED = re.compile(rf"({_GO_NAME})[ \t]++(?=\*?[^\W\d]|\[\]|\[\w|\.\.\.|<-chan\b)")  # `name Type`
_GO_TYPED_OR_KEY = re.compile(rf"{_GO_TYPED.pattern}|(?<!case )({_GO_NAME}):(?!=)")
_GO_LOCAL = re.compile(rf"({_GO_NAME})(?=(?:[ \t]*+,[ \t]*+\w++){{0,8}}+[ \t]*+:=)")  # `name := …`
_GO_SHADOWED = re.compile(
    rf"{_GO_NAME}[ \t]++[*\[\]]*+([^\W\d]\w*+)(?!\.)|:=[ \t]*+(\w++)\("
)  # `name name`, `name := name()`
_GO_PACKAGE = re.compile(r"^package\s+(\w+)", re.MULTILINE)
_GO_DEFINITION = re.compile(r"^(?:func|type|var|const)\s+(\w+(?:\s*,\s*\w+)*)", re.MULTILINE)
_GO_GROUP = re.compile(r"^(?:type|var|const)[ \t]*\(((?:[^\n]*+\n(?!\))(?=[ \t\n]))*+[^\n]*)\n\)", re.MULTILINE)
_GO_GROUP_MEMBER = re.compile(r"^(?:\t| {1,8})(\w+(?:\s*,\s*\w+)*)", re.MULTILINE)  # gofmt's indentation, once

_KEPT_TEXTS = 64


class GoResolver:
    """Resolves Go's imports. A blank import means the files with an `init` function."""

    def __init__(self, paths: PathIndex) -> None:
        self._paths = paths
        modules = ((_GO_MODULE.search(paths.text(path)), folder_of(path)) for path in paths.named["go.mod"])
        found = [(match.group(1), folder) for match, folder in modules if match]
        self._modules = sorted(found, key=lambda module: -len(module[0]))
        self._definitions = cache(self._find_definitions)
        self._clause = cache(self._find_clause)
        self._members = cache(
            lambda folder: PathNearness(path for path in paths.inside[folder] if path.endswith(".go"))
        )
        self._code = cache(lambda path: strip_non_code(paths.text(path)))  # without comments and strings

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        folder = self._folder(one.module)
        if folder is None or folder not in self._paths.inside:
            return
        package, defined = self._definitions(folder)
        given = one.names[0] if one.names else package
        own_tests = file.path.endswith("_test.go") and folder_of(file.path) == folder
        paths = {path for name in self._used(file.path, given) for path in defined.get(name, ())}
        yield from sorted(path for path in paths if own_tests or not path.endswith("_test.go"))

    def shared(self, file: TextFile) -> Iterator[SharedNames]:
        """Yield the package of a file: those of its folder's files that have the same package clause."""
        folder, clause = folder_of(file.path), _GO_PACKAGE.search(strip_non_code(file.text))
        own = clause.group(1) if clause else ""
        tests = file.path.endswith("_test.go")

        def sees(other: str) -> bool:
            return self._clause(other) == own and (tests or not other.endswith("_test.go"))

        yield SharedNames(_free_names(file.text), self._definitions(folder)[1], partial(self._members, folder), sees)

    def _find_clause(self, path: str) -> str:
        match = _GO_PACKAGE.search(self._code(path)) if path.endswith(".go") else None
        return match.group(1) if match else ""

    def _used(self, path: str, package: str) -> set[str]:
        """Return the names a file uses of a package, by the name that it gives the package."""
        if package == "_":
            return {"init"}
        if package == ".":
            return set(_WORD.findall(self._code(path)))
        # Many times as fast as a pattern that begins with a word boundary.
        pairs = pairwise(self._code(path).split(f"{package}."))
        return {
            match[0] for before, after in pairs if not _NAME_PART.match(before[-1:]) and (match := _WORD.match(after))
        }

    def _folder(self, imported: str) -> str | None:
        for module, folder in self._modules:
            if imported == module or imported.startswith(f"{module}/"):
                return join_path(folder, imported[len(module) + 1 :])
        return None

    def _find_definitions(self, folder: str) -> tuple[str, dict[str, list[str]]]:
        """Return a package's name, and for each identifier the files that define it."""
        package, defined = "", defaultdict[str, list[str]](list)
        for path in self._paths.inside[folder]:
            if not path.endswith(".go"):
                continue
            code = self._code(path)
            if not path.endswith("_test.go"):
                package = package or self._clause(path)
            found = _GO_DEFINITION.findall(code)
            found += [names for group in _GO_GROUP.findall(code) for names in _GO_GROUP_MEMBER.findall(group)]
            for name in {name.strip() for names in found for name in names.split(",")}:
                defined[name].append(path)
        return package, defined


@lru_cache(maxsize=_KEPT_TEXTS)
def _free_names(text: str) -> dict[str, None]:
    """Return the names of a text that may be its package's: not those of fields, keys and local variables."""
    code = strip_non_code(text)
    typed = {name for name in _GO_TYPED.findall(code) if name[:1].islower()} - _GO_KEYWORDS
    shadowed = {one or two for one, two in _GO_SHADOWED.findall(code)}
    local = typed.union(_GO_LOCAL.findall(code)).difference(shadowed) | {"_"}
    found = identifiers(_GO_TYPED_OR_KEY.sub("", code), False)
    return {name: None for name in found if name not in local}
