"""Prompts for a position in a file: as much of the file as fits, after related files of its repository at HEAD.

What an editor sends is taken out of the template that the editor put it in.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from longrepo.data.dialects import DIALECTS, FIM_SPELLINGS, FimIds
from longrepo.data.features import FeatureExtractor, FileJob, unpack_features
from longrepo.data.marks import FILE_START
from longrepo.data.template import (
    FilePiece,
    TemplateSizes,
    fit_pieces,
    piece_from,
    write_context_files,
    write_file_gap,
    write_file_prefix,
)
from longrepo.data.text import TokenizedText, path_tokens
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.used_context import Place
from longrepo.errors import InputError
from longrepo.repository.encodings import decode_text
from longrepo.serve.working_tree import WorkingTree, newline_of, with_newlines

# A file's path follows.
_SEPARATORS = tuple(dict.fromkeys((FILE_START, *(dialect.file for dialect in DIALECTS if dialect.file))))
_PATH = r"""[ \t]*([^\n\r<>|"'`]{1,400}?)[ \t]*\r?\n"""
_URI_COMMENT = re.compile(r"^\W*File uri:\s*(\w[\w+.-]*:///?\S+)", re.MULTILINE | re.IGNORECASE)
_COMMENT_CHARACTERS = 500  # at the beginning of a text, in which an editor may name the file
_QUOTES = "\"'`"
_UNNAMED = "untitled"  # a file between others, if nobody says which it is


@dataclass(frozen=True)
class EditorText:
    """A request's code. `head` is the template's text before it, in which names of special tokens stand for them;
    `name` is the file's if the template has one; `after` is None if no text after the cursor is given."""

    head: str
    name: str | None
    before: str
    after: str | None

    def convert(self, change: Callable[[str], str]) -> EditorText:
        """Return the same with all its texts changed."""
        return EditorText(
            change(self.head), self.name, change(self.before), None if self.after is None else change(self.after)
        )


@dataclass(frozen=True)
class EditorFile:
    """A file, or a piece of one, that an editor shows beside the file in question."""

    name: str
    text: str


def take_apart(text: str, after: str | None, tokenizer: RepoTokenizer) -> EditorText:
    """Find the code in a request's prompt and suffix.

    A suffix means that both are code. A prompt alone is a template if it has fill-in-the-middle marks (those of another
    family of models too, if all of it is between them), or begins with a special token. In code, names of special
    tokens are text."""
    if after is not None:
        return EditorText("", _name_in_comment(text), text, after)
    special = {tokenizer.decode([id]) for id in tokenizer.special_ids}
    header = f"(?:{'|'.join(re.escape(name) for name in _SEPARATORS if name in {FILE_START, *special})}){_PATH}"
    if (parts := _own_gap(text, tokenizer) or _foreign_gap(text)) is not None:
        head, before, after = parts
        head = head if head.strip() else ""
        named = re.search(f"{header}$", head)
        if named is None and tokenizer.marks.ends_in_mark(head):
            named = re.match(_PATH, before)  # the path belongs to the prefix
        return EditorText(head, named[1] if named else _name_in_comment(before), before, after)
    if text.lstrip().startswith((FILE_START, *special)):
        return _split_files(text, header)
    return EditorText("", _name_in_comment(text), text, None)


def _own_gap(text: str, tokenizer: RepoTokenizer) -> tuple[str, str, str] | None:
    if tokenizer.fim is None:
        return None
    fim = tokenizer.fim
    middle = None if fim.middle is None else tokenizer.decode([fim.middle])
    return _split_gap(text, tokenizer.decode([fim.prefix]), tokenizer.decode([fim.suffix]), middle)


def _foreign_gap(text: str) -> tuple[str, str, str] | None:
    for marks in FIM_SPELLINGS:
        if (parts := _split_gap(text, *marks)) is not None and not parts[0].strip():
            return parts
    return None


def _split_files(text: str, header: str) -> EditorText:
    """Split a text that begins with a special token after its last file's path; without one, all of it is the head."""
    if not (headers := list(re.finditer(header, text))):
        return EditorText(text, None, "", None)
    last = headers[-1]
    return EditorText(text[: last.end()], last[1], text[last.end() :], None)


def _split_gap(text: str, prefix: str, suffix: str, middle: str | None) -> tuple[str, str, str] | None:
    """Return a template's text before its marks, and the code before and after the cursor; None if it has no marks.

    The orders are prefix-suffix-middle, suffix-prefix-middle (without a middle mark as well), and StarCoder's
    prefix-suffix-(suffix)-middle-(prefix)."""
    starts, gaps = _places(text, prefix), _places(text, suffix)
    if middle is None:
        if not (starts and gaps and gaps[0] < starts[-1]):
            return None
        return text[: gaps[0]], text[starts[-1] + len(prefix) :], text[gaps[0] + len(suffix) : starts[-1]]
    ends = _places(text, middle)
    if not (starts and gaps and ends):
        return None
    start, end, inner = starts[0], ends[-1], starts[0] + len(prefix)
    if text[end + len(middle) :].strip():  # a template may end with a line end of its own
        first = min((place for place in ends if place >= inner + len(suffix)), default=None)
        if gaps[0] != inner or first is None:
            return None
        return text[:start], text[first + len(middle) :], text[inner + len(suffix) : first]
    if gaps[0] < start:
        return text[: gaps[0]], text[inner:end], text[gaps[0] + len(suffix) : start]
    between = [gap for gap in gaps if inner <= gap < end]
    if not between:
        return None
    return text[:start], text[inner : between[-1]], text[between[-1] + len(suffix) : end]


def _places(text: str, mark: str) -> list[int]:
    """Return where a mark is, without those in quotation marks unless there are no others."""
    places = [one.start() for one in re.finditer(re.escape(mark), text)]
    around = [(text[max(place - 1, 0) : place], text[place + len(mark) : place + len(mark) + 1]) for place in places]
    bare = [place for place, (left, right) in zip(places, around, strict=True) if not _quoted(left, right)]
    return bare or places


def _quoted(left: str, right: str) -> bool:
    return bool(left and right) and left in _QUOTES and right in _QUOTES


def _name_in_comment(text: str) -> str | None:
    """Return the file's URI if the text begins with a comment that an editor put there to name it."""
    named = _URI_COMMENT.search(text[:_COMMENT_CHARACTERS])
    return named[1] if named else None


_MIN_PROMPT_TOKENS = 64  # tokens of room that a prompt needs
# What is omitted grows in steps of the room's eighth: between them a prompt's beginning stays as it is while its file
# grows, so that its keys and values can be used again.
_STEPS = 8
# The share of the length that the files which an editor sends may take. The length is the same for all requests, so
# these files, which come first, are the same tokens in each.
_SHOWN_SHARE = 3 / 8


@dataclass(frozen=True)
class CompletionPrompt:
    """A prompt's `ids` `[tokens]`; `fim`: whether it asks to fill a gap; `files`: the related files in it, the nearest
    first; `newline`: its line ends; `new`: how many tokens may follow; `cut`: whether something that the request had
    was omitted."""

    ids: list[int]
    fim: bool
    files: tuple[str, ...] = ()
    newline: str = "\n"
    new: int = 0
    cut: bool = False


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
    _last_shown: dict[EditorFile, FilePiece] = field(default_factory=dict, init=False, repr=False, compare=False)

    def at(
        self, path: str, before: str, after: str | None, new: int, shown: Sequence[EditorFile] = ()
    ) -> CompletionPrompt:
        """Build a prompt for `new` tokens in the file at `path`, between two texts (`after` None: at the end).

        Text that doesn't fit is omitted, the farthest first. The files `shown`, named by their paths, come first in
        their order; the file itself gets at least half of the room that they leave. Line ends are those that git
        stores."""
        room = _prompt_room(self.length, new)
        newline = self.around.newline(path) if self.around else newline_of(before + (after or ""))
        if self.around:
            before, after = with_newlines(before, newline), after and with_newlines(after, newline)
        own, rest = self._read(path, before), self._read(path, after or "")
        sizes = TemplateSizes(self.tokenizer, self.around.name if self.around else "")
        room -= sizes.head + sizes.frame(own) + (self._fim().size if after is not None else 0)
        rest_piece = None if after is None else piece_from(rest, 0, room // 4)
        place = Place(own, _settled(own), rest_piece)
        pieces = self._pieces([EditorFile(file.name, with_newlines(file.text, newline)) for file in shown])
        prompt = self._written(place, pieces, room, sizes)
        cut = prompt.cut or (rest_piece is not None and rest_piece.size < len(rest))
        return replace(prompt, newline=newline, new=new, cut=cut)

    def from_text(self, text: str, after: str | None, new: int) -> CompletionPrompt:
        """Build a prompt for `new` tokens after a text as it is, or between it and `after`. Names of special tokens in
        the texts become these tokens. Raises InputError if the prompt is too long."""
        ids = self._marked(text)
        if after is not None:
            ids = self._fim().prompt(ids, self._marked(after))
        return self.from_ids(self._begun(ids), new, newline_of(text))

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
        return CompletionPrompt(ids, fim is not None and fim.asked_in(ids), (), newline, new)

    def fitting_ids(self, ids: list[int], new: int, newline: str = "\n") -> CompletionPrompt:
        """Build a prompt of token ids, after which `new` tokens may follow, or as many as it leaves room for."""
        room = (self.longest or self.length) - max(len(ids), _MIN_PROMPT_TOKENS)
        return self.from_ids(ids, min(new, max(1, room)), newline)

    def asked(self, text: str, after: str | None, new: int) -> CompletionPrompt:
        """Build a prompt for an editor's request. If its file is one of the repository (named in the text, or
        recognized by its lines), the prompt shows related files; otherwise the texts are used as they are, with names
        of special tokens in code as text. `new` is reduced if the prompt leaves less room; of a text that leaves less
        than an eighth for them, what is farthest from the cursor is omitted."""
        return self._laid_out(take_apart(text, after or None, self.tokenizer), new)

    def infill(self, before: str, after: str, shown: Sequence[EditorFile], new: int) -> CompletionPrompt:
        """Build a prompt like `asked` for an editor that sends code alone (`after` without text: at the end), with the
        files that it shows before all else."""
        code = EditorText("", _name_in_comment(before), before, after if after.strip() else None)
        return self._laid_out(code, new, [EditorFile(self._path_shown(file), file.text) for file in shown])

    def _laid_out(self, asked: EditorText, new: int, shown: Sequence[EditorFile] = ()) -> CompletionPrompt:
        path = self._path_of(asked)
        if path is None and shown:  # between files, the file in question is one
            suffixes = Counter(PurePosixPath(file.name).suffix for file in shown)
            path = _UNNAMED + suffixes.most_common(1)[0][0]
        if path is not None:
            before, marks = asked.before, self.tokenizer.marks
            if marks.is_text or marks.ends_in_mark(asked.head):
                before = before.removeprefix(marks.header_line(asked.name or path))  # which `at` writes
            return self.at(path, before, asked.after, min(new, self.length // 2), shown)
        newline = self.around.newline(None) if self.around else "\n"
        return self._as_it_is(asked.convert(lambda part: with_newlines(part, newline)), new, newline)

    def _path_of(self, asked: EditorText) -> str | None:
        """Return the path in the repository of the file that an editor asks about, which may be new."""
        if self.around is None:
            return None
        text = f"{asked.before}\n{asked.after or ''}"
        return self.around.path_named(asked.name, text) if asked.name else self.around.path_of(text)

    def _as_it_is(self, asked: EditorText, new: int, newline: str) -> CompletionPrompt:
        """Build a prompt of an editor's texts alone; with none at all, of the token with which or after which one
        begins."""
        head = self._marked(asked.head) if asked.head else []
        before, after = self.tokenizer.encode(asked.before), self.tokenizer.encode(asked.after or "")
        longest = self.longest or self.length
        frame = (self.tokenizer.begin_id is not None) + (0 if asked.after is None else self._fim().size)
        size = frame + len(head) + len(before) + len(after)
        new = min(new, max(longest // _STEPS, longest - max(size, _MIN_PROMPT_TOKENS)))
        if cut := size > (room := _prompt_room(longest, new)):
            room -= frame
            after = after[: max(room // 4, room - len(head) - len(before))]
            over = _whole_steps(max(0, len(head) + len(before) + len(after) - room), max(1, room // _STEPS))
            head, before = head[over:], before[max(0, over - len(head)) :]
        ids = [*head, *before] if asked.after is None else [*head, *self._fim().prompt(before, after)]
        return replace(self.from_ids(self._begun(ids) or [self.tokenizer.end_id], new, newline), cut=cut)

    def _begun(self, ids: list[int]) -> list[int]:
        """Return the ids with the begin token before them, if the base has one and they don't begin with it."""
        begin = self.tokenizer.begin_id
        return ids if begin is None or ids[:1] == [begin] else [begin, *ids]

    def _written(
        self,
        place: Place,
        shown: Sequence[FilePiece],
        room: int,
        sizes: TemplateSizes,
    ) -> CompletionPrompt:
        own, after = place.of, place.after
        room -= after.size if after else 0
        first = fit_pieces(reversed(shown), min(int(self.length * _SHOWN_SHARE), room // 2), sizes)
        room -= sum(map(sizes.file, first))
        step = max(1, room // _STEPS)
        others = room - min(_whole_steps(len(own), step), room // 2)
        chosen = self._others(place, {piece.of.path for piece in shown}, others, sizes)
        left = room - sum(map(sizes.file, chosen))
        omitted = _whole_steps(max(0, len(own) - left), step)
        before = FilePiece(own, own.start_in(len(own), len(own) - omitted) if omitted else 0, len(own), (), False)
        builder = sizes.begin()
        write_context_files(builder, [*chosen, *first])
        if after is None:
            write_file_prefix(builder, before)
        else:
            write_file_gap(builder, before, after, self._fim())
        files = tuple(dict.fromkeys(piece.of.path for piece in (*chosen, *first)))
        cut = omitted > 0 or sum(piece.size for piece in first) < sum(piece.size for piece in shown)
        return CompletionPrompt(builder.arrays()[0].tolist(), after is not None, files, cut=cut)

    def _others(self, place: Place, shown: Collection[str], room: int, sizes: TemplateSizes) -> list[FilePiece]:
        """Return what to show of the repository's other files, the nearest first; the editor shows newer ones of
        `shown`."""
        if self.around is None:
            return []
        imports = (*place.of.outline.imports, *(place.after.of.outline.imports if place.after else ()))
        return self.around.context(place, imports, room, sizes, shown)

    def _pieces(self, shown: Sequence[EditorFile]) -> list[FilePiece]:
        """Read the files that an editor shows, whose names are paths; those of the last request are read already."""
        new = [file for file in dict.fromkeys(shown) if file not in self._last_shown]
        jobs = [FileJob(file.name, file.text) for file in new]
        pieces = {file: self._last_shown[file] for file in shown if file in self._last_shown}
        for file, features in zip(new, FeatureExtractor(self.tokenizer, None, 1.0).extract(jobs), strict=True):
            text = unpack_features(features, file.name, path_tokens(self.tokenizer, file.name)).text
            pieces[file] = FilePiece.whole(text, False)
        self._last_shown.clear()
        self._last_shown.update(pieces)
        return [pieces[file] for file in shown]

    def _path_shown(self, file: EditorFile) -> str:
        """Return the path of a file that an editor shows: in the repository, or what the editor calls it."""
        name = "".join(file.name.splitlines()[:1]).strip()
        path = self.around.path_named(name, file.text) if self.around and name else None
        name = name.replace("\\", "/")
        outside = ":" in name or name.startswith("/") or ".." in name.split("/")
        return path or (PurePosixPath(name).name if outside else name) or _UNNAMED

    def _read(self, path: str, text: str) -> TokenizedText:
        """Read a text like a file of training, but without redaction, since the completion has to continue it."""
        features = FeatureExtractor(self.tokenizer, None, 1.0).extract([FileJob(path, text)])[0]
        return unpack_features(features, path, path_tokens(self.tokenizer, path)).text

    def _marked(self, text: str) -> list[int]:
        return self.tokenizer.encode_marked(text)

    def _fim(self) -> FimIds:
        if self.tokenizer.fim is None:
            raise InputError(str(self.tokenizer.fim_note))
        return self.tokenizer.fim


def _whole_steps(tokens: int, step: int) -> int:
    """Round up to whole steps."""
    return -(-tokens // step) * step


_SETTLED_LINES = 16


def _settled(of: TokenizedText) -> int:
    """Return the token up to which a text before the cursor decides on other files: the start of every 16th line, so
    that they stay the same while a few lines are written; above that, the line's start."""
    rows = len(of.rows) - 1
    return of.row_token(rows - rows % _SETTLED_LINES if rows >= _SETTLED_LINES else rows)


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
