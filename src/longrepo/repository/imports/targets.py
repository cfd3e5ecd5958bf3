"""From imports as written to the files they mean. What means no file of the repository is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from longrepo.repository.imports.go import GoTargets
from longrepo.repository.imports.includes import IncludeTargets
from longrepo.repository.imports.jvm import JvmTargets
from longrepo.repository.imports.paths import Paths
from longrepo.repository.imports.python import PythonTargets
from longrepo.repository.imports.rust import RustTargets
from longrepo.repository.imports.scripts import ScriptTargets
from longrepo.repository.imports.statements import Import
from longrepo.repository.model import TextFile

_Resolver = GoTargets | IncludeTargets | JvmTargets | PythonTargets | RustTargets | ScriptTargets


class Targets:
    """The files of a repository and the import statements of each, read by the rules of its language."""

    def __init__(self, files: Sequence[TextFile], statements: Mapping[str, Sequence[Import]]) -> None:
        self._paths = Paths(files)
        self._statements = statements

    def of(self, file: TextFile) -> tuple[str, ...]:
        """The paths a file imports, once each, in the order it names them."""
        return tuple(dict.fromkeys(target for target in self._named(file) if target != file.path))

    def _named(self, file: TextFile) -> Iterator[str]:
        resolver = self._resolver(file.language)
        if resolver is None:
            return
        for one in self._statements.get(file.path, ()):
            yield from resolver.of(file, one)
        if isinstance(resolver, RustTargets):
            yield from resolver.extern_crates(file)

    def _resolver(self, language: str) -> _Resolver | None:
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
    def _python(self) -> PythonTargets:
        return PythonTargets(self._paths, self._statements)

    @cached_property
    def _rust(self) -> RustTargets:
        return RustTargets(self._paths)

    @cached_property
    def _go(self) -> GoTargets:
        return GoTargets(self._paths)

    @cached_property
    def _scripts(self) -> ScriptTargets:
        return ScriptTargets(self._paths)

    @cached_property
    def _jvm(self) -> JvmTargets:
        return JvmTargets(self._paths)

    @cached_property
    def _includes(self) -> IncludeTargets:
        return IncludeTargets(self._paths)
