"""Place in a file -> prompt.

What stands around a file in its repository, at HEAD: what an editor has to show beside the place it asks at.

What a model is asked: as much of a file as fits, behind its repository's related files where there are any.

Where to write: a place in a file of a working tree.
"""

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

_MIN_MATCH_SHARE = 0.5  # of the lines asked at, which a file must hold to be the one they are from


@dataclass(frozen=True)
class WorkingTree:
    """A repository's files as they stand at HEAD, read once."""

    folder: Path
    tree: RepoTree

    @staticmethod
    def read(repo: Path, tokenizer: RepoTokenizer, settings: Settings) -> WorkingTree:
        """Raises InputError where it is no repository, or one without a commit."""
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

    def others(self, path: str, seen: Iterable[Import]) -> Iterator[FilePiece]:
        """The files related to the one at `path`, nearest first. `seen`: what that imports now."""
        return (FilePiece.whole(self.tree.texts[one], False) for one in self.tree.related(path, seen))

    def path_of(self, text: str) -> str | None:
        """The file that holds most of a text's lines, if it holds half of them: the one it is from."""
        asked = {line_hash(line) for line in text.split("\n")} - {0}
        wanted = np.array(sorted(asked), np.uint64)
        shared = {path: int(np.isin(wanted, of.row_hashes).sum()) for path, of in self.tree.texts.items()}
        best = max(sorted(shared), key=shared.__getitem__, default=None)
        return best if best and asked and shared[best] >= _MIN_MATCH_SHARE * len(asked) else None


def enclosing_repository(file: Path) -> Path | None:
    """The folder of the repository that a file lies in."""
    return next((folder for folder in file.resolve().parents if (folder / ".git").exists()), None)


_MIN_PROMPT_TOKENS = 64  # tokens that a prompt has room for at least
_FIM_PROMPT = re.compile(f".*?{FIM_PREFIX}(.*){FIM_SUFFIX}(.*){FIM_MIDDLE}", re.DOTALL)


@dataclass(frozen=True)
class CompletionPrompt:
    """`ids` `[tokens]`; whether they ask for what fills a gap; the other files in them, the nearest first."""

    ids: list[int]
    fim: bool
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptBuilder:
    """Makes prompts that leave room for a completion: in `length` tokens what is put together here; a text that is
    taken as it is may have `longest`, the completion's with it (None: `length`, too)."""

    tokenizer: RepoTokenizer
    length: int
    around: WorkingTree | None = None
    longest: int | None = None

    def at(self, path: str, before: str, after: str | None, new: int) -> CompletionPrompt:
        """For `new` tokens in the file at `path`, between two texts; None: at the end. What doesn't fit is left out,
        the farthest first; the file itself has half the room at least."""
        room = _prompt_room(self.length, new)
        own, rest = self._read(path, before), self._read(path, after or "")
        sizes = TemplateSizes(self.tokenizer)
        room -= sizes.frame(own) + (3 if after is not None else 0)
        seen = (*own.outline.imports, *rest.outline.imports)
        others = self.around.others(path, seen) if self.around else ()
        if after is None:
            return self._written(own, None, others, room, sizes)
        return self._written(own, piece_from(rest, 0, room // 4), others, room, sizes)

    def from_text(self, text: str, after: str | None, new: int) -> CompletionPrompt:
        """For `new` tokens after a text as it is, in which the names of special tokens are these tokens, or between
        it and another. Raises InputError where it doesn't fit."""
        ids = self._marked(text)
        if after is not None:
            fim = self._fim()
            ids = [fim.prefix, *ids, fim.suffix, *self._marked(after), fim.middle]
        longest = self.longest or self.length
        if len(ids) > (room := _prompt_room(longest, new)):
            raise InputError(
                f"the prompt has {len(ids)} tokens; of {longest} in all, {new} new ones leave {room}: give less, or a "
                "larger --length, and beyond the model's positions a context.method and a context.target_length"
            )
        return CompletionPrompt(ids, after is not None or (self.tokenizer.fim is not None and FIM_MIDDLE in text))

    def asked(self, text: str, after: str | None, new: int) -> CompletionPrompt:
        """As an editor asks, which doesn't say in which file: where one of the repository is recognised, with what
        stands around it there, else as given."""
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
        draft = SequenceBuilder(self.tokenizer)
        write_context_files(draft, chosen)
        if after is None:
            write_file_prefix(draft, before)
        else:
            write_file_gap(draft, before, after, self._fim())
        files = tuple(dict.fromkeys(piece.of.path for piece in chosen))
        return CompletionPrompt(draft.arrays()[0].tolist(), after is not None, files)

    def _read(self, path: str, text: str) -> TokenizedText:
        """As the files of training, but nothing redacted: it is to go on as it stands."""
        found = FeatureExtractor(self.tokenizer, None, 1.0).extract([FileJob(path, text)])[0]
        return unpack_features(found, path, path_tokens(self.tokenizer, path)).text

    def _marked(self, text: str) -> list[int]:
        return list(self.tokenizer.source.encode(text, add_special_tokens=False))

    def _fim(self) -> FimIds:
        if self.tokenizer.fim is None:
            raise InputError(f"{self.tokenizer.name}: its tokenizer has no fill-in-the-middle tokens")
        return self.tokenizer.fim


def _prompt_room(length: int, new: int) -> int:
    if (room := length - new) < _MIN_PROMPT_TOKENS:
        raise InputError(
            f"{new} new tokens leave {max(room, 0)} of {length} for the prompt, which takes {_MIN_PROMPT_TOKENS} at "
            f"least"
        )
    return room


@dataclass(frozen=True)
class FilePosition:
    """`path` is the file's, within its repository `repo` (None: it lies in none); `after` is None where nothing that
    stands after the place is to be shown."""

    repo: Path | None
    path: str
    before: str
    after: str | None


def read_position(
    file: Path, line: int | None, column: int | None, repo: Path | None, fim: bool | None
) -> FilePosition:
    """Line and column count from 1, the column before its character; None: the line's end. `fim` None: what stands
    after is shown where it is more than white space. Raises InputError where there is no such place."""
    if not file.is_file() and repo is not None and (repo / file).is_file():
        file = repo / file
    if line is None:
        raise InputError(f"--file {file}: at which line? give --line N")
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


def read_prompt(given: str) -> str:
    """The text itself, `-` for standard input. Raises InputError where there is none."""
    text = sys.stdin.read() if given == "-" else given
    if not text:
        raise InputError("--prompt: is empty; give a text to go on from")
    return text


def _read_file(file: Path) -> str:
    try:
        text = decode_text(file.read_bytes())
    except OSError as error:
        raise InputError(f"--file {file}: can't be read ({error.strerror}); give a file of the working tree") from None
    if text is None:
        raise InputError(f"--file {file}: isn't a text file")
    return text


def _path_within(file: Path, root: Path | None) -> str:
    if root is None:
        return file.name
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InputError(f"--file {file}: lies outside the repository {root}; give the --repo it is in") from None
