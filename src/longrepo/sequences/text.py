"""A text and its tokens, cut without losing one: a piece is a slice of the whole text's tokens."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from longrepo.repository.model import TextFile
from longrepo.repository.syntax import cuts
from longrepo.sequences.tokenizer import Offsets, RepoTokenizer

MAX_PATH_TOKENS = 40  # a longer path keeps its end: the file's own name
_IMPORT = re.compile(
    r"(import|from|use|using|package|extern crate|mod|require|include|#\s*include|#\s*import)\b|const .*\brequire\("
)
_SOMETHING = re.compile(r"\S")
PROSE = {"Other", "Markdown", "reStructuredText", "Text", "JSON", "YAML", "TOML", "CSV", "INI", "XML", "HTML"}
_IMPORT_LINES = 200  # imports stand at the top; further down the pattern mostly meets prose


@dataclass
class TokenizedText:
    """A text with its token ids and the character each token begins at, both `[tokens]`."""

    path: str
    text: str
    language: str
    ids: list[int]
    starts: Offsets
    path_ids: list[int] = field(default_factory=list)  # " path\n", as it stands after a file's start token
    has_syntax: bool = True  # False for a diff: it is cut at its lines

    def __len__(self) -> int:
        return len(self.ids)

    def token_at(self, character: int) -> int:
        """The last token boundary at or before a character: a token may span "\\n" and the indentation after it."""
        at = int(np.searchsorted(self.starts, character, side="left"))
        if at == 0 or character >= len(self.text) or (at < len(self.ids) and int(self.starts[at]) == character):
            return at
        # Inside a token; where a character takes several tokens they share a start, and the first of them is meant.
        return int(np.searchsorted(self.starts, self.starts[at - 1], side="left"))

    def slice_text(self, start: int, end: int) -> str:
        """The text of tokens start..end."""
        if start >= end:
            return ""
        last = int(self.starts[end]) if end < len(self.ids) else len(self.text)
        return self.text[int(self.starts[start]) : last]

    @cached_property
    def cuts(self) -> list[int]:
        """Token boundaries at which a piece may begin without cutting a syntax node, ascending, the ends left out."""
        return self._boundaries(cuts(self.text, self.language)) if self.has_syntax else []

    @cached_property
    def lines(self) -> list[int]:
        """Token boundaries at which a line begins, ascending, the ends left out."""
        return self._boundaries(match.end() for match in re.finditer("\n", self.text))

    def _boundaries(self, characters: Iterable[int]) -> list[int]:
        return sorted({self.token_at(at) for at in characters} - {0, len(self.ids)})

    def row_token(self, row: int) -> int:
        """The token boundary at which a row (0-based) begins; the end for one beyond the last."""
        return self.token_at(self._row_starts[row]) if row < len(self._row_starts) else len(self.ids)

    def cut_in(self, start: int, limit: int, at_least: int = 0) -> tuple[int, str]:
        """Where to end a piece that begins at token `start` and may reach to `limit`, and how: the last syntax cut
        that leaves at least `at_least` tokens, else the last line start that does, else the limit itself."""
        low = start + max(1, at_least)
        for how, boundaries in (("syntax", self.cuts), ("line", self.lines)):
            index = bisect_right(boundaries, limit) - 1
            if index >= 0 and boundaries[index] >= low:
                return boundaries[index], how
        return limit, "token"

    def start_in(self, end: int, room: int) -> int:
        """The first line start that leaves at most `room` tokens up to `end` (`end - room` where no line starts)."""
        first = max(0, end - room)
        if first == 0:
            return 0
        index = bisect_left(self.lines, first)
        found = self.lines[index] if index < len(self.lines) else end
        return found if found < end else first

    def head(self, start: int, budget: int) -> list[tuple[int, int]]:
        """What a piece from token `start` on needs of what stands above it: import lines and the lines it is
        indented under, as token ranges, at most `budget` tokens in all."""
        if start <= 0 or start >= len(self.ids):
            return []
        rows = self._row_of(int(self.starts[start]))
        top = 0 if self.language in PROSE else min(rows, _IMPORT_LINES)
        wanted = [row for row in range(top) if _IMPORT.match(self._rows[row])]
        ranges: list[tuple[int, int]] = []
        for row in [*self._enclosing(rows), *wanted]:
            span = (self.row_token(row), self.row_token(row + 1))
            size = span[1] - span[0]
            if 0 < size <= budget and span[1] <= start and span not in ranges:
                ranges.append(span)
                budget -= size
        return sorted(ranges)

    @cached_property
    def _rows(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def _row_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def _row_of(self, character: int) -> int:
        """The row of the first thing that isn't blank from a character on: its indentation is the piece's."""
        found = _SOMETHING.search(self.text, character)
        return bisect_right(self._row_starts, found.start() if found else character) - 1

    def _enclosing(self, row: int) -> list[int]:
        indent = _indent(self._rows[row])
        found: list[int] = []
        for above in range(row - 1, -1, -1):
            line = self._rows[above]
            if indent == 0:
                break
            if line.strip() and _indent(line) < indent:
                indent = _indent(line)
                found.append(above)
        return found[::-1]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def tokenize_files(tokenizer: RepoTokenizer, files: Iterable[TextFile]) -> dict[str, TokenizedText]:
    """Path → tokenized text; each blob is tokenized once, however many paths hold it."""
    listed = list(files)
    blobs = {file.blob: file.text for file in listed}
    encoded = dict(zip(blobs, tokenizer.encode_many(blobs.values()), strict=True))
    return {
        file.path: TokenizedText(
            file.path, file.text, file.language, *encoded[file.blob], path_ids=path_tokens(tokenizer, file.path)
        )
        for file in listed
    }


def path_tokens(tokenizer: RepoTokenizer, path: str) -> list[int]:
    """The tokens of " path\\n", a very long path without its beginning."""
    ids = tokenizer.encode(f" {path}\n")
    return ids[-MAX_PATH_TOKENS:]
