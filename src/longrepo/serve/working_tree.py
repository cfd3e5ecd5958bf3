"""A repository around an editor's file: which of its files a text is from, which are related, and their line ends."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from longrepo.config.schema import Settings
from longrepo.data.repo_tree import RepoTree, RepoTrees
from longrepo.data.template import FilePiece, TemplateSizes
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.used_context import Place
from longrepo.errors import InputError
from longrepo.repository.encodings import decode_text
from longrepo.repository.imports.statements import Import
from longrepo.repository.repository import Repository
from longrepo.utils.cache import SqliteCache, cache_folder
from longrepo.utils.hashing import line_hash

# What a file must have of a text to be recognized, in lines; one in n files counts as an n-th (docs/results.md).
_MIN_MATCH_LINES = 3
_MIN_KNOWN_SHARE = 0.9  # of the lines that any file has
_MIN_MATCH_SHARE = 0.2  # of all
_SCHEME = re.compile(r"^[A-Za-z][\w+.-]+:(?://[^/]*)?(?=/)")  # "file://", "vscode-remote://host"; not "C:"
_DRIVE = re.compile(r"^/?[A-Za-z]:/")


@dataclass(frozen=True)
class WorkingTree:
    """A repository's files at HEAD, read once."""

    folder: Path
    tree: RepoTree

    @staticmethod
    def read(repo: Path, tokenizer: RepoTokenizer, settings: Settings) -> WorkingTree:
        """Read a repository. Raises InputError if it isn't one, or has no commit."""
        cache = SqliteCache(cache_folder())
        try:
            repository = Repository.open(repo)
            head = repository.resolve()
            trees = RepoTrees(repository, head, tokenizer, settings, cache)
            try:
                return WorkingTree(repository.path, trees.at(head))
            finally:
                trees.close()
        finally:
            cache.close()

    @property
    def name(self) -> str:
        """The repository's name: its folder's."""
        return self.folder.name.removesuffix(".git")

    def context(
        self, place: Place, imports: Iterable[Import], room: int, sizes: TemplateSizes, without: Collection[str]
    ) -> list[FilePiece]:
        """Return what to show of other files before a place in one, in `room` tokens, the nearest to it first, nothing
        of a path in `without`; `imports` are its current import statements."""
        return self.tree.context(place, imports, room, sizes, without)

    def path_of(self, text: str) -> str | None:
        """Return the file that a text is from: the one with almost all lines of it that any file has, if they are
        enough.

        A line that is in many files, such as one of a licence's header, says little: in n files it counts as an n-th of
        a line. Lines in no file are new. None if two different files are equally good."""
        hashes, weights = self._weighted_lines(text)
        scores = self._scores(hashes, weights, self.tree.texts)
        best = max(sorted(scores), key=scores.__getitem__, default=None)
        known = weights[np.isin(hashes, self._line_counts[0])].sum()
        least = max(_MIN_MATCH_LINES, _MIN_KNOWN_SHARE * known, _MIN_MATCH_SHARE * weights.sum())
        if best is None or scores[best] < least - 1e-6:
            return None
        rivals = [path for path, score in scores.items() if score == scores[best]]
        same = all(self.tree.texts[path].text == self.tree.texts[best].text for path in rivals)
        return best if same else None

    def path_named(self, name: str, text: str) -> str | None:
        """Return the path in this repository that an editor means by `name`: a path in it or on the machine, a URI, or
        only a file name, which `text`, its beginning and end, tells from others of that name. The file may be new. None
        if the name is of a file outside."""
        name = name.strip()
        if name.startswith("untitled:"):
            return self.path_of(text)
        uri = _SCHEME.match(name)
        path = unquote(re.split("[?#]", name[uri.end() :])[0]) if uri else name.replace("\\", "/")
        if path.startswith("/") or _DRIVE.match(path):
            return self._within(path) or self._same_name(path, text)
        path = posixpath.normpath(path)
        if path in ("", ".") or path.startswith(".."):
            return None
        if "/" in path and path in self.tree.texts:
            return path
        return self._same_name(path, text) or path

    def newline(self, path: str | None) -> str:
        """Return the line end that git stores for a file; for a new one, or None, that of most files like it."""
        if path is not None and (stored := self._newlines.get(path)):
            return stored
        suffix = PurePosixPath(path or "").suffix
        like = [stored for other, stored in self._newlines.items() if PurePosixPath(other).suffix == suffix]
        counts = Counter(like or self._newlines.values())
        return "\r\n" if counts["\r\n"] > counts["\n"] else "\n"

    def _within(self, path: str) -> str | None:
        """Return an absolute path relative to the repository's folder; None if it is outside."""
        for folder in {self.folder, self.folder.resolve()}:
            root = folder.as_posix().rstrip("/") + "/"
            for one in (path, path.lstrip("/")):  # a drive's path in a URI begins with a slash
                if posixpath.normpath(one).startswith(root):
                    return posixpath.normpath(one)[len(root) :]
        return None

    def _same_name(self, path: str, text: str) -> str | None:
        """Return the file whose path ends like `path` and that has the most of the text's lines, at least one."""
        ending = "/" + (path if not path.startswith("/") and not _DRIVE.match(path) else posixpath.basename(path))
        like = {other: file for other, file in self.tree.texts.items() if f"/{other}".endswith(ending)}
        scores = self._scores(*self._weighted_lines(text), like)
        best = max(sorted(scores), key=scores.__getitem__, default=None)
        if best is None or scores[best] < 1 or sum(score == scores[best] for score in scores.values()) > 1:
            return None
        return best

    def _weighted_lines(self, text: str) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
        """Return the hashes of a text's lines and the weight of each, 1 / number of files with it."""
        hashes = np.array(sorted({line_hash(line) for line in text.splitlines()} - {0}), np.uint64)
        known, files = self._line_counts
        at = np.minimum(known.searchsorted(hashes), max(len(known) - 1, 0))
        counts = np.where(known[at] == hashes, files[at], 1) if len(known) else np.ones(len(hashes))
        return hashes, 1 / counts

    def _scores(
        self, hashes: NDArray[np.uint64], weights: NDArray[np.float64], files: Iterable[str]
    ) -> dict[str, float]:
        return {
            path: round(float(weights[np.isin(hashes, self.tree.texts[path].row_hashes)].sum()), 6) for path in files
        }

    @cached_property
    def _line_counts(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Each line's hash, ascending, and the number of files with it."""
        lines = [np.unique(text.row_hashes) for text in self.tree.texts.values()]
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *lines]), return_counts=True)

    @cached_property
    def _newlines(self) -> Mapping[str, str]:
        """The line end of each file that has one."""
        return {
            path: "\r\n" if 2 * file.text.count("\r\n") > file.text.count("\n") else "\n"
            for path, file in self.tree.texts.items()
            if "\n" in file.text
        }


def with_newlines(text: str, newline: str) -> str:
    """Return a text with these line ends."""
    text = text.replace("\r\n", "\n")
    return text if newline == "\n" else text.replace("\n", newline)


def newline_of(text: str) -> str:
    """Return the line end of most lines of a text."""
    return "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"


def enclosing_repository(file: Path) -> Path | None:
    """Return the folder of the repository that contains a file, or None."""
    return next((folder for folder in file.resolve().parents if (folder / ".git").exists()), None)


@dataclass(frozen=True)
class FilePosition:
    """A position in a file of the working tree. `path` is the file's in its repository `repo` (None: it is in none);
    `after` is None if the text after the position isn't to be shown."""

    repo: Path | None
    path: str
    before: str
    after: str | None


def read_position(
    file: Path, line: int | None, column: int | None, repo: Path | None, fim: bool | None
) -> FilePosition:
    """Read a file and split it at a position. Line and column start at 1; the column is before its character, None is
    the line's end. `fim` None: the text after it is shown if it is more than whitespace. Raises InputError if there is
    no such position."""
    if not file.is_file() and repo is not None and (repo / file).is_file():
        file = repo / file
    if line is None:
        raise InputError(f"--file {file} also needs --line N")
    text = _read_file(file)
    newline = "\r" if "\r" in text and "\n" not in text else "\n"
    lines = text.split(newline)
    if line > len(lines):
        raise InputError(f"--line {line}: {file} has {len(lines)} lines")
    row = lines[line - 1].removesuffix("\r")
    if column is not None and column > len(row) + 1:
        raise InputError(f"--column {column}: line {line} of {file} ends before column {len(row) + 1}")
    at = sum(len(one) + 1 for one in lines[: line - 1]) + (len(row) if column is None else column - 1)
    after = text[at:]
    shown = bool(after.strip()) if fim is None else fim
    root = repo if repo is not None else enclosing_repository(file)
    return FilePosition(root, _path_within(file, root), text[:at], after if shown else None)


def _read_file(file: Path) -> str:
    try:
        text = decode_text(file.read_bytes())
    except OSError as error:
        raise InputError(f"--file {file}: unreadable ({error.strerror}); give a file of the working tree") from None
    if text is None:
        raise InputError(f"--file {file}: isn't a text file")
    return text


def _path_within(file: Path, root: Path | None) -> str:
    if root is None:
        return file.name
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InputError(
            f"--file {file}: outside the repository {root}; give --repo the one that contains it"
        ) from None
