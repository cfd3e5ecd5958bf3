"""What an editor sends: the code around the cursor, taken out of the template that the editor put it in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from longrepo.data.tokenizer import FILE_START, RepoTokenizer

_SEPARATORS = (FILE_START, "<file_sep>", "<|file_sep|>", "<|file_separator|>")  # a file's path follows
_FIM_MARKS = (  # of other families of models, whose format an editor may be set to: before, after, fill
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<PRE> ", " <SUF>", " <MID>"),
    (
        "<\N{FULLWIDTH VERTICAL LINE}fim\N{LOWER ONE EIGHTH BLOCK}begin\N{FULLWIDTH VERTICAL LINE}>",
        "<\N{FULLWIDTH VERTICAL LINE}fim\N{LOWER ONE EIGHTH BLOCK}hole\N{FULLWIDTH VERTICAL LINE}>",
        "<\N{FULLWIDTH VERTICAL LINE}fim\N{LOWER ONE EIGHTH BLOCK}end\N{FULLWIDTH VERTICAL LINE}>",
    ),
)
_PATH = r"""[ \t]*([^\n\r<>|"'`]{1,400}?)[ \t]*\r?\n"""
_URI_COMMENT = re.compile(r"^\W*File uri:\s*(\w[\w+.-]*:///?\S+)", re.MULTILINE | re.IGNORECASE)
_COMMENT_CHARACTERS = 500  # at the beginning of a text, in which an editor may name the file
_QUOTES = "\"'`"


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
        return EditorText(head, named[1] if named else _name_in_comment(before), before, after)
    if text.lstrip().startswith((FILE_START, *special)):
        return _split_files(text, header)
    return EditorText("", _name_in_comment(text), text, None)


def _own_gap(text: str, tokenizer: RepoTokenizer) -> tuple[str, str, str] | None:
    if tokenizer.fim is None:
        return None
    fim = tokenizer.fim
    return _split_gap(text, *(tokenizer.decode([id]) for id in (fim.prefix, fim.suffix, fim.middle)))


def _foreign_gap(text: str) -> tuple[str, str, str] | None:
    for marks in _FIM_MARKS:
        if (parts := _split_gap(text, *marks)) is not None and not parts[0].strip():
            return parts
    return None


def _split_files(text: str, header: str) -> EditorText:
    """Split a text that begins with a special token after its last file's path; without one, all of it is the head."""
    if not (headers := list(re.finditer(header, text))):
        return EditorText(text, None, "", None)
    last = headers[-1]
    return EditorText(text[: last.end()], last[1], text[last.end() :], None)


def _split_gap(text: str, prefix: str, suffix: str, middle: str) -> tuple[str, str, str] | None:
    """Return a template's text before its marks, and the code before and after the cursor; None if it has no marks.

    The orders are prefix-suffix-middle, suffix-prefix-middle, and StarCoder's
    prefix-suffix-(suffix)-middle-(prefix)."""
    starts, gaps, ends = (_places(text, mark) for mark in (prefix, suffix, middle))
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
