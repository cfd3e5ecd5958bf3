"""Which files a Java, Kotlin or Scala import means: those that declare what it names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from longrepo.repository.imports.paths import Paths, nearest
from longrepo.repository.imports.statements import Import
from longrepo.repository.model import TextFile

_PACKAGE = re.compile(r"^[ \t]*package[ \t]+([\w.`]+)", re.MULTILINE)
_KEYWORDS = "class|interface|object|trait|enum|typealias|type|given|fun|val|var|def"
_DECLARED = re.compile(  # at the margin, where neither language puts anything else
    rf"^(?:(?!(?:{_KEYWORDS})\b)[\w@.:]+(?:\([^)\n]*+\))?[ \t]+)*+"
    r"(?:(?:(?:enum|fun)[ \t]+)?(?:class|interface|object|trait|enum|typealias|type|given)[ \t]+`?(\w+)|"
    r"(?:fun|val|var|def)[ \t]+(?:<[^>\n]*>[ \t]*)?(?:[\w<>?*,. ]{1,120}\.)?`?(\w+))",
    re.MULTILINE,
)
_FACADE = re.compile(r"^@file:JvmName\(\"(\w+)\"\)", re.MULTILINE)
_WORD = re.compile(r"\w+")
_DEEPEST = 30
_SUFFIXES = (".java", ".kt", ".kts", ".scala")


class JvmTargets:
    """`of` a statement: of a whole package, the files that declare a name which the importing file uses."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._declared: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)  # package -> name -> paths
        for path, file in paths.files.items():
            if path.endswith(_SUFFIXES):
                packages = _PACKAGE.findall(file.text)[: None if file.language == "Scala" else 1]
                package = ".".join(packages).replace("`", "")
                for name in _declarations(file):
                    self._declared[package].setdefault(name, []).append(path)
        self._words = cache(lambda path: frozenset(_WORD.findall(paths.text(path))))

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        if one.module == "package":
            return
        parts = one.module.replace("`", "").split(".")[:_DEEPEST]
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

    def _meant(self, file: TextFile, found: list[str]) -> list[str]:
        """A class has one file; Kotlin's functions of one name, and what it expects and provides, may have several."""
        return found if file.language == "Kotlin" and found[0].endswith(".kt") else nearest(file.path, found)[:1]


def _declarations(file: TextFile) -> set[str]:
    stem = file.path.rpartition("/")[2].rpartition(".")[0]
    if file.language == "Java":
        return {stem}
    names = {one or two for one, two in _DECLARED.findall(file.text)}
    if file.language == "Kotlin":  # what Java calls the class that holds a file's functions
        names.update(_FACADE.findall(file.text) or [f"{stem}Kt"])
    return names
