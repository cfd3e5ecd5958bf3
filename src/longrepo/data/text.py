"""A tokenized text with the places of its lines, cuts and names as arrays: a piece of a sequence is a slice of them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from longrepo.data.tokenizer import RepoTokenizer
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.repository.outline import Outline

MAX_PATH_TOKENS = 40  # of a longer path only the end is kept, with the file's own name
# How a statement begins that says what a file uses or is part of, at the start of a line.
_IMPORTS = {
    language: re.compile(pattern, re.IGNORECASE if language in ("Fortran", "Pascal", "COBOL", "Ada", "VHDL") else 0)
    for pattern, languages in {
        r"from\s+[\w.]+\s+c?import\b|c?import\s+\w": "Python|GDScript|Nim|Mojo",
        r"import\b(?!\s*[(.])|export\b.*\bfrom\b|(const|let|var)\b.*\brequire\(": "JavaScript|TypeScript|Vue|Svelte",
        r"(package|import|@file:|@testable\s+import)\b": "Go|Java|Kotlin|Scala|Groovy|Swift",
        r"((global\s+)?using|namespace\s+[\w.]+(?=\s*;)|open|module)\b": "C#|F#|OCaml|Standard ML",
        r"#\s*(include|import)\b|@import\b|(using|import|module)\b": "C|C++|Objective-C|D|GLSL|Cuda",
        r"(pub(\([^)]*\))?\s+)?(use|mod|extern\s+crate)\b[^{=]*($|[;{])": "Rust",
        r"(require|require_relative|load|autoload|include)\b": "Ruby|Crystal",
        r"(namespace|use|(require|include)(_once)?|package|no)\b": "PHP|Perl",
        r"(import|export|part|library)\b": "Dart",
        r"(open\s+)?(import|module)\b": "Haskell|Elm|PureScript|Idris|Agda|Lean",
        r"\s*(alias|import|require|use)\b": "Elixir",
        r"-(module|include|include_lib|import|behaviou?r)\b": "Erlang",
        r"\((ns|require|use|import|load|in-package|defpackage|use-package|provide)\b|#lang\b": (
            "Clojure|Common Lisp|Emacs Lisp|Scheme|Racket|Fennel|Hy|Janet"
        ),
        r"(using|import|include)\b": "Julia|Thrift|Solidity",
        r"(library|require|source)\(": "R",
        r"(local\s+)?[\w, ]*=?\s*require\b": "Lua",
        r"(source|\.|using|Import-Module)\s": "Shell|Fish|PowerShell",
        r"(pub\s+)?const\s+\w+\s*=\s*@import\b": "Zig",
        r"(syntax|package|import)\b": "Protocol Buffers",
        r"@(import|use|forward)\b": "CSS",
        r"\\(documentclass|usepackage|RequirePackage|input|include)\b": "TeX",
        r"(include|find_package)\(": "CMake",
        r"-?include\b": "Makefile",
        r"\s*(use|unit|uses|module|program|library|with|include|copy)\b": "Fortran|Pascal|COBOL|Ada|VHDL",
        r"\s*(`include|import)\b": "Verilog",
        r"(package\s+require|source)\b": "Tcl",
    }.items()
    for language in languages.split("|")
}
_ANY_IMPORT = re.compile(r"(import|from|use|using|package|require|include|#\s*include|#\s*import)\b")
_MAX_STATEMENT_ROWS = 40  # of an import or a signature over several lines
# A line that encloses nothing though it is indented less: a whole statement, an import, a comment, a directive, a
# label, a bracket alone.
_NO_HOLDER = re.compile(
    r".*;\s*$|(import|from)\b|\s*(//|/\*|\*|--|;|%|(<%-?\s*)?[)\]}](?!.*[(\[]\s*$)|\{\s*$|begin\s*$|\w+\s*:\s*$)",
    re.IGNORECASE,
)
_HASH_HOLDERS = {"CSS", "Haml", "Pug", "Clojure"}  # languages whose lines may begin with "#" and hold others
_LABEL_HOLDERS = {"Python", "YAML", "Makefile", "Ruby", "Pascal", "Haskell", "Nim", "GDScript", "Mojo", "Starlark"}
_CLOSING = (")", "]", "}")
_WORD = re.compile(r"[\w$]+")
# Names at the end of their path; of Python's `import a.b` the first name is used as well.
_LAST_NAMES = re.compile(r"(?<![\w$])(?:[^\W\d]|\$)[\w$]*(?![\w$])(?!\s*(?:[.:\\/]|as\b))")
_IMPORT_WORDS = re.compile(
    r"\b(from|c?import|export|as|type|typeof|const|let|var|require|static|pub|crate|self|super|use|mod|extern|function)\b"
)
_FROM_MODULE = re.compile(r"\s*from\s+[\w.]+\s+c?import\b|\bfrom\s*[\"'].*")
_FIRST_NAME = re.compile(r"import\s+(\w+)\.")
_IN_QUOTES = re.compile(r"\"[^\"]*\"|'[^']*'")
_NAMING_LANGUAGES = {  # whose imports say what they bring
    "Python", "GDScript", "Nim", "Mojo", "JavaScript", "TypeScript", "Vue", "Svelte", "Go", "Java", "Kotlin", "Scala",
    "Groovy", "Rust", "PHP",
}  # fmt: skip
_NON_SPACE = re.compile(r"\S")
_TOP_CHARACTERS = 20_000  # of a text, in which its licence and its first imports are looked for
_LICENCE = re.compile(r"licen[sc]e|copyright|SPDX-", re.IGNORECASE)
_BLOCK_COMMENTS = {"/*": "*/", "<!--": "-->", "{-": "-}", "(*": "*)"}
_COMMENT_ROW = re.compile(r"\s*(//|#(?=[\s#]|$)|--|;|%)")
_GUARD_ROW = re.compile(r"#\s*(ifndef|define|pragma)\b|#!")
_IMPORT_LINES = 200  # imports are at the top; further down the pattern mostly matches prose

Int32Array = NDArray[np.int32]
_NO_NUMBERS: Int32Array = np.zeros(0, np.int32)


@dataclass(eq=False)
class TokenizedText:
    """A text with what `longrepo.data.features` extracts from it. Arrays are int32 unless noted.

    `ids`, `starts` (the character each token begins at) and `depth` (uint8: how many bodies a token is in) are
    `[tokens]`; `rows` (the token each line begins at) and `row_hashes` (uint64: its content) are `[lines]`; `cuts` are
    the tokens at which a piece may begin without cutting a syntax node; `names` (uint32 hashes) and `name_tokens` are
    its words of two letters or more, `[names]`; `weights` (float32, `[tokens]`) is only set for a change's text.
    """

    path: str
    language: str
    text: str
    ids: Int32Array
    starts: Int32Array
    rows: Int32Array = field(default_factory=lambda: np.zeros(1, np.int32))
    row_hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(1, np.uint64))
    cuts: Int32Array = field(default_factory=_NO_NUMBERS.copy)
    names: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    name_tokens: Int32Array = field(default_factory=_NO_NUMBERS.copy)
    depth: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    weights: NDArray[np.float32] | None = None
    defines: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))  # names, ascending
    path_ids: Int32Array = field(default_factory=_NO_NUMBERS.copy)  # as they follow a file's mark
    outline_json: str = ""
    ends: bool = True  # whether its end is its file's

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def outline(self) -> Outline:
        """Its definitions, calls and imports."""
        return Outline.from_json(self.outline_json) if self.outline_json else Outline((), (), (), (), ())

    def forget_outline(self) -> None:
        """Free the outline until it is used again: its objects take more memory than everything else here."""
        self.__dict__.pop("outline", None)

    def token_at(self, character: int) -> int:
        """Return the last token boundary at or before a character: a token may span "\\n" and the indentation after
        it."""
        return int(token_boundaries(self.starts, len(self.text), [character])[0])

    def slice_text(self, start: int, end: int) -> str:
        """Return the text of tokens start..end."""
        if start >= min(end, len(self.ids)):
            return ""
        last = int(self.starts[end]) if end < len(self.ids) else len(self.text)
        return self.text[int(self.starts[start]) : last]

    @cached_property
    def lines(self) -> Int32Array:
        """Token boundaries at which a line begins, ascending, without those at the text's ends."""
        found = np.unique(self.rows)
        return found[(found > 0) & (found < len(self.ids))]

    def row_token(self, row: int) -> int:
        """Return the token boundary at which a row (0-based) begins; beyond the last row, the text's end."""
        return int(self.rows[row]) if row < len(self.rows) else len(self.ids)

    def cut_in(self, start: int, limit: int, at_least: int = 0) -> tuple[int, str]:
        """Return where to end a piece that begins at token `start` and may reach to `limit`, and the kind of cut: the
        last syntax cut that leaves at least `at_least` tokens, else the last such line start, else the limit."""
        low = start + max(1, at_least)
        for how, places in (("syntax", self.cuts), ("line", self.lines)):
            index = int(places.searchsorted(limit, "right")) - 1
            if index >= 0 and places[index] >= low:
                return int(places[index]), how
        return limit, "token"

    @cached_property
    def top(self) -> tuple[int, int]:
        """The tokens at which the text begins behind a licence, and behind the imports that come first (`text_top`)."""
        licence, imports = token_boundaries(self.starts, len(self.text), text_top(self.text, self.language)).tolist()
        return licence, imports

    def start_in(self, end: int, room: int) -> int:
        """Return the first line start with at most `room` tokens up to `end` (`end - room` if no line starts there)."""
        first = max(0, end - room)
        if first == 0:
            return 0
        index = int(self.lines.searchsorted(first))
        found = int(self.lines[index]) if index < len(self.lines) else end
        return found if found < end else first

    @cached_property
    def skeleton(self) -> list[tuple[int, int]]:
        """The token ranges of the file's signatures: the lines of its definitions, without bodies."""
        spans: list[tuple[int, int]] = []
        starts = self._row_starts
        for one in self.outline.definitions:
            first = bisect_right(starts, one.start) - 1
            size = len(self.text[one.start : one.body].rstrip())
            last = bisect_right(starts, one.start + max(0, size - 1)) - 1
            span = (self.row_token(first), self.row_token(last + 1))
            if span[0] >= (spans[-1][1] if spans else 0) and span[1] > span[0]:
                spans.append(span)
        return spans

    def head(self, start: int, budget: int, end: int) -> list[tuple[int, int]]:
        """Return the lines above token `start` that the piece `start`..`end` needs: the lines it is indented under, the
        imports whose names it uses, and those that don't name what they bring; as token ranges, at most `budget` tokens
        in all. Of an import over several lines, those with used names stay, and its first and last."""
        if start <= 0 or start >= len(self.ids):
            return []
        row = self._row_of(int(self.starts[start]))
        holders = ((first, _statement_end(self._rows, first, "([")) for first in self._enclosing(row))
        wanted = [[(first, last if first < last <= row else first + 1)] for first, last in holders]
        wanted = [*wanted[-1:], *wanted[:-1]]  # what it is directly under comes before all else
        ranges: list[tuple[int, int]] = []
        words = set(_WORD.findall(self.slice_text(start, end)))
        words |= {word.lstrip("$") for word in words}  # in a string of Kotlin's or a shell's, "$name" uses a name
        shown = set[str]()
        for rows in [*wanted, *self._used_imports(words)]:
            spans = [(self.row_token(first), self.row_token(last)) for first, last in rows]
            size = sum(last - first + 1 for first, last in spans)
            apart = all(last <= other[0] or other[1] <= first for first, last in spans for other in ranges)
            text = "".join(self.slice_text(*span) for span in spans).rstrip()
            if all(first < last <= start for first, last in spans) and size <= budget and apart and text not in shown:
                ranges += spans
                shown.add(text)
                budget -= size
        return self.separate_ranges(sorted(ranges), start)

    def _used_imports(self, words: set[str]) -> list[list[tuple[int, int]]]:
        """Return the runs of rows to show of each import that brings one of these words, then of those that don't tell
        what they bring."""
        used: list[list[tuple[int, int]]] = []
        unnamed: list[list[tuple[int, int]]] = []
        for first, last in self._imports:
            found = [imported_names(row, self.language) for row in self._rows[first:last]]
            if not any(found):
                unnamed.append([(first, last)])
            elif words & set[str]().union(*found):
                ends = (first, last - 1)
                shown = [at for at, names in enumerate(found, first) if at in ends or names & words]
                used.append([(at, at + 1) for at in shown])
        return [*used, *unnamed]

    def separate_ranges(self, ranges: Sequence[tuple[int, int]], following: int) -> list[tuple[int, int]]:
        """Return ascending token ranges of whole lines, with the line break between two of them added if neither holds
        it (one token may be several line breaks); `following` is the token that comes after them."""
        found: list[tuple[int, int]] = []
        for start, end in [*ranges, (following, following)]:
            if found and found[-1][1] < start and not self.slice_text(*found[-1]).endswith("\n"):
                missing = not self.slice_text(start, start + 1).startswith("\n")
                start -= missing and self.slice_text(start - 1, start).endswith("\n")
            if start < end:
                found.append((start, end))
        return found

    @cached_property
    def _imports(self) -> list[tuple[int, int]]:
        """The rows of the import statements, each from its first to beyond its last."""
        pattern = _IMPORTS.get(self.language, _ANY_IMPORT)
        top = [] if self.language in PROSE_LANGUAGES else self._rows[:_IMPORT_LINES]
        return [(row, _statement_end(self._rows, row, "([{")) for row, line in enumerate(top) if pattern.match(line)]

    @cached_property
    def _indents(self) -> Int32Array:
        """The indentation of each row in characters; a row that can't enclose others counts as indented beyond any."""
        above = ["", *self._rows]
        return np.array(
            [
                len(row) - len(row.lstrip(" \t")) if self._may_hold(row) or _opens_block(row, before) else 1 << 30
                for before, row in zip(above, self._rows, strict=False)
            ],
            np.int32,
        )

    def _may_hold(self, row: str) -> bool:
        if row.lstrip().startswith("#") and self.language not in _HASH_HOLDERS:
            return False
        if self.language in _LABEL_HOLDERS and row.rstrip().endswith(":") and row.strip()[0].isalpha():
            return True
        return bool(row.strip()) and not _NO_HOLDER.match(row)

    @cached_property
    def _rows(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def _row_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def _row_of(self, character: int) -> int:
        """Return the row of the first non-blank character from `character` on: its indentation is the piece's."""
        found = _NON_SPACE.search(self.text, character)
        return bisect_right(self._row_starts, found.start() if found else character) - 1

    def _closes(self, row: int) -> bool:
        """Whether a row begins with a closing bracket."""
        return self._rows[row].lstrip()[:1] in _CLOSING

    def _enclosing(self, row: int) -> list[int]:
        """Return the rows that a row is indented under, outermost first."""
        found: list[int] = []
        indent = len(self._rows[row]) - len(self._rows[row].lstrip(" \t"))
        while indent or self._closes(row):
            row = self._holder(row, indent)
            if row < 0:
                break
            indent = int(self._indents[row])
            found.append(row)
        return found[::-1]

    def _holder(self, row: int, indent: int) -> int:
        """Return the last row above that is indented less than `indent`, or as much, if it opens what the row closes;
        -1 if there is none."""
        above = np.flatnonzero(self._indents[:row] < indent + self._closes(row))[::-1]
        found = (int(at) for at in above if self._indents[at] < indent or _opens(self._rows[at]))
        return next(found, -1)


def _opens(row: str) -> bool:
    """Whether a row opens a bracket that it doesn't close."""
    return any(row.count(opening) > row.count(closing) for opening, closing in ("()", "[]", "{}"))


def _opens_block(row: str, above: str) -> bool:
    """Whether a row is a bracket "{" that doesn't belong to the row above: it begins an element, or a block."""
    return row.strip() == "{" and above.rstrip().endswith((",", "(", "[", "{", "}", ";"))


def _statement_end(rows: Sequence[str], first: int, brackets: str) -> int:
    """Return the row after the statement that begins at `first`, which lasts until its brackets are closed; `first` if
    that isn't soon."""
    depth = 0
    for row in range(first, min(len(rows), first + _MAX_STATEMENT_ROWS)):
        for opening, closing in ("()", "[]", "{}"):
            if opening in brackets:
                depth += rows[row].count(opening) - rows[row].count(closing)
        if depth <= 0:
            return row + 1
    return first


def text_top(text: str, language: str) -> tuple[int, int]:
    """Return the characters at which a text begins behind the comments with its licence, and behind the package and the
    imports that come next; both 0 if it has none."""
    if language in PROSE_LANGUAGES:
        return 0, 0
    rows = text[:_TOP_CHARACTERS].split("\n")
    licence, at = 0, 0
    while (end := _comment_end(rows, at)) > at:
        if _LICENCE.search("\n".join(rows[at:end])):
            licence = end
        at = end
    pattern, imports, at = _IMPORTS.get(language, _ANY_IMPORT), licence, licence
    while at < len(rows):
        if pattern.match(rows[at]) and (end := _statement_end(rows, at, "([{")) > at:
            at = imports = end
        elif (end := _comment_end(rows, at)) > at:
            at = end
        elif _GUARD_ROW.match(rows[at]):
            at += 1
        else:
            break
    found = []
    for row in (licence, imports):
        while 0 < row < len(rows) and not rows[row].strip():
            row += 1
        found.append(min(len(text), sum(len(one) + 1 for one in rows[:row])))
    return found[0], found[1]


def _comment_end(rows: Sequence[str], at: int) -> int:
    """Return the row after the blank rows, a `#!`, and the comment that come at row `at`; `at` if there is none."""
    if at < len(rows) and (not rows[at].strip() or rows[at].startswith("#!")):
        return at + 1
    opening = next((one for one in _BLOCK_COMMENTS if at < len(rows) and rows[at].lstrip().startswith(one)), None)
    if opening is not None:
        closing = (row for row in range(at, len(rows)) if _BLOCK_COMMENTS[opening] in rows[row])
        return next(closing, at - 1) + 1
    while at < len(rows) and _COMMENT_ROW.match(rows[at]):
        at += 1
    return at


def imported_names(row: str, language: str) -> set[str]:
    """Return the names that a row of an import brings, as the file calls them; none if it doesn't tell (a wildcard, a
    package's own name, a file that is included)."""
    if language not in _NAMING_LANGUAGES or "*" in row or re.match(r"\s*(package|namespace|@file)\b", row):
        return set()
    if language == "Go":
        paths = re.findall(r'(?:(\w+)\s+)?"([^"]+)"', row)
        return {alias or re.sub(r"^go-|\.v\d+$", "", path.rpartition("/")[2]) for alias, path in paths}
    first = set(_FIRST_NAME.findall(row)) if language == "Python" else set[str]()
    text = _IN_QUOTES.sub("", _FROM_MODULE.sub("", row.partition("//")[0].partition("#")[0]))
    return first | {name for name in _LAST_NAMES.findall(text) if not _IMPORT_WORDS.fullmatch(name)}


def token_boundaries(starts: Int32Array, length: int, characters: Iterable[int]) -> Int32Array:
    """Return for each character of a text of `length` the last token boundary at or before it; at or beyond the end,
    the number of tokens. If a character takes several tokens, they share a start and the first of them counts."""
    at = np.fromiter(characters, np.int64)
    found = starts.searchsorted(at)
    inside = (found > 0) & (at < length)
    inside[inside] &= np.append(starts, np.int32(-1))[found[inside]] != at[inside]
    found[inside] = starts.searchsorted(starts[found[inside] - 1])
    return found.astype(np.int32)


def split_at(tokenizer: RepoTokenizer, of: TokenizedText, characters: Sequence[int]) -> TokenizedText:
    """Return a text tokenized anew, so that a token begins at each of these characters, as where a cursor stands."""
    bounds = [0, *(at for at in sorted(set(characters)) if 0 < at < len(of.text)), len(of.text)]
    parts = tokenizer.encode_many(of.text[first:last] for first, last in pairwise(bounds))
    ids = np.concatenate([part for part, _ in parts])
    starts = np.concatenate([one + at for (_, one), at in zip(parts, bounds, strict=False)]).astype(np.int32)
    ends = np.append(of.starts[1:], np.int32(len(of.text)))
    old = np.minimum(of.starts.searchsorted(starts, "right") - 1, max(0, len(of) - 1))
    return replace(
        of,
        ids=ids,
        starts=starts,
        rows=token_boundaries(starts, len(of.text), of._row_starts),
        cuts=np.unique(token_boundaries(starts, len(of.text), of.starts[of.cuts].tolist())),
        # A name in a token that is divided counts behind the division.
        name_tokens=(starts.searchsorted(ends[of.name_tokens] - 1, "right") - 1).astype(np.int32),
        depth=of.depth[old] if len(of.depth) else of.depth,
    )


def path_tokens(tokenizer: RepoTokenizer, path: str) -> Int32Array:
    """Return a path's tokens as they follow a file's mark, without the beginning of a very long path."""
    return np.array(tokenizer.encode(tokenizer.marks.path_text(path))[-MAX_PATH_TOKENS:], np.int32)
