"""Which file a Rust `mod` or `use` means: the file of the module whose item it names.

Cargo.toml files describe the packages: their crate roots, and the names by which they call other crates.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from longrepo.repository.imports.packages import HandedNames, PassedOn, SharedNames, words_in
from longrepo.repository.imports.paths import (
    PathIndex,
    PathNearness,
    folder_of,
    folders_upward,
    join_path,
    normalize_path,
)
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_TARGET_KINDS = {"bin": ("autobins", "src/bin"), "test": ("autotests", "tests")}
_TARGET_KINDS |= {"example": ("autoexamples", "examples"), "bench": ("autobenches", "benches")}
_DEPENDENCY_TABLES = ("dependencies", "dev-dependencies", "build-dependencies")


@dataclass(frozen=True)
class CargoPackage:
    """`roots`: the files that rustc is started on. `crates`: a name that `use` may begin with -> the root of that
    crate in this repository. `names_from_root`: edition 2015, whose paths begin at the crate's root."""

    library: str | None
    roots: tuple[str, ...]
    names_from_root: bool
    crates: dict[str, str] = field(default_factory=dict)


def cargo_packages(paths: PathIndex) -> dict[str, CargoPackage]:
    """Return the packages of a repository by folder."""
    manifests = dict(_manifests(paths))
    found: dict[str, CargoPackage] = {}
    for folder, manifest in manifests.items():
        if "package" in manifest:
            named = _table(manifest, "lib").get("path")
            library = _existing(paths, join_path(folder, named if isinstance(named, str) else "src/lib.rs"))
            edition = _inherited(_table(manifest, "package"), "edition", manifests, folder, "package")
            roots = tuple(dict.fromkeys(_roots(paths, folder, manifest, library)))
            found[folder] = CargoPackage(library, roots, edition in (None, "2015"))
    for folder, package in found.items():
        if package.library:
            package.crates[_library_name(manifests[folder])] = package.library
        for name, dependency in _dependencies(manifests[folder]):
            base = folder
            if _table(dependency).get("workspace"):
                base, dependency = _workspace_dependency(manifests, folder, name)
            path = _table(dependency).get("path")
            target = normalize_path(join_path(base, path)) if isinstance(path, str) else None
            if target in found and (library := found[target].library):
                renamed = "package" in _table(dependency)
                called = name.replace("-", "_") if renamed else _library_name(manifests[target])
                package.crates[called] = library
    return found


def _manifests(paths: PathIndex) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths.named["Cargo.toml"]:
        try:
            yield folder_of(path), tomllib.loads(paths.text(path))
        except (tomllib.TOMLDecodeError, RecursionError):
            continue


def _roots(paths: PathIndex, folder: str, manifest: dict[str, Any], library: str | None) -> Iterator[str]:
    package = _table(manifest, "package")
    build = package.get("build", "build.rs")
    named = [library, join_path(folder, "src/main.rs"), join_path(folder, build) if isinstance(build, str) else None]
    for kind, (automatic, place) in _TARGET_KINDS.items():
        targets = manifest.get(kind)
        for one in targets if isinstance(targets, list) else ():
            name, path = _table(one).get("name"), _table(one).get("path")
            usual = [f"{place}/{name}.rs", f"{place}/{name}/main.rs"]
            named += [join_path(folder, given) for given in ([path] if isinstance(path, str) else usual)]
        if package.get(automatic, True):
            within = join_path(folder, place)
            named += [path for path in paths.inside.get(within, ()) if path.endswith(".rs")]
            named += [path for path in paths.named["main.rs"] if folder_of(folder_of(path)) == within]
    yield from (path for path in named if path in paths.files)


def _library_name(manifest: dict[str, Any]) -> str:
    name = _table(manifest, "lib").get("name") or _table(manifest, "package").get("name")
    return str(name).replace("-", "_")


def _dependencies(manifest: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for table in (manifest, *(_table(one) for one in _table(manifest, "target").values())):
        for kind in _DEPENDENCY_TABLES:
            yield from _table(table, kind).items()


def _workspace_dependency(manifests: dict[str, dict[str, Any]], folder: str, name: str) -> tuple[str, Any]:
    for above, manifest in _workspaces_above(manifests, folder):
        return above, _table(manifest, "workspace", "dependencies").get(name)
    return folder, None


def _inherited(table: dict[str, Any], key: str, manifests: dict[str, dict[str, Any]], folder: str, section: str) -> Any:
    value = table.get(key)
    if isinstance(value, dict):
        for _, manifest in _workspaces_above(manifests, folder):
            return _table(manifest, "workspace", section).get(key)
    return value


def _workspaces_above(manifests: dict[str, dict[str, Any]], folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    while True:
        if "workspace" in manifests.get(folder, {}):
            yield folder, manifests[folder]
        if not folder:
            return
        folder = folder_of(folder)


def _table(value: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _existing(paths: PathIndex, path: str) -> str | None:
    return path if path in paths.files else None


_EXTERN_CRATE = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?\s+)?extern\s+crate\s+(\w+)", re.MULTILINE)
_PUBLIC_MODULE = re.compile(r"\bpub\s+mod\s+(?:r#)?(\w+)")
_PUBLIC_ITEM = re.compile(
    r"\bpub(?:\([^)\n]*\))?\s+(?:(?:unsafe|async|const|extern|\"[^\"\n]*\")\s+)*"
    r"(?:fn|struct|enum|trait|type|const|static|union|mod|use)\s+(?:r#)?(\w+)"
)
_STARRED = re.compile(r"(\w++)::\*")
_MACRO = re.compile(r"\bmacro_rules!\s*(\w+)")
_MACRO_CALL = re.compile(r"(?<![\w:])(\w++)!(?!=)")
_INLINE_PATH = re.compile(r"(?<![\w:$])(?!Self\b)([a-z_]\w*+(?:::[^\W\d]\w*+)++)")
_RUST_NON_CODE = re.compile(  # an unclosed one runs to the end of the text
    r"""//[^\n]*+|/\*(?:.*?\*/|.*+)|"(?:[^"\\]++|\\.)*+"?|'(?:\\[^'\n]++|[^'\\\n])'""", re.DOTALL
)
_MAX_USE_DEPTH = 30
_NO_PACKAGE = CargoPackage(None, (), False)


class RustResolver:
    """Resolves Rust's statements: to the file that `mod name;` reads, or that holds the module a `use` names."""

    def __init__(self, paths: PathIndex, statements: Mapping[str, Sequence[Import]]) -> None:
        self._paths = paths
        self._statements = statements
        self._packages = cargo_packages(paths)
        self._roots = {root for package in self._packages.values() for root in package.roots}
        self._roots.update(path for name in ("lib.rs", "main.rs") for path in paths.named[name])
        self._root_of = cache(self._find_root)
        self._package_of = cache(self._find_package)
        self._handed = cache(self._find_handed)
        self._public = cache(lambda path: frozenset(_PUBLIC_ITEM.findall(paths.text(path))))
        self._macros_of = cache(self._find_macros)
        self._shown_by = cache(lambda crate: frozenset(_PUBLIC_MODULE.findall(paths.text(crate))))

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        if one.module == "mod":
            yield from self._module_file(file.path, one.names)
            return
        head, *rest = [
            part.strip().removeprefix("r#") for part in one.module.removeprefix("::").split("::")[:_MAX_USE_DEPTH]
        ]
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
            # To other crates, a name that isn't one of its public modules is an item.
            rest = rest if rest and rest[0] in self._shown_by(crate) else []
        elif package.names_from_root and root and self._child(folder_of(root), head):
            base, rest = folder_of(root), [head, *rest]
        else:
            return
        found = self._holding(base, rest, root) if base is not None else None
        yield from (found,) if found else ()

    def extern_crates(self, file: TextFile) -> Iterator[str]:
        """Yield the crates of this repository that `extern crate` names."""
        if "extern crate" in file.text:
            crates = self._package_of(file.path).crates
            yield from (crates[name] for name in _EXTERN_CRATE.findall(file.text) if name in crates)

    def passed_on(self, file: TextFile, target: TextFile) -> Iterator[PassedOn]:
        """Yield where a module has names from that the file uses, and the modules it has everything of."""
        handed = self._handed(target.path)
        return handed.passed_on(words_in(file.text), lambda one: self.of(target, one), self._public)

    def _find_handed(self, path: str) -> HandedNames:
        by_name: defaultdict[str, list[Import]] = defaultdict(list)
        whole: list[Import] = []
        starred = set(_STARRED.findall(self._paths.text(path)))
        for one in self._statements.get(path, ()):
            last = one.module.rpartition("::")[2]
            if one.module != "mod":
                by_name[last].append(one)
                if last in starred:
                    whole.append(one)
        return HandedNames(by_name, whole)

    def inline_paths(self, file: TextFile) -> Iterator[str]:
        """Yield the files of modules that paths in the code name, also in its `use`."""
        for path in dict.fromkeys(_INLINE_PATH.findall(_RUST_NON_CODE.sub('""', file.text))):
            yield from self.of(file, Import(path, (), 0, 0))

    def shared(self, file: TextFile) -> Iterator[SharedNames]:
        """Yield the macros of a file's crate, which need no path."""
        root = self._root_of(file.path)
        if root and "!" in file.text:
            used = dict.fromkeys(_MACRO_CALL.findall(_RUST_NON_CODE.sub('""', file.text)))
            yield SharedNames(used, self._macros_of(folder_of(root)), partial(PathNearness, ()), lambda _: True)

    def _find_macros(self, folder: str) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in self._paths.files:
            if path.endswith(".rs") and path.startswith(folder and f"{folder}/"):
                for name in _MACRO.findall(self._paths.text(path)):
                    found[name].append(path)
        return found

    def _holding(self, base: str, parts: list[str], root: str | None) -> str | None:
        """Return the file of the innermost module that a path below `base` names: its last parts may name items."""
        for end in range(len(parts), 0, -1):
            if found := self._child(base, "/".join(parts[:end])):
                return found
        if root and base == folder_of(root):
            return root
        return self._child(folder_of(base), posixpath.basename(base))

    def _module_file(self, path: str, names: tuple[str, ...]) -> Iterator[str]:
        name, *given = names
        if given:
            target = posixpath.normpath(join_path(folder_of(path), given[0]))
            found = target if target in self._paths.files else None
        else:
            found = self._child(self._own_folder(path), name.replace("::", "/").replace("r#", ""))
        yield from (found,) if found else ()

    def _child(self, folder: str, name: str) -> str | None:
        module = join_path(folder, name)
        return self._paths.first((f"{module}.rs", f"{module}/mod.rs"))

    def _own_folder(self, path: str) -> str:
        """Return the folder that holds the child modules of a file."""
        if path in self._roots or path.endswith("/mod.rs"):
            return folder_of(path)
        return path.removesuffix(".rs")

    def _find_root(self, path: str) -> str | None:
        """Return the root of the crate a file belongs to; of several in one folder, the library's."""
        if path in self._roots:
            return path
        for folder in folders_upward(folder_of(path)):
            usual = self._paths.first((join_path(folder, "lib.rs"), join_path(folder, "main.rs")))
            others = [other for other in self._paths.inside.get(folder, ()) if other in self._roots]
            if usual or others:
                return usual or (others[0] if len(others) == 1 else None)
        return None

    def _find_package(self, path: str) -> CargoPackage:
        return next(
            (self._packages[one] for one in folders_upward(folder_of(path)) if one in self._packages), _NO_PACKAGE
        )
