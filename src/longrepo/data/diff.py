"""The changes of a file between two versions, as the rows of a unified diff.

Lines that occur once in each version are matched first, in their longest common order (patience diff, Bram Cohen); the
lines between these anchors are compared one by one. A change is formatting if nothing differs but white space
that carries no meaning in the file's language.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import Match, SequenceMatcher
from itertools import accumulate

from longrepo.repository.syntax import SyntaxTree, parse_syntax

CONTEXT_ROWS = 3
_COMPARED_CHARACTERS = 4096  # characters compared at once
_MAX_MATCHER_CELLS = 250_000  # SequenceMatcher is quadratic: longer stretches between anchors become one replacement

MatchBlock = tuple[int, int, int]  # rows old[a : a + size] equal new[b : b + size]


@dataclass(frozen=True)
class Hunk:
    """Rows that begin with " ", "-" or "+", without line breaks; `old` and `new` are the first row (0-based) in each
    version. `section`: the line that encloses them, as git shows it."""

    old: int
    new: int
    rows: tuple[str, ...]
    section: str = ""

    @property
    def sizes(self) -> tuple[int, int]:
        """Its rows in the old and in the new version."""
        return sum(row[:1] != "+" for row in self.rows), sum(row[:1] != "-" for row in self.rows)

    @property
    def counts(self) -> str:
        """Its first row and its rows in each version, as its "@@" row tells them."""
        before, after = self.sizes
        return f"-{self.old + 1},{before} +{self.new + 1},{after}"

    @property
    def title(self) -> str:
        """Its "@@" row."""
        return f"@@ {self.counts} @@ {self.section}".rstrip()

    def part(self, first: int, last: int) -> Hunk:
        """Return the hunk of its rows first..last, the last excluded."""
        before, after = Hunk(0, 0, self.rows[:first]).sizes
        return Hunk(self.old + before, self.new + after, self.rows[first:last], self.section)


_TITLE = re.compile(r"@@ -(\d+),\d+ \+(\d+),\d+ @@(?: (.*))?")


def title_section(row: str) -> str:
    """Return the section that a hunk's "@@" row names; empty for any other row."""
    found = _TITLE.match(row)
    return (found[3] or "") if found else ""


def read_hunks(rows: Sequence[str]) -> list[tuple[int, Hunk]]:
    """Return the hunks in the rows of a change's text, each with the number of its "@@" row."""
    titles = [(number, found) for number, row in enumerate(rows) if (found := _TITLE.match(row))]
    ends = [*(number for number, _ in titles[1:]), len(rows) - (rows[-1:] == [""])]
    return [
        (number, Hunk(int(found[1]) - 1, int(found[2]) - 1, tuple(rows[number + 1 : end]), found[3] or ""))
        for (number, found), end in zip(titles, ends, strict=True)
    ]


_SECTION_CHARACTERS = 120  # in a longer line the end, which says as much, would be missing
_BLOCK = re.compile(  # encloses rows, but isn't what they are part of
    r"(\}\s*)?(if|elif|else|for|foreach|while|until|unless|loop|do|switch|case|default|match|when|try|catch|except|finally"
    r"|ensure|rescue|with|using|lock|synchronized|unsafe|select|go|defer|return|throw|raise|yield|begin|then|super|this)\b"
)
_LABEL = re.compile(r"(public|private|protected|signals|slots)\s*:")


def enclosing_row(rows: Sequence[str], hunk: Hunk) -> int | None:
    """Return the row above a hunk that encloses its first change, as git finds it in an indented language: the nearest
    one that is indented less and begins as a definition does. None if there is none."""
    changed = next((number for number, row in enumerate(hunk.rows) if row[:1] != " "), 0)
    text = hunk.rows[changed][1:] if hunk.rows else ""
    if not text.strip():
        text = next((row[1:] for row in hunk.rows[changed:] if row[1:].strip()), "")
    limit = _indentation(text)
    at = hunk.old + Hunk(0, 0, hunk.rows[:changed]).sizes[0]
    for number in range(min(at, len(rows)) - 1, -1, -1):
        if not limit:
            return None
        row = rows[number]
        if not row.strip() or _indentation(row) >= limit:
            continue
        start = row.lstrip()
        if _BLOCK.match(start):  # the rows beside it enclose nothing
            limit = _indentation(row)
            continue
        if not (start[0].isalpha() or start[0] in "_$") or _LABEL.match(start):
            continue
        limit = _indentation(row)
        if number < hunk.old:
            return number if len(start.rstrip()) <= _SECTION_CHARACTERS else None
    return None


def _indentation(row: str) -> int:
    return len(row) - len(row.lstrip(" \t"))


def diff_hunks(before: str, after: str) -> list[Hunk]:
    """Return the hunks of a change with three rows of context; none if nothing changed."""
    if before == after:
        return []
    # Only the text between the first and the last difference is compared, with enough around it for the context.
    first = _line_before(before, _shared_start(before, after))
    shared = _shared_end(before, after, first)
    skipped = before.count("\n", 0, first)
    old, new = before[first : len(before) - shared].split("\n"), after[first : len(after) - shared].split("\n")
    matcher = _PrecomputedMatcher([*_merge_blocks(_matches(old, new)), Match(len(old), len(new), 0)])
    found: list[Hunk] = []
    for group in matcher.get_grouped_opcodes(CONTEXT_ROWS):
        rows: list[str] = []
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                rows.extend(" " + row for row in old[i1:i2])
                continue
            rows.extend("-" + row for row in old[i1:i2])
            rows.extend("+" + row for row in new[j1:j2])
        found.append(Hunk(skipped + group[0][1], skipped + group[0][3], tuple(rows)))
    return found


def _shared_start(one: str, other: str) -> int:
    """Return the length of the common beginning of two texts."""
    at, shorter = 0, min(len(one), len(other))
    while at < shorter and one[at : at + _COMPARED_CHARACTERS] == other[at : at + _COMPARED_CHARACTERS]:
        at += _COMPARED_CHARACTERS
    at = min(at, shorter)
    while at < shorter and one[at] == other[at]:
        at += 1
    return at


def _line_before(text: str, at: int) -> int:
    """Return where the line begins that is CONTEXT_ROWS above the line of the character `at`."""
    for _ in range(CONTEXT_ROWS + 1):
        at = text.rfind("\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def _shared_end(one: str, other: str, first: int) -> int:
    """Return the length of the common end of two texts after `first`, less CONTEXT_ROWS whole lines."""
    longest = min(len(one), len(other)) - first
    size = 0
    while (
        size + _COMPARED_CHARACTERS <= longest
        and one[len(one) - size - _COMPARED_CHARACTERS : len(one) - size]
        == (other[len(other) - size - _COMPARED_CHARACTERS : len(other) - size])
    ):
        size += _COMPARED_CHARACTERS
    while size < longest and one[len(one) - size - 1] == other[len(other) - size - 1]:
        size += 1
    at = len(one) - size
    for _ in range(CONTEXT_ROWS + 1):
        at = one.find("\n", at) + 1
        if not at:
            return 0
    return len(one) - at + 1


class _PrecomputedMatcher(SequenceMatcher[str]):
    """A difflib matcher that is given its matching blocks."""

    def __init__(self, blocks: list[Match]) -> None:
        super().__init__()
        self._blocks = blocks

    def get_matching_blocks(self) -> list[Match]:
        return self._blocks


def _matches(old: Sequence[str], new: Sequence[str]) -> Iterator[MatchBlock]:
    """Yield runs of equal rows, ascending in both versions."""
    shorter = min(len(old), len(new))
    head = 0
    while head < shorter and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    yield 0, 0, head
    left, right = old[head : len(old) - tail], new[head : len(new) - tail]
    at, against = 0, 0
    for one, other in [*_anchors(left, right), (len(left), len(right))]:
        for a, b, size in _between(left[at:one], right[against:other]):
            yield head + at + a, head + against + b, size
        if one < len(left):
            yield head + one, head + other, 1
        at, against = one + 1, other + 1
    yield len(old) - tail, len(new) - tail, tail


def _anchors(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Return the longest ascending sequence of rows that occur once on each side."""
    once = {row for row, count in Counter(left).items() if count == 1 and row.strip()}
    places = {row: at for at, row in enumerate(right)}
    counts = Counter(right)
    pairs = [(at, places[row]) for at, row in enumerate(left) if row in once and counts.get(row) == 1]
    ends: list[int] = []  # for each length, the smallest last place of an ascending sequence
    tails: list[int] = []  # the pair at that place
    before: list[int] = []
    for number, (_, place) in enumerate(pairs):
        length = bisect_left(ends, place)
        before.append(tails[length - 1] if length else -1)
        ends[length : length + 1] = [place]
        tails[length : length + 1] = [number]
    found: list[tuple[int, int]] = []
    number = tails[-1] if tails else -1
    while number >= 0:
        found.append(pairs[number])
        number = before[number]
    return found[::-1]


def _between(left: Sequence[str], right: Sequence[str]) -> Iterator[MatchBlock]:
    if left and right and len(left) * len(right) <= _MAX_MATCHER_CELLS:
        yield from ((a, b, size) for a, b, size in SequenceMatcher(None, left, right, False).get_matching_blocks())


def _merge_blocks(blocks: Iterator[MatchBlock]) -> Iterator[Match]:
    """Join adjacent runs and drop empty ones."""
    a = b = size = 0
    for one, other, length in blocks:
        if length and (one, other) == (a + size, b + size):
            size += length
        elif length:
            if size:
                yield Match(a, b, size)
            a, b, size = one, other, length
    if size:
        yield Match(a, b, size)


def rows_around(sizes: Sequence[int], spans: Sequence[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    """Return the runs of rows around spans of rows that take at most `room`, a row `sizes[row]`: twice as many rows
    before each span as after it. If the spans alone take more, the first of their rows, one at least."""
    ends = [0, *accumulate(sizes)]

    def widened(by: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for first, last in sorted(spans):
            low = min(max(0, first - by), max(0, len(sizes) - 1))
            high = min(len(sizes), max(last, first + 1) + by // 2)
            if found and low <= found[-1][1]:
                found[-1] = (found[-1][0], max(found[-1][1], high))
            else:
                found.append((low, max(high, low + 1)))
        return found

    def size(runs: list[tuple[int, int]]) -> int:
        return sum(ends[last] - ends[first] for first, last in runs)

    if size(widened(0)) > room:
        kept: list[tuple[int, int]] = []
        for first, last in widened(0):
            last = max(first + (not kept), bisect_right(ends, ends[first] + room) - 1)
            if last > first:
                kept.append((first, min(last, len(sizes))))
                room -= ends[kept[-1][1]] - ends[first]
        return kept
    low, high = 0, 2 * len(sizes)
    while low < high:  # the largest that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(widened(middle)) <= room else (low, middle - 1)
    return widened(low)


def added_row_ranges(before: str, after: str) -> list[tuple[int, int]]:
    """Return the runs of rows (0-based, end excluded) that `after` adds to `before`."""
    runs: list[tuple[int, int]] = []
    for hunk in diff_hunks(before, after):
        row = hunk.new
        for line in hunk.rows:
            if line.startswith("+"):
                if runs and runs[-1][1] == row:
                    runs[-1] = (runs[-1][0], row + 1)
                else:
                    runs.append((row, row + 1))
            row += not line.startswith("-")
    return runs


# Languages whose nesting is their indentation; most have a grammar, which is asked first.
_LAYOUT_LANGUAGES = {
    "Python", "Mojo", "Starlark", "YAML", "Haskell", "PureScript", "Elm", "Idris", "Agda", "Lean", "F#", "Nim",
    "GDScript", "Makefile", "CoffeeScript", "Sass", "Stylus", "Pug", "Haml", "Slim", "reStructuredText",
}  # fmt: skip
_TOKEN = re.compile(r"\w+|[^\w\s]")
_QUOTED = re.compile(r"""\"(?:\\.|[^"\\\n])*\"|'(?:\\.|[^'\\\n])*'""")
_QUOTED_NODES = ("string", "char", "literal", "heredoc", "regex")

SyntaxShape = list[tuple[int, str, str]]  # depth, type and, for a leaf, text of each node


def is_formatting(before: str, after: str, hunks: Sequence[Hunk], language: str) -> bool:
    """Whether a change is formatting alone: nothing differs but white space, and it carries no meaning.

    With a grammar, white space carries meaning if it changes the syntax tree or a string. Without one, if it divides
    or joins words, stands in quotes, or is the indentation of a language that nests by it.
    """
    sides = [
        "".join("".join(row[1:].split()) for hunk in hunks for row in hunk.rows if row[0] == sign) for sign in "-+"
    ]
    if not hunks or sides[0] != sides[1]:
        return False
    trees = [parse_syntax(text, language) for text in (before, after)]
    shapes = [_shape(tree) for tree in trees if tree is not None and not tree.root.has_error]
    if len(shapes) == len(trees):
        return shapes[0] == shapes[1]
    if language in _LAYOUT_LANGUAGES and _line_depths(before) != _line_depths(after):
        return False
    return all(pattern.findall(before) == pattern.findall(after) for pattern in (_TOKEN, _QUOTED))


def _shape(tree: SyntaxTree) -> SyntaxShape:
    """Return the nodes of a tree; the text of a leaf without the white space that only lays it out."""
    shape: SyntaxShape = []
    cursor = tree.root.walk()
    while True:
        node, kind = cursor.node, cursor.node.type if cursor.node else ""
        assert node is not None
        whole = not node.child_count or "string" in kind
        shape.append((cursor.depth, kind, _leaf_text(kind, tree.source(node)) if whole else ""))
        if not whole and cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return shape


def _leaf_text(kind: str, text: str) -> str:
    if "comment" in kind:
        return "".join(text.split())
    if any(part in kind for part in _QUOTED_NODES):
        return "\n".join(line.strip() for line in text.split("\n")) if "\n" in text else text
    return " ".join(text.split())


def _line_depths(text: str) -> list[int]:
    """Return how deep each line that isn't blank is nested by its indentation; a tab counts apart, as in a Makefile."""
    depths: list[int] = []
    open_widths = [-1]
    for line in text.split("\n"):
        if line.strip():
            width = len(line.expandtabs(8)) - len(line.expandtabs(8).lstrip())
            while open_widths[-1] >= width:
                open_widths.pop()
            open_widths.append(width)
            depths.append(2 * len(open_widths) + line.startswith("\t"))
    return depths
