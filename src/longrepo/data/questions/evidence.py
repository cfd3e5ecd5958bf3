"""What git itself says of a commit.

A commit's tree as git itself shows it: `git grep`, `ls-tree`, `diff-tree`, `rev-list`, over its objects alone.

What a commit's files say about a name or a file: definitions, callers, subclasses, tests, imports.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from longrepo.data.questions.braces import LANGUAGES, BraceFile, brace_file, defines_anywhere
from longrepo.data.questions.python_ast import PythonFile, may_bind
from longrepo.data.questions.resolve import Resolver
from longrepo.errors import InputError
from longrepo.repository.files import tracked_entries
from longrepo.repository.git import ObjectReader, run_git_in
from longrepo.repository.types import decode_path

_NAMES_AT_ONCE = 400  # in one pattern of git grep


class GrepLine(NamedTuple):
    """A line of a file; numbers begin at 1."""

    path: str
    number: int
    text: str


def object_reader(repository: Path, commit: str) -> ObjectReader:
    """Plumbing on a repository's objects. Raises InputError where it isn't one."""
    found, said = run_git_in(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if found is None:
        raise InputError(f"{repository}: can't be read as a git repository ({said})")
    return ObjectReader(Path(found), "sha256" if len(commit) == 64 else "sha1")


def holds_commit(repository: Path, commit: str) -> bool:
    """Whether a repository holds a commit (full id)."""
    with object_reader(repository, commit) as reader:
        return next(reader.sizes([commit]))[1] == "commit"


class CommitFiles:
    """The files of one commit. Close it, or use it in a `with`."""

    def __init__(self, repository: Path, commit: str) -> None:
        """Raises InputError where the repository doesn't hold the commit."""
        self.commit = commit
        with ExitStack() as stack:
            self._reader = stack.enter_context(object_reader(repository, commit))
            if next(self._reader.sizes([commit]))[1] != "commit":
                raise InputError(f"{repository}: doesn't hold the commit {commit[:10]}; give the repository prepared")
            self._batch = stack.enter_context(self._reader.batch())
            self._open = stack.pop_all()
        self.text = lru_cache(maxsize=512)(self._text)
        self._lines: dict[str, list[GrepLine]] = {}

    def __enter__(self) -> CommitFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def blobs(self) -> dict[str, str]:
        """path -> object id of every regular file."""
        return {one.path: one.blob for one in tracked_entries(self._reader, self.commit) if one.mode.startswith("100")}

    def _text(self, path: str) -> str:
        """A file's text; empty where there is none."""
        if path not in self.blobs:
            return ""
        self._batch.ask([self.blobs[path]])
        content = self._batch.content(self._batch.header()[1])
        return content.decode("utf-8-sig", "replace").replace("\r\n", "\n")

    def look_up(self, words: Iterable[str]) -> None:
        """Ask for many words at once: `lines` then answers without asking git again."""
        todo = sorted({word for word in words if re.fullmatch(r"\w+", word, re.ASCII)} - self._lines.keys())
        for first in range(0, len(todo), _NAMES_AT_ONCE):
            self._grep(todo[first : first + _NAMES_AT_ONCE])

    def lines(self, word: str) -> list[GrepLine]:
        """The lines in which a word stands, anywhere in the tree, binary files left out."""
        self.look_up([word])
        return self._lines.get(word, [])

    def changed(self, commit: str) -> list[str]:
        """The paths a commit changed, as `git log --name-only` shows them."""
        options = ["--no-commit-id", "--name-only", "--root", "-r", "-z", "-M", "--no-ext-diff", "--no-textconv"]
        return [
            decode_path(one) for one in self._reader.output("diff-tree", *options, commit, "--").split(b"\0") if one
        ]

    def subject(self, commit: str) -> str:
        """The first line of a commit's message."""
        return self._reader.output("log", "-1", "--format=%s", commit, "--").decode("utf-8", "replace").strip()

    def ids(self, prefix: str) -> list[str]:
        """The commits of this history whose id begins like this."""
        return self._by_prefix.get(prefix[:8], [])

    @cached_property
    def _by_prefix(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for one in self._reader.output("rev-list", self.commit, "--").decode().split():
            found[one[:8]].append(one)
        return found

    def _grep(self, words: list[str]) -> None:
        found: dict[str, dict[tuple[str, int], GrepLine]] = {word: {} for word in words}
        pattern = f"({'|'.join(words)})"
        any_word = re.compile(rf"\b(?:{'|'.join(words)})\b", re.ASCII)
        options = ["-I", "-n", "-z", "-w", "-E", "--full-name", "--no-textconv", "--no-color", "-e", pattern]
        # git grep ends with status 1 where it finds nothing, which is no failure.
        for raw in self._reader.fields("grep", *options, self.commit, "--", end=b"\n", strict=False):
            line = self._line(raw)
            for word in set(any_word.findall(line.text)):
                found[word][line.path, line.number] = line
        self._lines.update({word: list(lines.values()) for word, lines in found.items()})

    def _line(self, raw: bytes) -> GrepLine:
        name, number, text = raw.rstrip(b"\r\n").split(b"\0", 2)
        return GrepLine(decode_path(name.partition(b":")[2]), int(number), text.decode("utf-8", "replace"))


def file_suffix(path: str) -> str:
    """What follows the last dot of a file's name, in small letters; "" where there is none."""
    return PurePosixPath(path).suffix[1:].lower()


def distinct_paths(lines: Iterable[GrepLine]) -> Iterator[str]:
    """The distinct paths of lines, in order."""
    yield from dict.fromkeys(line.path for line in lines)


_PYTHON_SUFFIXES = ("py", "pyi", "pyw")
_TEST_FOLDERS = frozenset(("test", "tests", "__tests__", "spec", "specs", "testing", "testdata", "fixtures"))
_TEST_STEM = re.compile(r"^test_|^conftest$|[._-](?:test|tests|spec)$|(?:Test|Tests|IT)$")
_PATTERNS = (
    r"In which file is the \w+ (\w+) ",
    r" (?:signature of|of the parameter \w+ of|has the method|class does|calls|extends|calls the \w+) (\w+)\b",
    r"Which files import (?:.*/)?(\w+)\.\w+\?$",
)


def asked_name(question: str) -> str:
    """The word that a question is answered by looking up; "" where there is none."""
    if match := re.match(r"Which test file calls the \w+ (\w+)\?", question):
        return match.group(1)
    return next((match.group(1) for one in _PATTERNS if (match := re.search(one, question))), "")


class Evidence:
    """Reads one commit of a repository, on demand."""

    def __init__(self, repository: Path, commit: str) -> None:
        self.tree = CommitFiles(repository, commit)
        self.python = lru_cache(maxsize=8192)(self._python)

    def close(self) -> None:
        """End git's processes."""
        self.tree.__exit__()

    def _python(self, path: str) -> PythonFile | None:
        """A Python file as its parser reads it; None for other files."""
        end = file_suffix(path)
        script = not end and re.match(r"#!.*python", self.tree.text(path)) is not None
        return PythonFile(self.tree.text(path)) if end in _PYTHON_SUFFIXES or script else None

    def braces(self, path: str) -> BraceFile:
        """A file read by its brackets."""
        return brace_file(self.tree.text(path), LANGUAGES.get(file_suffix(path), "other"))

    def definitions(self, name: str, kind: str) -> list[tuple[str, int]]:
        """(path, line) of everything in the tree that looks like a definition of a name."""
        return [(line.path, line.number) for line in self.tree.lines(name) if self._defines(line, name, kind)]

    def kind_of(self, name: str) -> str:
        """Method where git shows a Go method of this name, else function."""
        return "method" if any(re.match(r"func\s*\(", line.text) for line in self.tree.lines(name)) else "function"

    def _defines(self, line: GrepLine, name: str, kind: str) -> bool:
        if file_suffix(line.path) in _PYTHON_SUFFIXES and not may_bind(line.text):
            return False
        if python := self.python(line.path):
            known = line.number in python.defining_lines(name)
            return known or (not python.parsed and defines_anywhere(line.text, name))
        if file_suffix(line.path) in LANGUAGES:
            return self.braces(line.path).defines(line.number, name, kind)
        return defines_anywhere(line.text, name)

    def callers(self, name: str, definition: tuple[str, int]) -> set[tuple[str, str]]:
        """(path, innermost function) of every mention of a name in code but its definition and imports. A mention that
        is no call counts where it is outside of every function that calls it."""
        calls: set[tuple[str, str]] = set()
        mentions: set[tuple[str, str]] = set()
        for path in distinct_paths(self.tree.lines(name)):
            for inside, call in self._uses(path, name, definition):
                (calls if call else mentions).add((path, inside))
        return calls | mentions

    def _uses(self, path: str, name: str, definition: tuple[str, int]) -> Iterator[tuple[str, bool]]:
        if python := self.python(path):
            yield from ((one.inside, one.call) for one in python.uses(name))
        elif file_suffix(path) in LANGUAGES:
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
        for path in distinct_paths(self.tree.lines(name)):
            if python := self.python(path):
                for one in python.classes:
                    if any(base.rpartition(".")[2] == name for base in one.bases):
                        found.append((path, one.name))
            elif file_suffix(path) in LANGUAGES:
                masked = self.braces(path).masked
                pattern = rf"\bclass\s+(\w+)[^{{}};]*?\bextends\s+(?:\w+\.)*{name}\b"
                found += [(path, match.group(1)) for match in re.finditer(pattern, masked)]
        return found

    def tests(self, name: str) -> list[str]:
        """The test files, by their path, in which a name stands."""
        return [path for path in distinct_paths(self.tree.lines(name)) if _is_test(path)]

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
        return {one for one in distinct_paths(self.tree.lines(stem)) if path in (self.imports(one) or ())}

    @cached_property
    def _resolver(self) -> Resolver:
        return Resolver(self.tree.blobs)


def _is_test(path: str) -> bool:
    *folders, name = path.split("/")
    return bool(_TEST_FOLDERS.intersection(folders)) or _TEST_STEM.search(name.rpartition(".")[0]) is not None
