"""Which files a C# `using` means: those of the namespace that declare a type or an extension method in use."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, lru_cache, partial

from longrepo.repository.imports.packages import SharedNames, identifiers, sees_across, strip_non_code
from longrepo.repository.imports.paths import PathIndex, PathNearness, folder_of, folders_upward, nearest_paths
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_NAMESPACE = re.compile(r"^[ \t]*namespace[ \t]+([\w.@]+)", re.MULTILINE)
_TYPE = re.compile(
    r"^([ \t]*)(?:\[[^\]\n]*\][ \t]*)*+(?:(?:public|internal|private|protected|file|new|static|abstract|sealed|partial|"
    r"readonly|ref|unsafe)[ \t]+)*+(?:(?:class|struct|interface|enum|record(?:[ \t]+(?:class|struct))?)[ \t]+(\w+)"
    r"|delegate[ \t]+[^\n(;]{1,200}?(\w+)[ \t]*(?:<[^>\n]*>[ \t]*)?\()",
    re.MULTILINE,
)
_EXTENSION = re.compile(r"\bstatic[ \t]+[^\n(;={]{1,200}?\b(\w+)[ \t]*(?:<[^>\n(]*>)?[ \t]*\(\s*this[ \t]")
_USING = re.compile(r"^[ \t]*(?:global[ \t]+)?using[ \t]+[^\n;()]*;", re.MULTILINE)
_GLOBAL_USING = re.compile(r"^[ \t]*global[ \t]+using[ \t]+(?:static[ \t]+)?([\w.@]+)[ \t]*;", re.MULTILINE)
_PROJECT_USING = re.compile(r"<Using\s+Include=\"([\w.]+)\"")
_PROJECT_SUFFIX = ".csproj"


class NamespaceResolver:
    """Resolves C#'s using directives; a file also sees its namespaces, those around them, and what its project uses in
    all files."""

    def __init__(self, paths: PathIndex) -> None:
        self._paths = paths
        self._declared: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)  # namespace -> name -> paths
        self._inside: defaultdict[str, list[str]] = defaultdict(list)  # namespace -> paths
        self._of = dict[str, list[str]]()  # path -> its namespaces
        self._projects: dict[str, list[str]] = {}  # folder of a project -> namespaces that all its files use
        self._members = cache(lambda namespace: PathNearness(self._inside[namespace]))
        self._project_of = cache(self._find_project)
        for path in paths.files:
            if path.endswith(_PROJECT_SUFFIX):
                self._projects[folder_of(path)] = _PROJECT_USING.findall(paths.text(path))
        for path in paths.files:
            if path.endswith(".cs"):
                self._add(path)

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        if one.module not in self._inside:  # a type: `using static` or an alias
            namespace, _, name = one.module.rpartition(".")
            yield from nearest_paths(file.path, self._declared.get(namespace, {}).get(name, ()))
            return
        declared, sees = self._declared[one.module], sees_across(file.path)
        for name in _named(file.text):
            yield from nearest_paths(file.path, [other for other in declared.get(name, ()) if sees(other)])

    def shared(self, file: TextFile) -> Iterator[SharedNames]:
        """Yield the namespaces of a file and those around them, then those of its project's global usings."""
        parts = [one.split(".") for one in self._of.get(file.path) or _NAMESPACE.findall(file.text) if one]
        own = [".".join(one[:end]) for one in parts for end in range(len(one), 0, -1)]
        sees = sees_across(file.path)
        for namespace in dict.fromkeys((*own, "", *self._projects.get(self._project_of(folder_of(file.path)), ()))):
            if namespace in self._inside:
                declared = self._declared[namespace]
                yield SharedNames(_named(file.text), declared, partial(self._members, namespace), sees)

    def _add(self, path: str) -> None:
        code = strip_non_code(self._paths.text(path))
        found = [(match.start(), match.group(1)) for match in _NAMESPACE.finditer(code)]
        starts = [start for start, _ in found]
        self._of[path] = list(dict.fromkeys(namespace for _, namespace in found)) or [""]
        for namespace in self._of[path]:
            self._inside[namespace].append(path)
        types = [
            (len(match.group(1)), match.start(), match.group(2) or match.group(3)) for match in _TYPE.finditer(code)
        ]
        outermost = min((indent for indent, _, _ in types), default=0)
        named = [(start, name) for indent, start, name in types if indent == outermost]  # not the nested ones
        named += [(match.start(), match.group(1)) for match in _EXTENSION.finditer(code)]
        for start, name in named:
            at = bisect_right(starts, start) - 1
            of_name = self._declared[found[at][1] if at >= 0 else ""].setdefault(name, [])
            if path not in of_name[-1:]:
                of_name.append(path)
        if used := _GLOBAL_USING.findall(code):
            self._projects.setdefault(self._project_of(folder_of(path)), []).extend(used)

    def _find_project(self, folder: str) -> str:
        return next((one for one in folders_upward(folder) if one in self._projects), "")


@lru_cache(maxsize=64)
def _named(text: str) -> dict[str, None]:
    """Return the names in a text, those of attributes in full too."""
    words = identifiers(_USING.sub("", strip_non_code(text)), True)
    return dict.fromkeys(name for word in words for name in (word, f"{word}Attribute"))
