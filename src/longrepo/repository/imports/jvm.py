"""Which files an import of a JVM language (Java, Kotlin, Scala) means: those that declare the names in it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, partial

from longrepo.repository.imports.packages import SharedNames, identifiers, sees_across, strip_non_code
from longrepo.repository.imports.paths import PathIndex, PathNearness, nearest_paths
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_WORD = re.compile(r"\w+")
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
        self._types: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)  # the same, without functions
        self._inside: defaultdict[str, list[str]] = defaultdict(list)  # package -> paths
        self._members = cache(lambda package: PathNearness(self._inside[package]))
        for path, file in paths.files.items():
            if path.endswith(_JVM_SUFFIXES):
                package = ".".join(_package_clauses(file))
                self._inside[package].append(path)
                types, functions = _declarations(file)
                for name in types | functions:
                    self._declared[package].setdefault(name, []).append(path)
                for name in types:
                    self._types[package].setdefault(name, []).append(path)
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
        java = file.language == "Java"  # elsewhere, functions declared outside a class are called like members
        named = identifiers(strip_non_code(file.text), not java)
        for end in range(max(len(clauses), 1), 0, -1):
            package = ".".join(clauses[:end])
            declared = (self._types if java else self._declared).get(package, {})
            yield SharedNames(named, declared, partial(self._members, package), sees)

    def _meant(self, file: TextFile, found: list[str]) -> list[str]:
        """A class has one file; Kotlin's functions of one name, and `expect` and `actual`, may have several."""
        return found if file.language == "Kotlin" and found[0].endswith(".kt") else nearest_paths(file.path, found)[:1]


def _package_clauses(file: TextFile) -> list[str]:
    found = _JVM_PACKAGE.findall(file.text)[: None if file.language == "Scala" else 1]
    return [one.replace("`", "") for one in found]


def _declarations(file: TextFile) -> tuple[set[str], set[str]]:
    """Return the names of the types and of the functions and values that a file declares outside others."""
    stem = file.path.rpartition("/")[2].rpartition(".")[0]
    if file.language == "Java":
        return {stem}, set()
    found = _JVM_DECLARATION.findall(file.text)
    types, functions = {one for one, _ in found if one}, {two for _, two in found if two}
    if file.language == "Kotlin":  # Java's name for the class that holds a file's functions
        types.update(_KOTLIN_FACADE.findall(file.text) or [f"{stem}Kt"])
    return types, functions
