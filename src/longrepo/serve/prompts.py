"""Prompts for a position in a file: as much of the file as fits, after related files of its repository at HEAD."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longrepo.config.schema import Settings
from longrepo.data.features import FeatureExtractor, FileJob, unpack_features
from longrepo.data.repo_tree import RepoTree, RepoTrees
from longrepo.data.template import (
    FilePiece,
    SequenceBuilder,
    TemplateSizes,
    fit_pieces,
    piece_from,
    write_context_files,
    write_file_gap,
    write_file_prefix,
)
from longrepo.data.text import TokenizedText, path_tokens
from longrepo.data.tokenizer import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, FimIds, RepoTokenizer
from longrepo.errors import InputError
from longrepo.repository.imports.statements import Import
from longrepo.repository.repository import Repository
from longrepo.repository.types import decode_text
from longrepo.utils.cache import SqliteCache, cache_folder
from longrepo.utils.hashing import line_hash

_MIN_MATCH_SHARE = 0.5  # of a request's lines that a file must contain to be recognized
_MIN_PROMPT_TOKENS = 64  # tokens of room that a prompt needs
_FIM_PROMPT = re.compile(f".*?{FIM_PREFIX}(.*){FIM_SUFFIX}(.*){FIM_MIDDLE}", re.DOTALL)


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

    def related(self, path: str, imports: Iterable[Import]) -> Iterator[FilePiece]:
        """Yield the files related to the one at `path`, the nearest first; `imports` are its current import
        statements."""
        return (FilePiece.whole(self.tree.texts[one], False) for one in self.tree.related(path, imports))

    def path_of(self, text: str) -> str | None:
        """Return the file that contains most of a text's lines, if it contains at least half of them."""
        hashes = {line_hash(line) for line in text.split("\n")} - {0}
        wanted = np.array(sorted(hashes), np.uint64)
        shared = {path: int(np.isin(wanted, file.row_hashes).sum()) for path, file in self.tree.texts.items()}
        best = max(sorted(shared), key=shared.__getitem__, default=None)
        return best if best and hashes and shared[best] >= _MIN_MATCH_SHARE * len(hashes) else None


def enclosing_repository(file: Path) -> Path | None:
    """Return the folder of the repository that contains a file, or None."""
    return next((folder for folder in file.resolve().parents if (folder / ".git").exists()), None)


@dataclass(frozen=True)
class CompletionPrompt:
    """A prompt's `ids` `[tokens]`; `fim`: whether it asks to fill a gap; `files`: the related files in it, the nearest
    first."""

    ids: list[int]
    fim: bool
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptBuilder:
    """Builds prompts that leave room for a completion.

    Prompt and completion have `length` tokens together; a text that is used as it is may have `longest` (None:
    `length`).
    """

    tokenizer: RepoTokenizer
    length: int
    around: WorkingTree | None = None
    longest: int | None = None

    def at(self, path: str, before: str, after: str | None, new: int) -> CompletionPrompt:
        """Build a prompt for `new` tokens in the file at `path`, between two texts (`after` None: at the end).

        Text that doesn't fit is omitted, the farthest first; the file itself gets at least half of the room."""
        room = _prompt_room(self.length, new)
        own, rest = self._read(path, before), self._read(path, after or "")
        sizes = TemplateSizes(self.tokenizer)
        room -= sizes.frame(own) + (3 if after is not None else 0)
        imports = (*own.outline.imports, *rest.outline.imports)
        others = self.around.related(path, imports) if self.around else ()
        if after is None:
            return self._written(own, None, others, room, sizes)
        return self._written(own, piece_from(rest, 0, room // 4), others, room, sizes)

    def from_text(self, text: str, after: str | None, new: int) -> CompletionPrompt:
        """Build a prompt for `new` tokens after a text as it is, or between it and `after`. Names of special tokens in
        the texts become these tokens. Raises InputError if the prompt is too long."""
        ids = self._marked(text)
        if after is not None:
            fim = self._fim()
            ids = [fim.prefix, *ids, fim.suffix, *self._marked(after), fim.middle]
        longest = self.longest or self.length
        if len(ids) > (room := _prompt_room(longest, new)):
            raise InputError(
                f"the prompt has {len(ids)} tokens, but {new} new ones leave {room} of {longest}: shorten it, or set a "
                "larger --length and, beyond the model's positions, a context.method and a context.target_length"
            )
        return CompletionPrompt(ids, after is not None or (self.tokenizer.fim is not None and FIM_MIDDLE in text))

    def asked(self, text: str, after: str | None, new: int) -> CompletionPrompt:
        """Build a prompt for an editor's request, which doesn't name its file: if a file of the repository is
        recognized, the prompt shows related files, otherwise the texts are used as they are."""
        gap = _FIM_PROMPT.fullmatch(text) if after is None else None
        before, rest = (gap[1], gap[2]) if gap else (text, after)
        path = self.around.path_of(f"{before}\n{rest or ''}") if self.around else None
        return self.at(path, before, rest, new) if path else self.from_text(text, after, new)

    def _written(
        self, own: TokenizedText, after: FilePiece | None, others: Iterable[FilePiece], room: int, sizes: TemplateSizes
    ) -> CompletionPrompt:
        room -= after.size if after else 0
        chosen = fit_pieces(others, room - min(len(own), room // 2), sizes)
        left = room - sum(map(sizes.file, chosen))
        before = FilePiece(own, own.start_in(len(own), left), len(own), (), False)
        builder = SequenceBuilder(self.tokenizer)
        write_context_files(builder, chosen)
        if after is None:
            write_file_prefix(builder, before)
        else:
            write_file_gap(builder, before, after, self._fim())
        files = tuple(dict.fromkeys(piece.of.path for piece in chosen))
        return CompletionPrompt(builder.arrays()[0].tolist(), after is not None, files)

    def _read(self, path: str, text: str) -> TokenizedText:
        """Read a text like a file of training, but without redaction, since the completion has to continue it."""
        features = FeatureExtractor(self.tokenizer, None, 1.0).extract([FileJob(path, text)])[0]
        return unpack_features(features, path, path_tokens(self.tokenizer, path)).text

    def _marked(self, text: str) -> list[int]:
        return self.tokenizer.encode_marked(text)

    def _fim(self) -> FimIds:
        if self.tokenizer.fim is None:
            raise InputError(f"{self.tokenizer.name}: its tokenizer has no fill-in-the-middle tokens")
        return self.tokenizer.fim


def _prompt_room(length: int, new: int) -> int:
    if (room := length - new) < _MIN_PROMPT_TOKENS:
        raise InputError(
            f"{new} new tokens leave {max(room, 0)} of {length} for the prompt, which needs {_MIN_PROMPT_TOKENS}"
        )
    return room


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
    lines = text.split("\n")
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


def read_prompt(value: str) -> str:
    """Return the value of `--prompt`, or standard input if it is `-`. Raises InputError if that is empty."""
    text = sys.stdin.read() if value == "-" else value
    if not text:
        raise InputError("--prompt is empty; give a text to continue")
    return text


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
