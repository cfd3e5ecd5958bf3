"""What a commit's files say about a name or a file: definitions, callers, subclasses, tests, imports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from longrepo.sequences.questions.braces import LANGUAGES, BraceFile, brace_file, defines_anywhere
from longrepo.sequences.questions.python import PythonFile, may_bind
from longrepo.sequences.questions.resolve import Resolver
from longrepo.sequences.questions.tree import Line, Tree, paths_of, suffix

_PYTHON = ("py", "pyi", "pyw")
_TEST_FOLDERS = frozenset(("test", "tests", "__tests__", "spec", "specs", "testing", "testdata", "fixtures"))
_TEST_STEM = re.compile(r"^test_|^conftest$|[._-](?:test|tests|spec)$|(?:Test|Tests|IT)$")
_PATTERNS = (
    r"In which file is the \w+ (\w+) ",
    r" (?:signature of|of the parameter \w+ of|has the method|class does|calls|extends|calls the \w+) (\w+)\b",
    r"Which files import (?:.*/)?(\w+)\.\w+\?$",
)


def name_asked(question: str) -> str:
    """The word that a question is answered by looking up; "" where there is none."""
    if match := re.match(r"Which test file calls the \w+ (\w+)\?", question):
        return match.group(1)
    return next((match.group(1) for one in _PATTERNS if (match := re.search(one, question))), "")


class Evidence:
    """Reads one commit of a repository, on demand."""

    def __init__(self, repository: Path, commit: str) -> None:
        self.tree = Tree(repository, commit)
        self.python = lru_cache(maxsize=8192)(self._python)

    def close(self) -> None:
        """End git's processes."""
        self.tree.__exit__()

    def _python(self, path: str) -> PythonFile | None:
        """A Python file as its parser reads it; None for other files."""
        end = suffix(path)
        script = not end and re.match(r"#!.*python", self.tree.text(path)) is not None
        return PythonFile(self.tree.text(path)) if end in _PYTHON or script else None

    def braces(self, path: str) -> BraceFile:
        """A file read by its brackets."""
        return brace_file(self.tree.text(path), LANGUAGES.get(suffix(path), "other"))

    def definitions(self, name: str, kind: str) -> list[tuple[str, int]]:
        """(path, line) of everything in the tree that looks like a definition of a name."""
        return [(line.path, line.number) for line in self.tree.lines(name) if self._defines(line, name, kind)]

    def kind_of(self, name: str) -> str:
        """Method where git shows a Go method of this name, else function."""
        return "method" if any(re.match(r"func\s*\(", line.text) for line in self.tree.lines(name)) else "function"

    def _defines(self, line: Line, name: str, kind: str) -> bool:
        if suffix(line.path) in _PYTHON and not may_bind(line.text):
            return False
        if python := self.python(line.path):
            known = line.number in python.defining_lines(name)
            return known or (not python.parsed and defines_anywhere(line.text, name))
        if suffix(line.path) in LANGUAGES:
            return self.braces(line.path).defines(line.number, name, kind)
        return defines_anywhere(line.text, name)

    def callers(self, name: str, definition: tuple[str, int]) -> set[tuple[str, str]]:
        """(path, innermost function) of every mention of a name in code but its definition and imports. A mention that
        is no call counts where it is outside of every function that calls it."""
        calls: set[tuple[str, str]] = set()
        mentions: set[tuple[str, str]] = set()
        for path in paths_of(self.tree.lines(name)):
            for inside, call in self._uses(path, name, definition):
                (calls if call else mentions).add((path, inside))
        return calls | mentions

    def _uses(self, path: str, name: str, definition: tuple[str, int]) -> Iterator[tuple[str, bool]]:
        if python := self.python(path):
            yield from ((one.inside, one.call) for one in python.uses(name))
        elif suffix(path) in LANGUAGES:
            braces = self.braces(path)
            for line in self.tree.lines(name):
                if line.path != path or (path, line.number) == definition:
                    continue
                called = re.search(rf"\b{name}\s*(?:<[^()]*>|::<[^()]*>|!)?\s*\(", line.text) is not None
                if called or not re.search(r"\b(?:import|use|require|include|export|from)\b", line.text):
                    yield braces.function_around(braces.position(line.number, name)), called

    def subclasses(self, name: str) -> list[tuple[str, str]]:
        """(path, class) of every class whose head names this one as its base."""
        found: list[tuple[str, str]] = []
        for path in paths_of(self.tree.lines(name)):
            if python := self.python(path):
                for one in python.classes:
                    if any(base.rpartition(".")[2] == name for base in one.bases):
                        found.append((path, one.name))
            elif suffix(path) in LANGUAGES:
                masked = self.braces(path).masked
                pattern = rf"\bclass\s+(\w+)[^{{}};]*?\bextends\s+(?:\w+\.)*{name}\b"
                found += [(path, match.group(1)) for match in re.finditer(pattern, masked)]
        return found

    def tests(self, name: str) -> list[str]:
        """The test files, by their path, in which a name stands."""
        return [path for path in paths_of(self.tree.lines(name)) if _is_test(path)]

    def calls(self, path: str, name: str) -> bool:
        """Whether a file calls a name."""
        if python := self.python(path):
            return any(one.call for one in python.uses(name))
        return re.search(rf"\b{name}\s*(?:<[^()]*>)?\s*\(", self.braces(path).masked) is not None

    def sees(self, path: str, other: str) -> bool:
        """Whether a file imports another, or needs no import as it lies in the same package (Go)."""
        if path.endswith(".go"):
            return PurePosixPath(path).parent == PurePosixPath(other).parent
        return other in (self.imports(path) or ())

    def imports(self, path: str) -> set[str] | None:
        """The files of the tree that a file imports; None where its language isn't read here."""
        return self._resolver.imports(path, self.tree.text(path), self.python(path))

    def importers(self, path: str) -> set[str]:
        """The files that import a file, among those in which its name stands."""
        stem = PurePosixPath(path).name.partition(".")[0]
        return {one for one in paths_of(self.tree.lines(stem)) if path in (self.imports(one) or ())}

    @cached_property
    def _resolver(self) -> Resolver:
        return Resolver(self.tree.blobs)


def _is_test(path: str) -> bool:
    *folders, name = path.split("/")
    return bool(_TEST_FOLDERS.intersection(folders)) or _TEST_STEM.search(name.rpartition(".")[0]) is not None
