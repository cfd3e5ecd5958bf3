"""Where to write: a place in a file of a working tree."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from longrepo.errors import InputError
from longrepo.repository.decode import decode_text
from longrepo.use.around import enclosing


@dataclass(frozen=True)
class Place:
    """`path` is the file's, within its repository `repo` (None: it lies in none); `after` is None where nothing that
    stands after the place is to be shown."""

    repo: Path | None
    path: str
    before: str
    after: str | None


def read_place(file: Path, line: int | None, column: int | None, repo: Path | None, fim: bool | None) -> Place:
    """Line and column count from 1, the column before its character; None: the line's end. `fim` None: what stands
    after is shown where it is more than white space. Raises InputError where there is no such place."""
    if not file.is_file() and repo is not None and (repo / file).is_file():
        file = repo / file
    if line is None:
        raise InputError(f"--file {file}: at which line? give --line N")
    text = _read(file)
    lines = text.split("\n")
    if line > len(lines):
        raise InputError(f"--line {line}: {file} has {len(lines)} lines")
    row = lines[line - 1].removesuffix("\r")
    if column is not None and column > len(row) + 1:
        raise InputError(f"--column {column}: line {line} of {file} ends before column {len(row) + 1}")
    at = sum(len(one) + 1 for one in lines[: line - 1]) + (len(row) if column is None else column - 1)
    after = text[at:]
    shown = bool(after.strip()) if fim is None else fim
    root = repo if repo is not None else enclosing(file)
    return Place(root, _within(file, root), text[:at], after if shown else None)


def read_prompt(given: str) -> str:
    """The text itself, `-` for standard input. Raises InputError where there is none."""
    text = sys.stdin.read() if given == "-" else given
    if not text:
        raise InputError("--prompt: is empty; give a text to go on from")
    return text


def _read(file: Path) -> str:
    try:
        text = decode_text(file.read_bytes())
    except OSError as error:
        raise InputError(f"--file {file}: can't be read ({error.strerror}); give a file of the working tree") from None
    if text is None:
        raise InputError(f"--file {file}: isn't a text file")
    return text


def _within(file: Path, root: Path | None) -> str:
    if root is None:
        return file.name
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InputError(f"--file {file}: lies outside the repository {root}; give the --repo it is in") from None
