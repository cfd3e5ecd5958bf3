"""Which file a Rust `mod` or `use` means: the file of the module whose item is named."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from functools import cache

from longrepo.repository.imports.cargo import Package, packages
from longrepo.repository.imports.paths import Paths, folder_of, join, upward
from longrepo.repository.imports.statements import Import
from longrepo.repository.model import TextFile

_EXTERN_CRATE = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?\s+)?extern\s+crate\s+(\w+)", re.MULTILINE)
_PUBLIC_MODULE = re.compile(r"\bpub\s+mod\s+(?:r#)?(\w+)")
_DEEPEST = 30
_NOWHERE = Package(None, (), False)


class RustTargets:
    """`of` a statement: the file that `mod name;` reads, or that holds the module a `use` takes something from."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._packages = packages(paths)
        self._roots = {root for package in self._packages.values() for root in package.roots}
        self._roots.update(path for name in ("lib.rs", "main.rs") for path in paths.named[name])
        self._root_of = cache(self._find_root)
        self._package_of = cache(self._find_package)
        self._shown_by = cache(lambda crate: frozenset(_PUBLIC_MODULE.findall(paths.text(crate))))

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        if one.module == "mod":
            yield from self._module_file(file.path, one.names)
            return
        head, *rest = [part.strip().removeprefix("r#") for part in one.module.removeprefix("::").split("::")[:_DEEPEST]]
        root, own, package = self._root_of(file.path), self._own_folder(file.path), self._package_of(file.path)
        if head in ("self", "super"):
            base: str | None = own
            for part in (head, *rest):
                base = folder_of(base) if base and part == "super" else base
            rest = [part for part in rest if part != "super"]
        elif head == "crate":
            base = folder_of(root) if root else None
        elif self._child(own, head) and not one.module.startswith("::"):
            base, rest = own, [head, *rest]
        elif crate := package.crates.get(head):
            base, root = folder_of(crate), crate
            # What it does not show as a module is, to other crates, the name of an item.
            rest = rest if rest and rest[0] in self._shown_by(crate) else []
        elif package.names_from_root and root and self._child(folder_of(root), head):
            base, rest = folder_of(root), [head, *rest]
        else:
            return
        found = self._holding(base, rest, root) if base is not None else None
        yield from (found,) if found else ()

    def extern_crates(self, file: TextFile) -> Iterator[str]:
        """The crates of this repository that `extern crate` names."""
        if "extern crate" in file.text:
            crates = self._package_of(file.path).crates
            yield from (crates[name] for name in _EXTERN_CRATE.findall(file.text) if name in crates)

    def _holding(self, base: str, parts: list[str], root: str | None) -> str | None:
        """The file of the innermost module that a path below `base` names: its last parts may name items."""
        for end in range(len(parts), 0, -1):
            if found := self._child(base, "/".join(parts[:end])):
                return found
        if root and base == folder_of(root):
            return root
        return self._child(folder_of(base), posixpath.basename(base))

    def _module_file(self, path: str, names: tuple[str, ...]) -> Iterator[str]:
        name, *given = names
        if given:
            target = posixpath.normpath(join(folder_of(path), given[0]))
            found = target if target in self._paths.files else None
        else:
            found = self._child(self._own_folder(path), name.replace("::", "/").replace("r#", ""))
        yield from (found,) if found else ()

    def _child(self, folder: str, name: str) -> str | None:
        module = join(folder, name)
        return self._paths.first((f"{module}.rs", f"{module}/mod.rs"))

    def _own_folder(self, path: str) -> str:
        """Where the child modules of a file lie."""
        if path in self._roots or path.endswith("/mod.rs"):
            return folder_of(path)
        return path.removesuffix(".rs")

    def _find_root(self, path: str) -> str | None:
        """The root of the crate a file belongs to; of several in one folder, the library's."""
        if path in self._roots:
            return path
        for folder in upward(folder_of(path)):
            usual = self._paths.first((join(folder, "lib.rs"), join(folder, "main.rs")))
            others = [other for other in self._paths.inside.get(folder, ()) if other in self._roots]
            if usual or others:
                return usual or (others[0] if len(others) == 1 else None)
        return None

    def _find_package(self, path: str) -> Package:
        return next((self._packages[one] for one in upward(folder_of(path)) if one in self._packages), _NOWHERE)
