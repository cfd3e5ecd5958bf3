"""Rust packages as their Cargo.toml files describe them: crate roots, and what a package calls other crates."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from longrepo.repository.imports.paths import Paths, folder_of, join, normal

_KINDS = {"bin": ("autobins", "src/bin"), "test": ("autotests", "tests")}
_KINDS |= {"example": ("autoexamples", "examples"), "bench": ("autobenches", "benches")}
_DEPENDENCIES = ("dependencies", "dev-dependencies", "build-dependencies")


@dataclass(frozen=True)
class Package:
    """`roots`: the files that rustc is started on. `crates`: a name that `use` may begin with -> the root of that
    crate of this repository. `names_from_root`: edition 2015, where paths begin at the crate's root."""

    library: str | None
    roots: tuple[str, ...]
    names_from_root: bool
    crates: dict[str, str] = field(default_factory=dict)


def packages(paths: Paths) -> dict[str, Package]:
    """The packages of a repository by folder."""
    manifests = dict(_manifests(paths))
    found: dict[str, Package] = {}
    for folder, manifest in manifests.items():
        if "package" in manifest:
            named = _table(manifest, "lib").get("path")
            library = _existing(paths, join(folder, named if isinstance(named, str) else "src/lib.rs"))
            edition = _inherited(_table(manifest, "package"), "edition", manifests, folder, "package")
            roots = tuple(dict.fromkeys(_roots(paths, folder, manifest, library)))
            found[folder] = Package(library, roots, edition in (None, "2015"))
    for folder, package in found.items():
        if package.library:
            package.crates[_library_name(manifests[folder])] = package.library
        for name, dependency in _dependencies(manifests[folder]):
            base = folder
            if _table(dependency).get("workspace"):
                base, dependency = _workspace_dependency(manifests, folder, name)
            path = _table(dependency).get("path")
            target = normal(join(base, path)) if isinstance(path, str) else None
            if target in found and (library := found[target].library):
                renamed = "package" in _table(dependency)
                called = name.replace("-", "_") if renamed else _library_name(manifests[target])
                package.crates[called] = library
    return found


def _manifests(paths: Paths) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths.named["Cargo.toml"]:
        try:
            yield folder_of(path), tomllib.loads(paths.text(path))
        except (tomllib.TOMLDecodeError, RecursionError):
            continue


def _roots(paths: Paths, folder: str, manifest: dict[str, Any], library: str | None) -> Iterator[str]:
    package = _table(manifest, "package")
    build = package.get("build", "build.rs")
    named = [library, join(folder, "src/main.rs"), join(folder, build) if isinstance(build, str) else None]
    for kind, (automatic, place) in _KINDS.items():
        targets = manifest.get(kind)
        for one in targets if isinstance(targets, list) else ():
            name, path = _table(one).get("name"), _table(one).get("path")
            usual = [f"{place}/{name}.rs", f"{place}/{name}/main.rs"]
            named += [join(folder, given) for given in ([path] if isinstance(path, str) else usual)]
        if package.get(automatic, True):
            within = join(folder, place)
            named += [path for path in paths.inside.get(within, ()) if path.endswith(".rs")]
            named += [path for path in paths.named["main.rs"] if folder_of(folder_of(path)) == within]
    yield from (path for path in named if path in paths.files)


def _library_name(manifest: dict[str, Any]) -> str:
    name = _table(manifest, "lib").get("name") or _table(manifest, "package").get("name")
    return str(name).replace("-", "_")


def _dependencies(manifest: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for table in (manifest, *(_table(one) for one in _table(manifest, "target").values())):
        for kind in _DEPENDENCIES:
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


def _existing(paths: Paths, path: str) -> str | None:
    return path if path in paths.files else None
