"""Which file a JavaScript or TypeScript import loads, by package.json and tsconfig.json: names, entries, aliases."""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from longrepo.repository.imports.packages import HandedNames, PassedOn, words_in
from longrepo.repository.imports.paths import PathIndex, folder_of, folders_upward, join_path, normalize_path
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import TextFile

_JSON_COMMENTS = re.compile(r'("(?:[^"\\]++|\\.)*+"?)|//[^\n]*+|/\*(?:.*?\*/|.*+)|,(?=\s*[}\]])', re.DOTALL)
_YAML_ITEM = re.compile(r"^[ \t]*-[ \t]*['\"]?([^'\"\n#]+?)['\"]?[ \t]*(?:#.*)?$", re.MULTILINE)
_LOCAL_PROTOCOLS = ("file:", "link:", "portal:")
_BUILD_FOLDER = re.compile(r"^(?:\./)?(?:dist|build|lib|out|esm|cjs|es)/")
_SCRIPT_SUFFIX = re.compile(r"(\.d)?\.[cm]?[jt]sx?$")


class NodePackages:
    """The packages of a repository: which package a bare name means to a file, and which file that loads."""

    def __init__(self, paths: PathIndex) -> None:
        self._paths = paths
        read = ((folder_of(path), _parse_json(paths.text(path))) for path in paths.named["package.json"])
        self._manifests = {folder: manifest for folder, manifest in read if manifest}
        self._workspace = {
            member: top
            for top in sorted(self._manifests)
            for pattern in self._patterns(top)
            for member in self._manifests
            if member != top and _matches(member, top, pattern)
        }
        names = [(str(manifest.get("name")), folder) for folder, manifest in self._manifests.items()]
        self._by_name = {(self._top(folder), name): folder for name, folder in reversed(names)}
        self._config = cache(self._read_config)
        self._aliases_of = cache(self._find_aliases)

    def named(self, inside: str, name: str) -> str | None:
        """Return the folder of the package that files inside a folder mean by a name, or None if it isn't in this
        repository."""
        own = self._own_package(inside)
        if own is None:
            return None
        manifest = self._manifests[own]
        for kind in ("dependencies", "devDependencies", "peerDependencies", "optionalDependencies"):
            version = _table(manifest, kind).get(name)
            if isinstance(version, str) and version.startswith(_LOCAL_PROTOCOLS):
                return normalize_path(join_path(own, version.partition(":")[2]))
        if manifest.get("name") == name:
            return own
        return self._by_name.get((self._top(own), name)) if own in self._workspace or self._members(own) else None

    def entries(self, folder: str, subpath: str, accepted: frozenset[str]) -> Iterator[str]:
        """Yield where a package's manifest says that it, or a path in it, is; then where the sources of build output
        usually are. `accepted`: the export conditions that hold for the import."""
        manifest = self._manifests.get(folder, {})
        wanted = f"./{subpath}" if subpath else "."
        given = list(_exported(manifest.get("exports"), wanted, accepted))
        if not subpath:
            fields = ("types", "typings", "module", "main") if "types" in accepted else ("module", "main")
            given += [value for field in fields if isinstance(value := manifest.get(field), str)]
        plain = subpath or "index"
        sources = [_SCRIPT_SUFFIX.sub("", _BUILD_FOLDER.sub("src/", one)) for one in given if _BUILD_FOLDER.match(one)]
        for one in (*given, *sources, plain, f"src/{plain}"):
            yield normalize_path(join_path(folder, one))

    def main(self, folder: str) -> Iterator[str]:
        """Yield what a path to a package's folder loads, by its manifest."""
        if isinstance(given := self._manifests.get(folder, {}).get("main"), str):
            yield normalize_path(join_path(folder, given))

    def internal(self, inside: str, name: str, accepted: frozenset[str]) -> Iterator[str]:
        """Yield what `#name` loads, by the `imports` of the package around a folder."""
        own = self._own_package(inside)
        if own is not None:
            for one in _exported(self._manifests[own].get("imports"), name, accepted):
                yield normalize_path(join_path(own, one))

    def aliases(self, inside: str, module: str) -> Iterator[str]:
        """Yield what a name loads by the `paths` and `baseUrl` of the tsconfig.json or jsconfig.json around a folder,
        or by the convention that `@/` means a project's sources."""
        base, patterns = self._aliases_of(inside)
        found = sorted((one for one in patterns if _fits_pattern(one, module)), key=lambda one: ("*" in one, -len(one)))
        if found:
            part = module[len(found[0].partition("*")[0]) : len(module) - len(found[0].partition("*")[2])]
            yield from (target.replace("*", part) for target in patterns[found[0]])
        if base is not None:
            yield join_path(base, module)
        if module.startswith(("@/", "~/")):
            for folder in self._project(inside):
                yield from (join_path(folder, join_path(inner, module[2:])) for inner in ("src", ""))

    def _own_package(self, inside: str) -> str | None:
        return next((folder for folder in folders_upward(inside) if folder in self._manifests), None)

    def _top(self, folder: str) -> str:
        return self._workspace.get(folder, folder)

    def _members(self, folder: str) -> bool:
        return folder in self._workspace.values()

    def _project(self, inside: str) -> list[str]:
        """Return the folders from one up to the top of its package, or of the workspace its package belongs to."""
        above, own = folders_upward(inside), self._own_package(inside)
        return above if own is None else above[: above.index(self._top(own)) + 1]

    def _patterns(self, folder: str) -> Iterator[str]:
        given = self._manifests[folder].get("workspaces")
        given = given.get("packages") if isinstance(given, dict) else given
        yield from (one for one in given if isinstance(one, str)) if isinstance(given, list) else ()
        pnpm, lerna = join_path(folder, "pnpm-workspace.yaml"), join_path(folder, "lerna.json")
        if pnpm in self._paths.files:
            yield from _YAML_ITEM.findall(self._paths.text(pnpm).partition("packages:")[2])
        if lerna in self._paths.files:
            found = _parse_json(self._paths.text(lerna)).get("packages")
            yield from (one for one in found if isinstance(one, str)) if isinstance(found, list) else ()

    def _find_aliases(self, folder: str) -> tuple[str | None, dict[str, list[str]]]:
        for one in self._project(folder):
            for name in ("tsconfig.json", "jsconfig.json", "tsconfig.app.json", "tsconfig.base.json"):
                if join_path(one, name) in self._paths.files:
                    base, patterns = self._config(join_path(one, name))
                    if base is not None or patterns or name == "tsconfig.base.json":
                        return base, patterns
            if join_path(one, "tsconfig.json") in self._paths.files:
                break
        return None, {}

    def _read_config(self, path: str, depth: int = 5) -> tuple[str | None, dict[str, list[str]]]:
        """Return (baseUrl, paths) of a configuration or of what it extends, relative to the repository's top."""
        config = _parse_json(self._paths.text(path))
        options, folder = _table(config, "compilerOptions"), folder_of(path)
        base: str | None = None
        patterns: dict[str, list[str]] = {}
        extended = config.get("extends")
        for one in extended if isinstance(extended, list) else [extended]:
            if isinstance(one, str) and one.startswith(".") and depth:
                other = normalize_path(join_path(folder, one))
                if found := self._paths.first((other, f"{other}.json", f"{other}/tsconfig.json")):
                    base, patterns = self._read_config(found, depth - 1)
        if isinstance(given := options.get("baseUrl"), str):
            base = normalize_path(join_path(folder, given))
        if isinstance(options.get("paths"), dict):
            start = base if isinstance(options.get("baseUrl"), str) or base is not None else folder
            patterns = {
                pattern: [normalize_path(join_path(start or "", one)) for one in targets if isinstance(one, str)]
                for pattern, targets in options["paths"].items()
                if isinstance(targets, list)
            }
        return base, patterns


def _exported(value: Any, wanted: str, accepted: frozenset[str]) -> Iterator[str]:
    """Yield the paths that `exports` or `imports` have for a key, in order."""
    if isinstance(value, dict) and any(key.startswith((".", "#")) for key in value):
        fitting = sorted((key for key in value if _fits_pattern(key, wanted)), key=lambda key: ("*" in key, -len(key)))
        if fitting:
            start, _, end = fitting[0].partition("*")
            part = wanted[len(start) : len(wanted) - len(end)]
            yield from (one.replace("*", part) for one in _conditional(value[fitting[0]], accepted))
    elif wanted == ".":
        yield from _conditional(value, accepted)


def _conditional(value: Any, accepted: frozenset[str], depth: int = 10) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, dict | list):
        inner = value if isinstance(value, list) else [value[one] for one in value if one in accepted]
        for one in inner:
            yield from _conditional(one, accepted, depth - 1)


def _fits_pattern(pattern: str, name: str) -> bool:
    start, star, end = pattern.partition("*")
    if not star:
        return pattern == name
    return name.startswith(start) and name.endswith(end) and len(name) >= len(start) + len(end)


def _matches(folder: str, top: str, pattern: str) -> bool:
    pattern = normalize_path(join_path(top, pattern))
    return fnmatchcase(folder, pattern) and ("**" in pattern or folder.count("/") == pattern.count("/"))


def _parse_json(text: str) -> dict[str, Any]:
    """Read a JSON object with comments and trailing commas; return {} if the text isn't one."""
    try:
        value = json.loads(_JSON_COMMENTS.sub(lambda match: match.group(1) or "", text))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _table(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


_UNTYPED_SUFFIXES = (".js", ".jsx", ".mjs", ".cjs", ".json", ".ts", ".tsx", ".mts", ".cts", ".d.ts", ".vue", ".svelte")
_TYPED_SUFFIXES = (".ts", ".tsx", ".mts", ".cts", ".d.ts", ".d.mts", ".d.cts", *_UNTYPED_SUFFIXES)
_SOURCE_SUFFIXES = {  # TypeScript imports the name of its output
    ".js": (".ts", ".tsx", ".d.ts"),
    ".jsx": (".tsx", ".d.ts"),
    ".mjs": (".mts", ".d.mts"),
    ".cjs": (".cts", ".d.cts"),
}
_REEXPORT = re.compile(
    r"^[ \t]*export\s+(?:type\s+)?(?:\{([^}]{0,2000}+)\}|(\*)(?:\s+as\s+\w+)?)\s*from\s*['\"]([^'\"\n]+)['\"]",
    re.MULTILINE,
)
_EXPORT = re.compile(
    r"^[ \t]*export\s+(?:(?:default|declare|async|abstract)\s+)*(?:function\s*\*?|class|const|let|var|interface|type|"
    r"enum|namespace)\s+([\w$]+)",
    re.MULTILINE,
)
_EXPORT_CONDITIONS = frozenset({"node", "module", "default"})


class ScriptResolver:
    """Resolves JavaScript and TypeScript imports: to a path's file, a package's entry or an alias's target."""

    def __init__(self, paths: PathIndex) -> None:
        self._paths = paths
        self._packages = NodePackages(paths)
        self._bare = cache(self._find_bare)
        self._handed = cache(self._find_handed)
        self._exports = cache(lambda path: frozenset(_EXPORT.findall(paths.text(path))))

    def of(self, file: TextFile, one: Import) -> Iterator[str]:
        module = one.module.partition("?")[0]
        typed = file.language == "TypeScript"
        found: str | None = None
        if module.startswith("."):
            found = self._file(normalize_path(join_path(folder_of(file.path), module)), typed)
        elif module:
            found = self._bare(folder_of(file.path), module, typed, "require" in one.names)
        yield from (found,) if found else ()

    def passed_on(self, file: TextFile, target: TextFile) -> Iterator[PassedOn]:
        """Yield where a module exports names from: all of `export *`, else only with a name in use."""
        handed = self._handed(target.path)
        return handed.passed_on(words_in(file.text), lambda one: self.of(target, one), self._exports)

    def _find_handed(self, path: str) -> HandedNames:
        by_name: defaultdict[str, list[Import]] = defaultdict(list)
        whole: list[Import] = []
        for names, everything, module in _REEXPORT.findall(self._paths.text(path)):
            one = Import(module, (), 0, 0)
            if everything:
                whole.append(one)
            for name in names.split(","):
                by_name[name.rpartition(" as ")[2].strip()].append(one)
        return HandedNames(by_name, whole)

    def _find_bare(self, folder: str, module: str, typed: bool, required: bool) -> str | None:
        accepted = _EXPORT_CONDITIONS | {"require" if required else "import"} | ({"types"} if typed else frozenset())
        tries = list(self._packages.internal(folder, module, accepted)) if module.startswith("#") else []
        tries += self._packages.aliases(folder, module)
        scope = 2 if module.startswith("@") else 1
        name, subpath = "/".join(module.split("/")[:scope]), "/".join(module.split("/")[scope:])
        if (package := self._packages.named(folder, name)) is not None:
            tries += self._packages.entries(package, subpath, accepted)
        return next((found for one in tries if (found := self._file(one, typed))), None)

    def _file(self, target: str, typed: bool) -> str | None:
        """Return the file of an imported path: itself, with a suffix added or changed, or its folder's index."""
        stem, suffix = posixpath.splitext(target)
        suffixes = _TYPED_SUFFIXES if typed else _UNTYPED_SUFFIXES
        tries = [target, *(stem + other for other in _SOURCE_SUFFIXES.get(suffix, ()))] if target else []
        tries += [target + one for one in suffixes] if target else []
        return self._paths.first(tries) or (self._entry(target, suffixes) if target in self._paths.folders else None)

    def _entry(self, folder: str, suffixes: Sequence[str]) -> str | None:
        if join_path(folder, "package.json") in self._paths.files:
            for one in self._packages.main(folder):
                if found := self._paths.first((one, *(one + suffix for suffix in suffixes))):
                    return found
        return self._paths.first(join_path(folder, f"index{one}") for one in suffixes)
