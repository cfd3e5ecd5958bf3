"""How a text shows where repositories, files, changes and snippets begin: the one description that sequences and
prompts are written and read by.

`data.structure_tokens` chooses among three kinds. `added`: tokens of longrepo's own, with new rows in the embedding.
`none`: the names of these tokens as text. `native`: the base's own tokens, as its dialect was pretrained with them, and
text where it has none; nothing is added to the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from longrepo.data.dialects import Dialect

Ids = npt.NDArray[np.int32]
MarksKind = Literal["added", "native", "none"]

# The places of marks, by the names that the added tokens have.
FILE_START, FILE_END = "<|FILE_START|>", "<|FILE_END|>"
COMMIT_START, COMMIT_END = "<|COMMIT_START|>", "<|COMMIT_END|>"
SNIPPET_TOKENS = tuple(f"<|SNIPPET_{n}|>" for n in range(16))
STRUCTURE_TOKENS = (FILE_START, FILE_END, COMMIT_START, COMMIT_END, *SNIPPET_TOKENS)
REPOSITORY, HUNKS = "repository", "hunks"  # of the base's own marks alone


@dataclass(frozen=True)
class Layout:
    """The texts of marks; the names of special tokens in them stand for these.

    `file` comes before a path, which stands between the two texts of `path`, and `file_end` after the file's text.
    `commit` comes before " id8 message\\n", `commit_end` after the hunks. `hunks` are the texts before, between and
    after the changed file's path, which come before the first hunk (none: no path does). `snippet` comes before the
    path of a numbered snippet, and `snippet_name` is what an answer calls it. `repository`: what comes before and after
    a repository's name, at the beginning (none: it isn't named). `path_in_fim`: in a fill-in-the-middle, the path comes
    after the prefix's mark.
    """

    file: str = FILE_START
    path: tuple[str, str] = (" ", "\n")
    file_end: str = FILE_END
    commit: str = COMMIT_START
    hunks: tuple[str, ...] = ()
    commit_end: str = COMMIT_END
    snippet: str = "<|SNIPPET_{}|>"
    snippet_name: str = "<|SNIPPET_{}|>"
    repository: tuple[str, ...] = ()
    path_in_fim: bool = False

    def text(self, place: str) -> str:
        """Return the text of the mark of a place."""
        if place in SNIPPET_TOKENS:
            return self.snippet.format(SNIPPET_TOKENS.index(place))
        own = {FILE_START: self.file, FILE_END: self.file_end, COMMIT_START: self.commit, COMMIT_END: self.commit_end}
        return own[place]


NAMED_LAYOUT = Layout()
_UNIFIED_DIFF = ("--- a/", "+++ b/", "")
_SNIPPET_NAME = " snippet_{}"


def native_layout(dialect: Dialect) -> Layout:
    """Return the layout in a base's own tokens.

    The next file's mark ends a file. Of changes only StarCoder2 was shown hunks, in its pull requests; StarCoder's
    commits are two whole versions, so with its tokens, and with none, a change is text, as `git log -p` prints it.
    Without a token for files a line of text holds the path.
    """
    if dialect.file is None:
        line, blank = dialect.path_line
        own = Layout(
            file=f"\n{line}",
            path=(blank, "\n"),
            file_end="",
            commit="\ncommit",
            hunks=("---", "+++", "") if blank else _UNIFIED_DIFF,
            commit_end="",
            snippet=f"\n{line} snippet_{{}}:" if blank else f"\n{line}snippet_{{}}/",
            snippet_name=_SNIPPET_NAME,
        )
    else:
        own = Layout(
            file=dialect.file,
            path=("", "\n"),
            file_end="",
            commit=f"{dialect.file}commit",
            hunks=_UNIFIED_DIFF,
            commit_end="",
            snippet=f"{dialect.file}snippet_{{}}/",
            snippet_name=_SNIPPET_NAME,
            repository=(dialect.repository, dialect.after_repository) if dialect.repository else (),
            path_in_fim=dialect.path_in_fim,
        )
    if dialect.fim is not None and dialect.fim.end == dialect.file is not None:  # CodeGemma's stands after a file
        own = replace(own, file="", file_end=dialect.file, commit="commit", commit_end=dialect.file)
    if (request := dialect.pull_request) is not None:
        own = replace(own, commit=f"{request.start}Title:", hunks=(f"{request.diff}\n{request.file}", request.hunk))
    return own


class Marks:
    """The marks of a tokenizer, as token ids."""

    def __init__(
        self, kind: MarksKind, layout: Layout, encode: Callable[[str], list[int]], special: Mapping[str, int]
    ) -> None:
        """`encode` tokenizes plain text; `special` are the special tokens by name."""
        self.kind: MarksKind = kind
        self.layout = layout
        self._encode = encode
        self._special = special
        self._known: dict[str, Ids] = {}

    def at(self, place: str, first: bool = False) -> Ids:
        """Return the mark of a place (`FILE_START`, `SNIPPET_TOKENS[n]`, …); it may be empty. `first`: nothing is
        before it, so no line has to end."""
        text = self.layout.text(place)
        return self._ids(text.lstrip("\n") if first else text)

    def repository(self, name: str) -> Ids:
        """Return a repository's name with its marks; nothing if the layout doesn't name it."""
        if not self.layout.repository or not name:
            return self._ids("")
        before, after = self.layout.repository
        return np.concatenate([self._ids(before), np.array(self._encode(name + after), np.int32)])

    def hunks(self, path: Ids | None) -> Ids:
        """Return what comes between a commit's message and its hunks, for a path as `path_tokens` gives it; nothing for
        None."""
        if path is None or not self.layout.hunks:
            return self._ids("")
        first, *rest = map(self._ids, self.layout.hunks)
        return np.concatenate([first, *(piece for text in rest for piece in (path, text))])

    def snippet_name(self, number: int) -> Ids:
        """Return what an answer calls a snippet."""
        return self._ids(self.layout.snippet_name.format(number))

    def path_text(self, path: str) -> str:
        """Return a path as it follows a file's mark."""
        before, after = self.layout.path
        return f"{before}{path}{after}"

    def header_line(self, path: str) -> str:
        """Return the line that comes before a file's text, without a special token."""
        file = "" if self.layout.file in self._special else self.layout.file.lstrip("\n")
        return file + self.path_text(path)

    def ends_in_mark(self, text: str) -> bool:
        """Whether a text ends with a file's mark, without a path."""
        return self.layout.file in self._special and text.endswith(self.layout.file)

    @property
    def ends_part_files(self) -> bool:
        """Whether only the mark of a file's end parts it from the next file: then it stands behind a cut piece, too."""
        return not self.layout.file

    @property
    def is_text(self) -> bool:
        """Whether a file's mark is plain text."""
        return bool(self.layout.file) and self.layout.file not in self._special

    @property
    def special_names(self) -> Mapping[str, int]:
        """The special tokens by name, whether or not a mark has them."""
        return self._special

    @cached_property
    def token_ids(self) -> frozenset[int]:
        """The special tokens in its marks."""
        layout = self.layout
        texts = [*map(layout.text, STRUCTURE_TOKENS), *layout.hunks, *layout.repository]
        return frozenset(id for name, id in self._special.items() if any(name in text for text in texts))

    @cached_property
    def places(self) -> dict[str, str]:
        """The special token that opens a mark → the first place that it opens."""
        openings = {place: self.layout.text(place) for place in STRUCTURE_TOKENS}
        openings |= {HUNKS: self.layout.hunks[0]} if self.layout.hunks else {}
        openings |= {REPOSITORY: self.layout.repository[0]} if self.layout.repository else {}
        found: dict[str, str] = {}
        for place, text in openings.items():
            if name := next((name for name in self._special if text.startswith(name)), None):
                found.setdefault(name, place)
        return found

    @cached_property
    def snippet_pattern(self) -> re.Pattern[str]:
        """Finds snippets' marks in decoded text; the group is the number."""
        before, after = self.layout.snippet.split("{}")
        start = r"(?:\A|\n)" if before.startswith("\n") else ""
        return re.compile(f"{start}{re.escape(before.lstrip())}(\\d+){re.escape(after)}")

    def __str__(self) -> str:
        """Name the kind and the tokens."""
        if self.kind != "native":
            return self.kind
        texts = (*self.layout.repository[:1], self.layout.file, self.layout.file_end)
        names = [name for name in texts if name in self._special]
        tokens = " ".join(names) if names else f"text, {self.header_line('path').strip()}"
        return f"native ({tokens})"

    def _ids(self, text: str) -> Ids:
        if text not in self._known:
            names = sorted((name for name in self._special if name in text), key=len, reverse=True)
            parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
            pieces = [[self._special[part]] if part in names else self._encode(part) for part in parts if part]
            self._known[text] = np.array([id for piece in pieces for id in piece], np.int32)
        return self._known[text]
