"""From an import as written to the file it means. A guess that fits no path in the repository is dropped."""

from __future__ import annotations

import posixpath
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from longrepo.repository.import_statements import Import, imports
from longrepo.repository.model import TextFile

_SCRIPT_SUFFIXES = (".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".vue", ".svelte", ".json")
_COMPILED = {".js": (".ts", ".tsx"), ".jsx": (".tsx",), ".mjs": (".mts",), ".cjs": (".cts",)}
_JVM_SUFFIXES = (".java", ".kt", ".scala")
_GO_MODULE = re.compile(r"^\s*module\s+\"?([^\s\"]+)", re.MULTILINE)
_MOST_SAME_PACKAGE = 8  # an import of a whole package says little about any one of its many files


class Targets:
    """The paths of a repository, indexed by what each language would call them."""

    def __init__(self, files: Sequence[TextFile]) -> None:
        self._paths = frozenset(file.path for file in files)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        self._folders: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted(self._paths):
            self._by_name[posixpath.basename(path)].append(path)
            self._folders[posixpath.dirname(path)].append(path)
        self._go_modules = sorted(
            (
                (match.group(1), posixpath.dirname(file.path))
                for file in files
                if posixpath.basename(file.path) == "go.mod" and (match := _GO_MODULE.search(file.text))
            ),
            key=lambda module: -len(module[0]),
        )
        self._resolvers: dict[str, Callable[[str, Import], Iterator[str]]] = {
            "Python": self._python,
            "Rust": self._rust,
            "Go": self._go,
            "JavaScript": self._script,
            "TypeScript": self._script,
            "Java": self._jvm,
            "Kotlin": self._jvm,
            "Scala": self._jvm,
            "C": self._include,
            "C++": self._include,
            "Objective-C": self._include,
        }

    def of(self, file: TextFile) -> tuple[str, ...]:
        """The paths a file imports, once each, in the order it names them."""
        resolve = self._resolvers.get(file.language)
        if resolve is None:
            return ()
        found = (target for one in imports(file) for target in resolve(file.path, one))
        return tuple(dict.fromkeys(target for target in found if target != file.path))

    def _python(self, path: str, one: Import) -> Iterator[str]:
        parts = [part for part in one.module.split(".") if part]
        if one.level:
            base = PurePosixPath(path).parent.parts
            if one.level - 1 > len(base):
                return
            roots = ["/".join(base[: len(base) - (one.level - 1)])]
        else:
            roots = self._python_roots(path, parts[0] if parts else "")
        for root in roots:
            found = list(self._python_under(posixpath.join(root, *parts), one))
            if found:
                yield from found
                return

    def _python_under(self, module: str, one: Import) -> Iterator[str]:
        """A module's own file, or for `from package import name` the submodule of that name."""
        own = self._first(f"{module}.py", f"{module}.pyi", f"{module}.pyx", f"{module}/__init__.py")
        submodules = [self._first(f"{module}/{name}.py", f"{module}/{name}/__init__.py") for name in one.names]
        known = [found for found in submodules if found]
        if own and len(known) < max(len(submodules), 1):
            yield own
        yield from known

    def _python_roots(self, path: str, package: str) -> list[str]:
        """Folders that may be on Python's path: the file's own and those above it, the nearest first, each with its
        `src` and `lib`, then any other folder that holds a package or module of this name."""
        above = ["" if str(folder) == "." else str(folder) for folder in PurePosixPath(path).parents]
        roots = [posixpath.join(folder, inner).rstrip("/") for folder in above for inner in ("", "src", "lib")]
        if package not in sys.stdlib_module_names:
            packages = [posixpath.dirname(one) for one in self._by_name["__init__.py"]]
            roots += sorted(posixpath.dirname(one) for one in packages if posixpath.basename(one) == package)
            roots += sorted(posixpath.dirname(one) for one in self._by_name[f"{package}.py"])
        # A module of a package sees its neighbours with a dot alone.
        return [root for root in roots if posixpath.join(root, "__init__.py") not in self._paths]

    def _rust(self, path: str, one: Import) -> Iterator[str]:
        folder, name = posixpath.split(path)
        own = folder if name in ("mod.rs", "lib.rs", "main.rs") else posixpath.join(folder, name.removesuffix(".rs"))
        if one.module == "mod":
            yield from self._found(f"{own}/{one.names[0]}.rs", f"{own}/{one.names[0]}/mod.rs")
            return
        root, parts = self._crate_root(path), one.module.split("::")
        if parts[0] == "crate":
            base = root
        elif parts[0] == "self":
            base = own
        elif parts[0] == "super":
            base = own
            while parts and parts[0] == "super":
                base, parts = posixpath.dirname(base), parts[1:]
            parts = ["super", *parts]
        elif root_of := self._other_crate(parts[0]):
            base = root_of
        else:
            base, parts = own, ["self", *parts]  # a child module, in the style since 2018
        for end in range(len(parts), 1, -1):  # the last parts may name items in a file
            module = posixpath.join(base, *parts[1:end])
            if found := self._first(f"{module}.rs", f"{module}/mod.rs"):
                yield found
                return
        yield from self._found(f"{base}.rs", f"{base}/mod.rs", f"{base}/lib.rs", f"{base}/main.rs")

    def _crate_root(self, path: str) -> str:
        for folder in map(str, PurePosixPath(path).parents):
            here = "" if folder == "." else folder
            if any(posixpath.join(here, name) in self._paths for name in ("lib.rs", "main.rs")):
                return here
        return posixpath.dirname(path)

    def _other_crate(self, crate: str) -> str | None:
        """The source folder of a crate of this workspace, named like the folder it lies in."""
        for library in self._by_name["lib.rs"]:
            source = posixpath.dirname(library)
            folder = posixpath.dirname(source) if posixpath.basename(source) == "src" else source
            if posixpath.basename(folder).replace("-", "_") == crate:
                return source
        return None

    def _go(self, path: str, one: Import) -> Iterator[str]:
        for module, folder in self._go_modules:
            if one.module == module or one.module.startswith(module + "/"):
                package = posixpath.join(folder, one.module[len(module) :].lstrip("/")).rstrip("/")
                inside = [p for p in self._folders[package] if p.endswith(".go") and not p.endswith("_test.go")]
                yield from inside[:_MOST_SAME_PACKAGE]
                return

    def _script(self, path: str, one: Import) -> Iterator[str]:
        if not one.module.startswith("."):
            return
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), one.module))
        stem, suffix = posixpath.splitext(target)
        tries = [target, *(stem + other for other in _COMPILED.get(suffix, ()))]  # TypeScript imports its output's name
        tries += [target + end for end in _SCRIPT_SUFFIXES] + [f"{target}/index{end}" for end in _SCRIPT_SUFFIXES]
        yield from self._found(*tries)

    def _jvm(self, path: str, one: Import) -> Iterator[str]:
        parts = one.module.split(".")
        if one.module == "package":
            return
        if parts[-1] in ("*", "_"):
            yield from self._package(parts[:-1])
            return
        for end in range(len(parts), 0, -1):  # a.b.Class.member means a/b/Class.java
            name = parts[end - 1]
            for suffix in _JVM_SUFFIXES:
                tail = "/".join(parts[:end]) + suffix
                found = [p for p in self._by_name[name + suffix] if p == tail or p.endswith("/" + tail)]
                if found:
                    yield found[0]
                    return

    def _package(self, parts: list[str]) -> Iterator[str]:
        tail = "/".join(parts)
        for folder in sorted(self._folders):
            if folder == tail or folder.endswith("/" + tail):
                inside = [path for path in self._folders[folder] if path.endswith(_JVM_SUFFIXES)]
                yield from inside[:_MOST_SAME_PACKAGE]

    def _include(self, path: str, one: Import) -> Iterator[str]:
        """Next to the file, then in an `include` or `src` above it, then the only file that ends like this."""
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), one.module))
        above = ["" if str(folder) == "." else str(folder) for folder in PurePosixPath(path).parents]
        tries = [beside, *(posixpath.join(f, i, one.module) for f in above for i in ("", "include", "src"))]
        if found := self._first(*tries):
            yield found
            return
        tail = one.module.lstrip("./")
        ends = [p for p in self._by_name[posixpath.basename(tail)] if p == tail or p.endswith("/" + tail)]
        if len(ends) == 1:
            yield ends[0]

    def _first(self, *candidates: str) -> str | None:
        return next((path for path in candidates if path in self._paths), None)

    def _found(self, *candidates: str) -> Iterator[str]:
        if found := self._first(*candidates):
            yield found
