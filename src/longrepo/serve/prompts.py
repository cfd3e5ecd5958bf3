"""Prompts for a position in a file: as much of the file as fits, after related files of its repository at HEAD."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from longrepo.data.features import FeatureExtractor, FileJob, unpack_features
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
from longrepo.data.tokenizer import FimIds, RepoTokenizer
from longrepo.errors import InputError
from longrepo.repository.encodings import decode_text
from longrepo.serve.editor_text import EditorText, take_apart
from longrepo.serve.working_tree import WorkingTree, newline_of, with_newlines

_MIN_PROMPT_TOKENS = 64  # tokens of room that a prompt needs


@dataclass(frozen=True)
class CompletionPrompt:
    """A prompt's `ids` `[tokens]`; `fim`: whether it asks to fill a gap; `files`: the related files in it, the nearest
    first; `newline`: its line ends; `new`: how many tokens may follow."""

    ids: list[int]
    fim: bool
    files: tuple[str, ...] = ()
    newline: str = "\n"
    new: int = 0


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

        Text that doesn't fit is omitted, the farthest first; the file itself gets at least half of the room. Line ends
        are those that git stores."""
        room = _prompt_room(self.length, new)
        newline = self.around.newline(path) if self.around else newline_of(before + (after or ""))
        if self.around:
            before, after = with_newlines(before, newline), after and with_newlines(after, newline)
        own, rest = self._read(path, before), self._read(path, after or "")
        sizes = TemplateSizes(self.tokenizer)
        room -= sizes.frame(own) + (3 if after is not None else 0)
        imports = (*own.outline.imports, *rest.outline.imports)
        others = self.around.related(path, imports) if self.around else ()
        rest_piece = None if after is None else piece_from(rest, 0, room // 4)
        return replace(self._written(own, rest_piece, others, room, sizes), newline=newline, new=new)

    def from_text(self, text: str, after: str | None, new: int) -> CompletionPrompt:
        """Build a prompt for `new` tokens after a text as it is, or between it and `after`. Names of special tokens in
        the texts become these tokens. Raises InputError if the prompt is too long."""
        ids = self._marked(text)
        if after is not None:
            fim = self._fim()
            ids = [fim.prefix, *ids, fim.suffix, *self._marked(after), fim.middle]
        return self.from_ids(ids, new, newline_of(text))

    def from_ids(self, ids: list[int], new: int, newline: str = "\n") -> CompletionPrompt:
        """Build a prompt of token ids. Raises InputError if there are too many or one doesn't exist."""
        longest = self.longest or self.length
        if len(ids) > (room := _prompt_room(longest, new)):
            raise InputError(
                f"the prompt has {len(ids)} tokens, but {new} new ones leave {room} of {longest}: shorten it, or set a "
                "larger --length and, beyond the model's positions, a context.method and a context.target_length"
            )
        if wrong := [id for id in ids if not 0 <= id < self.tokenizer.vocabulary_size]:
            raise InputError(f"the prompt's token {wrong[0]} isn't one of the model's {self.tokenizer.vocabulary_size}")
        fim = self.tokenizer.fim
        return CompletionPrompt(ids, fim is not None and fim.middle in ids, (), newline, new)

    def fitting_ids(self, ids: list[int], new: int, newline: str = "\n") -> CompletionPrompt:
        """Build a prompt of token ids, after which `new` tokens may follow, or as many as it leaves room for."""
        room = (self.longest or self.length) - max(len(ids), _MIN_PROMPT_TOKENS)
        return self.from_ids(ids, min(new, max(1, room)), newline)

    def asked(self, text: str, after: str | None, new: int) -> CompletionPrompt:
        """Build a prompt for an editor's request. If its file is one of the repository (named in the text, or
        recognized by its lines), the prompt shows related files; otherwise the texts are used as they are, with names
        of special tokens in code as text. `new` is reduced if the prompt leaves less room."""
        asked = take_apart(text, after or None, self.tokenizer)
        if (path := self._path_of(asked)) is not None:
            return self.at(path, asked.before, asked.after, min(new, self.length // 2))
        newline = self.around.newline(None) if self.around else "\n"
        ids = self._ids_of(asked.convert(lambda part: with_newlines(part, newline)))
        return self.fitting_ids(ids, new, newline)

    def _path_of(self, asked: EditorText) -> str | None:
        """Return the path in the repository of the file that an editor asks about, which may be new."""
        if self.around is None:
            return None
        text = f"{asked.before}\n{asked.after or ''}"
        return self.around.path_named(asked.name, text) if asked.name else self.around.path_of(text)

    def _ids_of(self, asked: EditorText) -> list[int]:
        """Return the ids of an editor's texts; with none at all, the end token, after which a document begins."""
        head = self._marked(asked.head) if asked.head else []
        before = self.tokenizer.encode(asked.before)
        if asked.after is None:
            return [*head, *before] or [self.tokenizer.end_id]
        fim = self._fim()
        return [*head, fim.prefix, *before, fim.suffix, *self.tokenizer.encode(asked.after), fim.middle]

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


def read_prompt(value: str) -> str:
    """Return the value of `--prompt`, or standard input if it is `-`, decoded as files are. Raises InputError if that
    is empty or no text."""
    raw = sys.stdin.buffer.read() if value == "-" else os.fsencode(value)
    text = decode_text(raw)
    if text is None:
        raise InputError("--prompt: isn't text; give one in UTF-8")
    if not text:
        raise InputError("--prompt is empty; give a text to continue")
    return text
