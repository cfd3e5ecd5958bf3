"""Which file of a repository each import statement means, by the rules of its language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from longrepo.repository.imports.csharp import NamespaceResolver
from longrepo.repository.imports.golang import GoResolver
from longrepo.repository.imports.includes import IncludeResolver
from longrepo.repository.imports.javascript import ScriptResolver
from longrepo.repository.imports.jvm import JvmResolver
from longrepo.repository.imports.packages import PassedOn, SharedNames
from longrepo.repository.imports.paths import PathIndex
from longrepo.repository.imports.python import PythonResolver
from longrepo.repository.imports.rust import RustResolver
from longrepo.repository.imports.statements import Import
from longrepo.repository.imports.swift import ModuleResolver
from longrepo.repository.types import TextFile

_PackageResolver = GoResolver | JvmResolver | ModuleResolver | NamespaceResolver | PythonResolver | RustResolver
_LanguageResolver = _PackageResolver | IncludeResolver | ScriptResolver


class ImportResolver:
    """Resolves the import statements of a repository's files by the rules of each language."""

    def __init__(self, files: Sequence[TextFile], statements: Mapping[str, Sequence[Import]]) -> None:
        self._paths = PathIndex(files)
        self._statements = statements

    def of(self, file: TextFile) -> tuple[str, ...]:
        """Return the paths a file imports, once each, in the order it names them."""
        return tuple(dict.fromkeys(target for target in self._named(file) if target != file.path))

    def _named(self, file: TextFile) -> Iterator[str]:
        resolver = self._resolver(file.language)
        if resolver is None:
            return
        for one in self._statements.get(file.path, ()):
            yield from resolver.of(file, one)
        if isinstance(resolver, RustResolver):
            yield from resolver.extern_crates(file)

    @property
    def files(self) -> Mapping[str, TextFile]:
        """The repository's files by path."""
        return self._paths.files

    def packages(self, file: TextFile) -> Iterator[SharedNames]:
        """Yield the packages whose names a file may use without an import, its own first."""
        resolver = self._resolver(file.language)
        if isinstance(resolver, _PackageResolver):
            yield from resolver.shared(file)

    def passed_on(self, file: TextFile, target: str) -> Iterator[PassedOn]:
        """Yield the files whose names `target` hands on to `file`, which can name it: by re-exports and wildcards, or
        what a header includes."""
        resolver, module = self._resolver(file.language), self._paths.files[target]
        if resolver is not self._resolver(module.language):
            return
        if isinstance(resolver, PythonResolver | RustResolver | ScriptResolver):
            yield from resolver.passed_on(file, module)
        elif isinstance(resolver, IncludeResolver):
            yield from resolver.passed_on(module, self._statements)

    def inline_paths(self, file: TextFile) -> Iterator[str]:
        """Yield the files that paths in a file's code name (Rust's `crate::a::f()`)."""
        resolver = self._resolver(file.language)
        if isinstance(resolver, RustResolver):
            yield from resolver.inline_paths(file)

    def counterparts(self, path: str) -> list[str]:
        """Return the sources with the name of a header, or the headers with that of a source."""
        return self._includes.counterparts(path)

    def _resolver(self, language: str) -> _LanguageResolver | None:
        match language:
            case "Python":
                return self._python
            case "Rust":
                return self._rust
            case "Go":
                return self._go
            case "JavaScript" | "TypeScript":
                return self._scripts
            case "Java" | "Kotlin" | "Scala":
                return self._jvm
            case "C#":
                return self._csharp
            case "Swift":
                return self._swift
            case "C" | "C++" | "Objective-C":
                return self._includes
        return None

    @cached_property
    def _python(self) -> PythonResolver:
        return PythonResolver(self._paths, self._statements)

    @cached_property
    def _rust(self) -> RustResolver:
        return RustResolver(self._paths, self._statements)

    @cached_property
    def _go(self) -> GoResolver:
        return GoResolver(self._paths)

    @cached_property
    def _scripts(self) -> ScriptResolver:
        return ScriptResolver(self._paths)

    @cached_property
    def _jvm(self) -> JvmResolver:
        return JvmResolver(self._paths)

    @cached_property
    def _csharp(self) -> NamespaceResolver:
        return NamespaceResolver(self._paths)

    @cached_property
    def _swift(self) -> ModuleResolver:
        return ModuleResolver(self._paths)

    @cached_property
    def _includes(self) -> IncludeResolver:
        return IncludeResolver(self._paths)
