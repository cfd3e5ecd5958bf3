"""Which files of a tree a file imports, by each language's own rules applied to git's paths, for checking answers."""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from longrepo.data.questions.python_ast import PythonFile

_SCRIPT_ENDS = (".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".vue", ".svelte", ".json")
_SCRIPT_IMPORT = re.compile(
    r"(?:^|[\s;{(])(?:import|export)\b[^'\";]*?\bfrom\s*(['\"])([^'\"]+)\1|\bimport\s*(['\"])([^'\"]+)\3"
    r"|\b(?:require|import)\s*\(\s*(['\"`])([^'\"`]+)\5"
)
_COMMENT = re.compile(r"(?<![:'\"`\\])//[^\n]*|/\*.*?\*/", re.DOTALL)
_JAVA_IMPORT = re.compile(r"^\s*import\s+(?:static\s+)?([\w.]+)(\.\*)?\s*;", re.MULTILINE)
_INCLUDE = re.compile(r"^\s*#\s*include\s+([<\"])([^>\"]+)[>\"]", re.MULTILINE)


class Resolver:
    """The paths of a tree, and what each file means by its imports."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = frozenset(paths)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted(self._paths):
            self._by_name[posixpath.basename(path)].append(path)
        self._folders = frozenset(str(one) for path in self._paths for one in PurePosixPath(path).parents)

    def imports(self, path: str, text: str, python: PythonFile | None) -> set[str] | None:
        """The files of the tree that a file imports; None where its language isn't read here."""
        end = path.rpartition(".")[2]
        if python is not None:
            found = self._python(path, python) if python.parsed else None
        elif end in ("js", "jsx", "mjs", "cjs", "ts", "tsx", "mts", "cts", "vue", "svelte"):
            found = self._script(path, _COMMENT.sub(" ", text))
        elif end == "java":
            found = self._java(_COMMENT.sub(" ", text))
        elif end in ("c", "h", "cc", "cpp", "cxx", "hh", "hpp", "hxx", "m", "mm", "inl", "ipp"):
            found = self._c(path, _COMMENT.sub(" ", text))
        else:
            return None
        return None if found is None else set(found) - {path}

    def _python(self, path: str, file: PythonFile) -> Iterator[str]:
        for node in file.imports:
            if isinstance(node, ast.Import):
                for one in node.names:
                    yield from self._module(self._root(path, one.name), one.name.split("."), [])
                continue
            parts = [part for part in (node.module or "").split(".") if part]
            names = [one.name for one in node.names]
            if node.level:
                above = PurePosixPath(path).parents
                root = str(above[node.level - 1]) if node.level <= len(above) else None
                yield from self._module("" if root == "." else root, parts, names)
            else:
                yield from self._module(self._root(path, node.module or ""), parts, names)

    def _root(self, path: str, module: str) -> str | None:
        """The folder on Python's path under which a module lies: near the file first, else the only other one."""
        parts = module.split(".")
        tail = "/".join(parts)
        above = ["" if str(one) == "." else str(one) for one in PurePosixPath(path).parents]
        for root in (posixpath.join(one, end).rstrip("/") for one in above for end in ("", "src", "lib")):
            whole = posixpath.join(root, tail)  # of a namespace, where no folder needs an __init__.py
            found = self._own(posixpath.join(root, parts[0])) or self._own(whole) or whole in self._folders
            if found and not self._is_package(root):
                return root
        if parts[0] in sys.stdlib_module_names:
            return None
        ends = (f"{tail}.py", f"{tail}/__init__.py")
        names = (f"{parts[-1]}.py", "__init__.py")
        roots = {
            one[: -len(end)].rstrip("/")
            for end, name in zip(ends, names, strict=True)
            for one in self._by_name[name]
            if one.endswith(f"/{end}") and not self._is_package(one[: -len(end)].rstrip("/"))
        }
        return roots.pop() if len(roots) == 1 else None

    def _is_package(self, folder: str) -> bool:
        return posixpath.join(folder, "__init__.py") in self._paths

    def _own(self, module: str) -> str | None:
        """A module's file, or the folder's where it is a package or, without `__init__.py`, a namespace."""
        for one in (f"{module}.py", f"{module}/__init__.py", f"{module}.pyi", f"{module}.pyx"):
            if one in self._paths:
                return one
        return None

    def _module(self, root: str | None, parts: list[str], names: list[str]) -> Iterator[str]:
        if root is None:
            return
        module = posixpath.join(root, *parts)
        below = [self._own(posixpath.join(module, name)) for name in names]
        yield from (one for one in below if one)
        own = self._own(module) if parts else self._own_init(module)
        if own and not (below and all(below)):
            yield own

    def _own_init(self, folder: str) -> str | None:
        init = posixpath.join(folder, "__init__.py")
        return init if init in self._paths else None

    def _script(self, path: str, text: str) -> Iterator[str]:
        for match in _SCRIPT_IMPORT.finditer(text):
            module = match.group(2) or match.group(4) or match.group(6)
            if not module.startswith("."):
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), module))
            stem, end = posixpath.splitext(target)
            tries = [target, *(target + one for one in _SCRIPT_ENDS), *(f"{target}/index{one}" for one in _SCRIPT_ENDS)]
            if end in (".js", ".jsx", ".mjs", ".cjs"):
                tries[1:1] = [stem + end.replace("js", "ts"), f"{stem}.tsx"]
            yield from [one for one in tries if one in self._paths][:1]

    def _java(self, text: str) -> Iterator[str]:
        for match in _JAVA_IMPORT.finditer(text):
            parts = match.group(1).split(".")
            for end in range(len(parts), 0, -1):
                tail = "/".join(parts[:end]) + ".java"
                found = [one for one in self._by_name[parts[end - 1] + ".java"] if f"/{one}".endswith(f"/{tail}")]
                if found:
                    yield found[0]
                    break

    def _c(self, path: str, text: str) -> Iterator[str]:
        for _, name in _INCLUDE.findall(text):
            beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            tail = posixpath.normpath(name).lstrip("./")
            found = [one for one in self._by_name[posixpath.basename(name)] if f"/{one}".endswith(f"/{tail}")]
            if beside in self._paths:
                yield beside
            elif len(found) == 1:
                yield found[0]
