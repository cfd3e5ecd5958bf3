"""Facts about a commit's files from git and Python's own parser, for checking answers.

`CommitFiles` reads a commit's tree with git's commands (`grep`, `ls-tree`, `diff-tree`, `rev-list`), `PythonFile` a
Python file with `ast`. `Evidence` combines both to find the definitions, callers, subclasses and tests of a name; files
in other languages are listed as unread.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from longrepo.errors import InputError
from longrepo.repository.encodings import decode_text
from longrepo.repository.git import object_reader
from longrepo.repository.languages import NON_CODE_LANGUAGES, OTHER_LANGUAGE, language_of
from longrepo.repository.snapshot import tracked_entries
from longrepo.repository.types import decode_path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_NAMES_AT_ONCE = 400  # in one pattern of git grep
_MAY_BIND = re.compile(r"\b(?:def|class|as|for)\b|=|^[\s\w,.*()]*$")
_PYTHON_SUFFIXES = ("py", "pyi", "pyw")
_TEST_FOLDERS = frozenset(("test", "tests", "__tests__", "spec", "specs", "testing", "testdata", "fixtures"))
_TEST_STEM = re.compile(r"^test_|^conftest$|[._-](?:test|tests|spec)$|(?:Test|Tests|IT)$")
_PATTERNS = (
    r"In which file is the \w+ (\w+) ",
    r"Why was (\w+) changed",
    r" (?:signature of|of the parameter \w+ of|has the method|class does|calls|extends|calls the \w+) (\w+)\b",
    r"Which files import (?:.*/)?(\w+)\.\w+\?$",
)


class GrepLine(NamedTuple):
    """A line of a file; numbers begin at 1."""

    path: str
    number: int
    text: str


def holds_commit(repository: Path, commit: str) -> bool:
    """Return whether a repository contains a commit (full id)."""
    with object_reader(repository, commit) as reader:
        return next(reader.sizes([commit]))[1] == "commit"


class CommitFiles:
    """The files of one commit. Close it, or use it in a `with` statement."""

    def __init__(self, repository: Path, commit: str) -> None:
        """Raises InputError if the repository doesn't contain the commit."""
        self.commit = commit
        with ExitStack() as stack:
            self._reader = stack.enter_context(object_reader(repository, commit))
            if next(self._reader.sizes([commit]))[1] != "commit":
                raise InputError(
                    f"{repository}: doesn't contain the commit {commit[:10]}; give the prepared repository"
                )
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
        """Map the path of every regular file to its object id."""
        return {one.path: one.blob for one in tracked_entries(self._reader, self.commit) if one.mode.startswith("100")}

    def _text(self, path: str) -> str:
        """Return a file's text; empty if there is no such file."""
        if path not in self.blobs:
            return ""
        self._batch.ask([self.blobs[path]])
        content = self._batch.content(self._batch.header()[1])
        return (decode_text(content) or "").replace("\r\n", "\n")

    def look_up(self, words: Iterable[str]) -> None:
        """Look up many words at once, so that `lines` needn't call git for each."""
        todo = sorted({word for word in words if re.fullmatch(r"\w+", word, re.ASCII)} - self._lines.keys())
        for first in range(0, len(todo), _NAMES_AT_ONCE):
            self._grep(todo[first : first + _NAMES_AT_ONCE])

    def lines(self, word: str) -> list[GrepLine]:
        """Return all lines of the tree that contain a word; binary files are left out."""
        self.look_up([word])
        return self._lines.get(word, [])

    def changed(self, commit: str) -> list[str]:
        """Return the paths a commit changed, as `git log --name-only` shows them."""
        options = ["--no-commit-id", "--name-only", "--root", "-r", "-z", "-M", "--no-ext-diff", "--no-textconv"]
        return [
            decode_path(one) for one in self._reader.output("diff-tree", *options, commit, "--").split(b"\0") if one
        ]

    def subject(self, commit: str) -> str:
        """Return the first line of a commit's message."""
        return self._reader.output("log", "-1", "--format=%s", commit, "--").decode("utf-8", "replace").strip()

    def naming(self, word: str) -> list[str]:
        """Return the commits of this history whose subject contains a word."""
        options = ["--format=%H%x00%s", "--fixed-strings", f"--grep={word}"]
        lines = self._reader.output("log", *options, self.commit, "--").decode("utf-8", "replace").splitlines()
        pairs = (line.partition("\0") for line in lines)
        return [id for id, _, subject in pairs if re.search(rf"\b{re.escape(word)}\b", subject, re.ASCII)]

    def ids(self, prefix: str) -> list[str]:
        """Return the commits of this history whose id begins with a prefix."""
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
        # git grep exits with 1 if it finds nothing, which isn't an error.
        for raw in self._reader.fields("grep", *options, self.commit, "--", end=b"\n", strict=False):
            line = self._line(raw)
            for word in set(any_word.findall(line.text)):
                found[word][line.path, line.number] = line
        for line in self._unseen_lines:
            for word in set(any_word.findall(line.text)):
                found[word][line.path, line.number] = line
        self._lines.update({word: list(lines.values()) for word, lines in found.items()})

    @cached_property
    def _unseen_lines(self) -> list[GrepLine]:
        """The lines of text files that git takes for binary: those in UTF-16 and UTF-32."""
        seen = set(
            self._reader.fields("grep", "-I", "-l", "-z", "--full-name", "-e", "", self.commit, "--", strict=False)
        )
        paths = {decode_path(raw.partition(b":")[2]) for raw in seen}
        return [
            GrepLine(path, number, line)
            for path in sorted(self.blobs.keys() - paths)
            if language_of(path) != OTHER_LANGUAGE  # an image needn't be read
            for number, line in enumerate(self.text(path).split("\n"), 1)
            if line
        ]

    def _line(self, raw: bytes) -> GrepLine:
        name, number, text = raw.rstrip(b"\r\n").split(b"\0", 2)
        return GrepLine(decode_path(name.partition(b":")[2]), int(number), text.decode("utf-8", "replace"))


def file_suffix(path: str) -> str:
    """Return the lower-case suffix of a file's name without its dot; "" if it has none."""
    return PurePosixPath(path).suffix[1:].lower()


def distinct_paths(lines: Iterable[GrepLine]) -> Iterator[str]:
    """Yield the distinct paths of lines, in order."""
    yield from dict.fromkeys(line.path for line in lines)


@dataclass(frozen=True)
class NameUse:
    """A mention of a name: `inside` is the innermost function around it, "" at the top level."""

    inside: str
    call: bool


@dataclass(frozen=True)
class PythonClass:
    """A class, its bases as written without type arguments, and its unconditional methods."""

    name: str
    bases: tuple[str, ...]
    methods: tuple[str, ...]


class PythonFile:
    """The functions, classes and bound names of one Python file. If this Python version can't parse it, `parsed` is
    False and everything else is empty."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.functions: defaultdict[str, list[FunctionNode]] = defaultdict(list)  # without their bodies
        self.classes: list[PythonClass] = []
        self._bound: defaultdict[str, set[int]] = defaultdict(set)
        tree = _parse_module(text)
        self.parsed = tree is not None
        if tree is not None:
            self._read(tree)

    def defining_lines(self, name: str) -> set[int]:
        """Return the lines that define a name or bind it, except a function's local variables."""
        return self._bound.get(name, set())

    def owners(self, method: str) -> list[str]:
        """Return the classes that define a method unconditionally."""
        return [one.name for one in self.classes if method in one.methods]

    def uses(self, name: str) -> list[NameUse]:
        """Return every mention of a name in code except definitions and imports. Parses the file again."""
        tree = _parse_module(self._text)
        return list(_uses(tree, name, "")) if tree else []

    def _read(self, tree: ast.Module) -> None:
        pending: list[tuple[ast.AST, bool]] = [(tree, False)]
        functions: list[FunctionNode] = []
        while pending:
            node, local = pending.pop()
            if isinstance(node, FunctionNode):
                self._bound[node.name].add(node.lineno)
                functions.append(node)
                local = True
            elif isinstance(node, ast.ClassDef):
                self._bound[node.name].add(node.lineno)
                methods = tuple(one.name for one in node.body if isinstance(one, FunctionNode))
                self.classes.append(PythonClass(node.name, tuple(map(_base_name, node.bases)), methods))
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for one in node.names:
                    if one.asname:
                        self._bound[one.asname].add(node.lineno)
            elif isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Store) and not local:
                    self._bound[node.id].add(node.lineno)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                self._bound[node.attr].add(node.lineno)
            pending += [(child, local) for child in ast.iter_child_nodes(node)]
        for function in functions:
            function.body = []
            self.functions[function.name].append(function)


def may_bind(line: str) -> bool:
    """Return whether a line could bind a name; if not, its file needn't be parsed."""
    return _MAY_BIND.search(line) is not None


def same_signature(function: FunctionNode, answer: str) -> bool:
    """Return whether an answer has a function's name, parameters, defaults and annotations."""
    tree = _parse_module(f"{answer}: pass")
    written = tree.body[0] if tree else None
    return (
        type(written) is type(function)
        and isinstance(written, FunctionNode)
        and written.name == function.name
        and ast.dump(written.args) == ast.dump(function.args)
        and _dump(written.returns) == _dump(function.returns)
    )


def default_of(function: FunctionNode, parameter: str) -> ast.expr | None:
    """Return a parameter's default, or None."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(plain[len(plain) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    pairs += [(one, value) for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    return next((value for one, value in pairs if one.arg == parameter), None)


def same_expression(node: ast.expr, answer: str) -> bool:
    """Return whether an answer parses to the same expression."""
    tree = _parse_module(f"({answer})")
    body = tree.body[0] if tree and len(tree.body) == 1 else None
    return isinstance(body, ast.Expr) and ast.dump(body.value) == ast.dump(node)


def _parse_module(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _uses(node: ast.AST, name: str, inside: str) -> Iterator[NameUse]:
    for child in ast.iter_child_nodes(node):
        called = isinstance(node, ast.Call) and node.func is child
        if isinstance(child, ast.Call) and _last_name(child.func) == name:
            yield NameUse(inside, True)
        elif (_last_name(child) == name and not called) or (isinstance(child, ast.Constant) and child.value == name):
            yield NameUse(inside, False)
        yield from _uses(child, name, child.name if isinstance(child, FunctionNode) else inside)


def _base_name(node: ast.expr) -> str:
    return ast.unparse(node.value if isinstance(node, ast.Subscript) else node)


def _last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _dump(node: ast.AST | None) -> str:
    return ast.dump(node) if node else ""


def asked_name(question: str) -> str:
    """Return the word to look up for a question; "" if there is none."""
    if match := re.match(r"Which test file calls the \w+ (\w+)\?", question):
        return match.group(1)
    return next((match.group(1) for one in _PATTERNS if (match := re.search(one, question))), "")


class Evidence:
    """Reads one commit of a repository on demand."""

    def __init__(self, repository: Path, commit: str) -> None:
        self.tree = CommitFiles(repository, commit)
        self.python = lru_cache(maxsize=8192)(self._python)

    def close(self) -> None:
        """Close git's processes."""
        self.tree.__exit__()

    def _python(self, path: str) -> PythonFile | None:
        """Return a parsed Python file; None for other files."""
        end = file_suffix(path)
        script = not end and re.match(r"#!.*python", self.tree.text(path)) is not None
        return PythonFile(self.tree.text(path)) if end in _PYTHON_SUFFIXES or script else None

    def unread(self, name: str) -> list[str]:
        """Return the code files that mention a name and that no parser here can read."""
        return [path for path in distinct_paths(self.tree.lines(name)) if self._is_unread(path)]

    def _is_unread(self, path: str) -> bool:
        if python := self.python(path):
            return not python.parsed
        return language_of(path) not in NON_CODE_LANGUAGES

    def definitions(self, name: str) -> list[tuple[str, int]]:
        """Return (path, line) of every definition of a name in Python files."""
        return [(line.path, line.number) for line in self.tree.lines(name) if self._defines(line, name)]

    def _defines(self, line: GrepLine, name: str) -> bool:
        if file_suffix(line.path) in _PYTHON_SUFFIXES and not may_bind(line.text):
            return False
        python = self.python(line.path)
        return python is not None and line.number in python.defining_lines(name)

    def callers(self, name: str) -> set[tuple[str, str]]:
        """Return (path, innermost function) of every mention of a name in Python code, calls or not, except its
        definition and imports."""
        return {
            (path, use.inside)
            for path in distinct_paths(self.tree.lines(name))
            if (python := self.python(path))
            for use in python.uses(name)
        }

    def subclasses(self, name: str) -> set[tuple[str, str]]:
        """Return (path, class) of every Python class that names this one as a base."""
        return {
            (path, one.name)
            for path in distinct_paths(self.tree.lines(name))
            if (python := self.python(path))
            for one in python.classes
            if any(base.rpartition(".")[2] == name for base in one.bases)
        }

    def tests(self, name: str) -> list[str]:
        """Return the test files (by their path) that mention a name."""
        return [path for path in distinct_paths(self.tree.lines(name)) if _is_test(path)]

    def calls(self, path: str, name: str) -> bool:
        """Return whether a Python file calls a name."""
        python = self.python(path)
        return python is not None and any(one.call for one in python.uses(name))


def _is_test(path: str) -> bool:
    *folders, name = path.split("/")
    return bool(_TEST_FOLDERS.intersection(folders)) or _TEST_STEM.search(name.rpartition(".")[0]) is not None
