"""Questions about files: which import this one, which it imports, which a commit changed."""

from __future__ import annotations

import json
import posixpath
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from longrepo.repository.syntax.outline import Import
from longrepo.sequences.questions.kind import Kind, Question
from longrepo.sequences.questions.sources import SCRIPTS, Book, Source
from longrepo.sequences.questions.words import may_import, plain

_FEW = 3  # files in an answer at most
_ASKED = ("Python", "JavaScript", "TypeScript", "Java", "C", "C++")
_PACKAGES = frozenset(("__init__", "__main__", "index", "main", "lib", "mod"))  # files that stand for their folder
_SUBJECT = 120  # characters


def _imported(book: Book) -> Iterator[str]:
    return (path for path, by in book.graph.imported_by.items() if by and path in book.sources)


def _importers(book: Book, path: str) -> Question | str:
    importers = book.graph.imported_by[path]
    stem = _stem(path)
    if len(importers) > _FEW:
        return "imported by too many files to list"
    if not _can_be_told(book, path, stem) or any(one not in book.sources for one in importers):
        return "a file's name doesn't say which file is imported"
    if not all(_names(book.sources[one], stem) for one in importers):
        return "a file's name doesn't say which file is imported"
    known = {*importers, path}
    if any(source.path not in known and may_import(source, stem) for source in book.holders[stem]):
        return "another file may import it too"
    if all(plain(stem) in plain(_stem(one)) for one in importers):
        return "answered by the question itself"
    needs = (*((one, 0) for one in importers), (path, 0))
    return Question("importers", f"Which files import {path}?", ", ".join(importers), needs)


def _names(source: Source, stem: str) -> bool:
    """Whether an import of a source names a file's stem, and (scripts) its place too, not an alias for it."""
    if source.language in SCRIPTS:
        modules = (one.module for one in source.outline.imports if one.module.startswith("."))
        return any(posixpath.basename(one).partition(".")[0] == stem for one in modules)
    return may_import(source, stem)


def _can_be_told(book: Book, path: str, stem: str) -> bool:
    """Whether a file's stem says which file is meant wherever something is imported."""
    if stem in _PACKAGES or len(stem) < 4 or stem in sys.stdlib_module_names or stem in book.folders:
        return False
    if len(book.stems[stem]) > 1 or stem in book.outside.words or not re.fullmatch(r"\w+", stem, re.ASCII):
        return False
    return book.sources[path].language in _ASKED


def _importing(book: Book) -> Iterator[str]:
    return (path for path, found in book.graph.imports.items() if found and path in book.sources)


def _imports(book: Book, path: str) -> Question | str:
    source, found = book.sources[path], book.graph.imports[path]
    if len(found) > _FEW:
        return "imports too many files to list"
    if any(one not in book.sources or not _can_be_told(book, one, _stem(one)) for one in found):
        return "a file's name doesn't say which file is imported"
    stems = {_stem(one) for one in found}
    if any(not _accounted(book, source, one, stems) for one in source.outline.imports):
        return "an import may mean another file"
    if all(plain(_stem(one)) in plain(_stem(path)) for one in found):
        return "answered by the question itself"
    needs = ((path, 0), *((one, 0) for one in found))
    return Question("imports", f"Which files of the repository does {path} import?", ", ".join(found), needs)


def _accounted(book: Book, source: Source, one: Import, stems: set[str]) -> bool:
    """Whether an import means one of the files found, or certainly none of the repository."""
    parts = [part for part in re.split(r"[./]+", one.module) if part]
    if source.language == "Python":
        inside = one.level > 0 or (parts and _known(book, parts[0]))
        if one.level == 0 and parts and parts[0] in sys.stdlib_module_names:
            inside = _known(book, parts[0])
        meant = [*parts[-1:], *one.names]
        return not inside or (bool(parts) and parts[-1] in stems) or (bool(meant) and set(one.names) <= stems)
    if source.language in SCRIPTS:
        aliased = one.module.startswith(("@/", "~", "#")) or (bool(parts) and parts[0] in book.folders)
        return posixpath.basename(one.module).partition(".")[0] in stems if one.module[:1] == "." else not aliased
    if source.language == "Java":
        return one.module == "package" or bool(set(parts) & stems) or not (parts[:1] and _under_package(book, parts))
    return posixpath.basename(one.module).partition(".")[0] in stems


def _known(book: Book, part: str) -> bool:
    return part in book.folders or part in book.stems


def _under_package(book: Book, parts: Sequence[str]) -> bool:
    """Whether a Java import begins like a folder of the repository."""
    return all(part in book.folders for part in parts[:2])


def _changed(book: Book) -> Iterator[str]:
    return iter(book.commits)


def _change(book: Book, commit: str) -> Question | str:
    """What a commit changed: its message is asked about, its files are the answer."""
    facts = book.commits[commit]
    paths = sorted({fact.path for fact in facts})
    if len(paths) > _FEW:
        return "commit changed too many files to list"
    if len(paths) != facts[0].files or any(path not in book.sources for path in paths):
        return "commit changed files that are gone or left out"
    message = facts[0].message.strip().split("\n")[0]
    if any(plain(_stem(path)) in plain(message) for path in paths):
        return "answered by the question itself"
    subject = json.dumps(message[:_SUBJECT], ensure_ascii=False)
    needs = tuple((path, 0) for path in paths)
    return Question("change", f"Which files did commit {commit[:8]} {subject} change?", ", ".join(paths), needs)


def _stem(path: str) -> str:
    return PurePosixPath(path).name.partition(".")[0]


FILE_KINDS = (
    Kind("importers", _imported, _importers),
    Kind("imports", _importing, _imports),
    Kind("change", _changed, _change),
)
