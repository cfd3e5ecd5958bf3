"""Import resolvers for Go, the JVM languages (Java, Kotlin, Scala) and the C family.

A Go import means those of the package's files that define what the importing file uses; a JVM import the files that
declare the names in it; an `#include` the file that it reads.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise

from longrepo.repository.imports.packages import SharedNames, sees_across, strip_non_code
from longrepo.repository.imports.paths import (
    PathIndex,
    PathNearness,
    folder_of,
    folders_with_inner,
    join_path,
    nearest_paths,
    normalize_path,
)
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_GO_MODULE = re.compile(r"^[ \t]*module[ \t]+\"?([^\s\"]+)", re.MULTILINE)
_WORD = re.compile(r"\w+")
_NAME_PART = re.compile(r"[\w.]")
_GO_PACKAGE = re.compile(r"^package\s+(\w+)", re.MULTILINE)
_GO_DEFINITION = re.compile(r"^(?:func|type|var|const)\s+(\w+(?:\s*,\s*\w+)*)", re.MULTILINE)
_GO_GROUP = re.compile(r"^(?:type|var|const)[ \t]*\(((?:[^\n]*+\n(?!\))(?=[ \t\n]))*+[^\n]*)\n\)", re.MULTILINE)
_GO_GROUP_MEMBER = re.compile(r"^(?:\t| {1,8})(\w+(?:\s*,\s*\w+)*)", re.MULTILINE)  # gofmt's indentation, once


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
        folder, own = folder_of(file.path), self._clause(file.path)
        tests = file.path.endswith("_test.go")

        def sees(other: str) -> bool:
            return self._clause(other) == own and (tests or not other.endswith("_test.go"))

        yield SharedNames(self._definitions(folder)[1], partial(self._members, folder), sees)

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


_JVM_PACKAGE = re.compile(r"^[ \t]*package[ \t]+([\w.`]+)", re.MULTILINE)
_JVM_KEYWORDS = "class|interface|object|trait|enum|typealias|type|given|fun|val|var|def"
_JVM_DECLARATION = re.compile(  # at the start of a line, where these languages put nothing else
    rf"^(?:(?!(?:{_JVM_KEYWORDS})\b)[\w@.:]+(?:\([^)\n]*+\))?[ \t]+)*+"
    r"(?:(?:(?:enum|fun)[ \t]+)?(?:class|interface|object|trait|enum|typealias|type|given)[ \t]+`?(\w+)|"
    r"(?:fun|val|var|def)[ \t]+(?:<[^>\n]*>[ \t]*)?(?:[\w<>?*,. ]{1,120}\.)?`?(\w+))",
    re.MULTILINE,
)
_KOTLIN_FACADE = re.compile(r"^@file:JvmName\(\"(\w+)\"\)", re.MULTILINE)
_MAX_PACKAGE_DEPTH = 30
_JVM_SUFFIXES = (".java", ".kt", ".kts", ".scala")


class JvmResolver:
    """Resolves JVM imports. A whole package means those of its files that declare a name the importing file uses."""

    def __init__(self, paths: PathIndex) -> None:
        self._paths = paths
        self._declared: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)  # package -> name -> paths
        self._inside: defaultdict[str, list[str]] = defaultdict(list)  # package -> paths
        self._members = cache(lambda package: PathNearness(self._inside[package]))
        for path, file in paths.files.items():
            if path.endswith(_JVM_SUFFIXES):
                package = ".".join(_package_clauses(file))
                self._inside[package].append(path)
                for name in _declarations(file):
                    self._declared[package].setdefault(name, []).append(path)
        self._words = cache(lambda path: frozenset(_WORD.findall(paths.text(path))))

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        if one.module == "package":
            return
        parts = one.module.replace("`", "").split(".")[:_MAX_PACKAGE_DEPTH]
        if parts[-1] in ("*", "_"):
            parts.pop()
            if declared := self._declared.get(".".join(parts)):
                for name in sorted(declared.keys() & self._words(file.path)):
                    yield from self._meant(file, declared[name])
                return
        for end in range(len(parts) - 1, -1, -1):  # the last parts may name members
            found = self._declared.get(".".join(parts[:end]), {}).get(parts[end])
            if found:
                yield from self._meant(file, found)
                return

    def shared(self, file: TextFile) -> Iterator[SharedNames]:
        """Yield the package of a file, and those around it that have a clause of their own (Scala)."""
        clauses, sees = _package_clauses(file), sees_across(file.path)
        for end in range(max(len(clauses), 1), 0, -1):
            package = ".".join(clauses[:end])
            yield SharedNames(self._declared.get(package, {}), partial(self._members, package), sees)

    def _meant(self, file: TextFile, found: list[str]) -> list[str]:
        """A class has one file; Kotlin's functions of one name, and `expect` and `actual`, may have several."""
        return found if file.language == "Kotlin" and found[0].endswith(".kt") else nearest_paths(file.path, found)[:1]


def _package_clauses(file: TextFile) -> list[str]:
    found = _JVM_PACKAGE.findall(file.text)[: None if file.language == "Scala" else 1]
    return [one.replace("`", "") for one in found]


def _declarations(file: TextFile) -> set[str]:
    stem = file.path.rpartition("/")[2].rpartition(".")[0]
    if file.language == "Java":
        return {stem}
    names = {one or two for one, two in _JVM_DECLARATION.findall(file.text)}
    if file.language == "Kotlin":  # Java's name for the class that holds a file's functions
        names.update(_KOTLIN_FACADE.findall(file.text) or [f"{stem}Kt"])
    return names


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
