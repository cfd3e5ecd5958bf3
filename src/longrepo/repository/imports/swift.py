"""Which files a Swift `import` means: those of the module that declare what the importing file uses."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, partial

from longrepo.repository.imports.packages import SharedNames, identifiers, strip_non_code
from longrepo.repository.imports.paths import PathIndex, PathNearness, folder_of, join_path, normalize_path
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_DECLARATION = re.compile(
    r"^(?:(?:@\w++(?:\([^)\n]*+\))?|public|open|internal|package|fileprivate|private|final|indirect|nonisolated|prefix|postfix|"
    r"infix|distributed)[ \t]++)*+(?:class|struct|enum|protocol|actor|typealias|func|let|var|macro)[ \t]++`?(\w+)",
    re.MULTILINE,
)
_TARGET_NAME = re.compile(r"\s*+\(\s*+name:\s*+\"([^\"\n]+)\"")
_TARGET_PATH = re.compile(r"\bpath:\s*+\"([^\"\n]*)\"")
_SOURCE_FOLDERS = ("Sources", "Source", "src", "srcs", "Tests")


class ModuleResolver:
    """Resolves Swift's imports. A module is a target of a Package.swift, a folder below `Sources` or `Tests`, or else a
    folder at the repository's top."""

    def __init__(self, paths: PathIndex) -> None:
        self._paths = paths
        self._targets = dict(_package_targets(paths))  # folder -> module
        self._module = cache(self._find_module)
        self._declared: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self._inside: defaultdict[str, list[str]] = defaultdict(list)  # module -> paths
        self._members = cache(lambda module: PathNearness(self._inside[module]))
        for path in paths.files:
            if path.endswith(".swift"):
                module = self._module(folder_of(path))
                self._inside[module].append(path)
                for name in dict.fromkeys(_DECLARATION.findall(paths.text(path))):
                    self._declared[module][name].append(path)

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        module, _, name = one.module.partition(".")
        if module in self._inside:
            declared = self._declared[module]
            for word in (name.rpartition(".")[2],) if name else self._named(file):
                yield from declared.get(word, ())

    def shared(self, file: TextFile) -> Iterator[SharedNames]:
        """Yield the module of a file."""
        module = self._module(folder_of(file.path))
        yield SharedNames(self._named(file), self._declared[module], partial(self._members, module), lambda _: True)

    @staticmethod
    def _named(file: TextFile) -> dict[str, None]:
        return identifiers(strip_non_code(file.text), False)

    def _find_module(self, folder: str) -> str:
        parts = folder.split("/")
        for end in range(len(parts), 0, -1):
            if named := self._targets.get("/".join(parts[:end])):
                return named
        for at, part in enumerate(parts[:-1]):
            if part in _SOURCE_FOLDERS:
                return parts[at + 1]
        return parts[0]


def _package_targets(paths: PathIndex) -> Iterator[tuple[str, str]]:
    """Yield (folder, name) of the targets whose folder a Package.swift names."""
    for path in paths.named["Package.swift"]:
        for target in re.split(r"arget\b", paths.text(path))[1:]:  # .target, .testTarget, .executableTarget
            name, place = _TARGET_NAME.match(target), _TARGET_PATH.search(target)
            if name and place:
                yield normalize_path(join_path(folder_of(path), place.group(1))), name.group(1)
