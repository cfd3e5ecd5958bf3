"""Which file of a repository each import statement means, by the rules of its language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from longrepo.repository.imports.golang import GoResolver
from longrepo.repository.imports.includes import IncludeResolver
from longrepo.repository.imports.javascript import ScriptResolver
from longrepo.repository.imports.jvm import JvmResolver
from longrepo.repository.imports.packages import SharedNames
from longrepo.repository.imports.paths import PathIndex
from longrepo.repository.imports.python import PythonResolver
from longrepo.repository.imports.rust import RustResolver
from longrepo.repository.imports.statements import Import
from longrepo.repository.imports.visibility import VisibleFiles
from longrepo.repository.types import TextFile

_LanguageResolver = GoResolver | IncludeResolver | JvmResolver | PythonResolver | RustResolver | ScriptResolver


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

    @cached_property
    def visible(self) -> VisibleFiles:
        """What files can name beyond their imports."""
        return VisibleFiles(self._paths.files, self._packages)

    def _packages(self, file: TextFile) -> Iterator[SharedNames]:
        resolver = self._resolver(file.language)
        if isinstance(resolver, GoResolver | JvmResolver):
            yield from resolver.shared(file)

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
            case "C" | "C++" | "Objective-C":
                return self._includes
        return None

    @cached_property
    def _python(self) -> PythonResolver:
        return PythonResolver(self._paths, self._statements)

    @cached_property
    def _rust(self) -> RustResolver:
        return RustResolver(self._paths)

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
    def _includes(self) -> IncludeResolver:
        return IncludeResolver(self._paths)
