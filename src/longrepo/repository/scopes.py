"""The spans of a text at which people stop and let a model go on: names, expressions, statements and blocks, and the
parts of calls. Offsets are in characters; a text without a grammar has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tree_sitter import Node

from longrepo.repository.definitions import named_calls
from longrepo.repository.grammars import BODY_NODES, IDENTIFIER_NODES
from longrepo.repository.syntax import SyntaxTree, parse_syntax

SCOPES = ("identifier", "expression", "statement", "block")
_MIN_NAME_LENGTH = 2  # characters
_VALUE_FIELDS = ("right", "value", "condition")  # of an assignment, a pair, a branch
_MIN_EXPRESSION_LENGTH = 3
_STATEMENT_LISTS = BODY_NODES | {"statements", "statement_list"}
_ENDS = ";,"  # after a statement, on its line


class ScopeSpan(NamedTuple):
    """A span of one of SCOPES. An expression is what a call is given, or the value of an assignment or a condition, on
    one row; a statement has its rows to itself; a block is what stands in a body, two rows or more."""

    scope: str
    start: int
    end: int


def scope_spans(text: str, language: str) -> list[ScopeSpan]:
    """Return the spans of a text in the order they begin, each once."""
    parsed = parse_syntax(text, language)
    if parsed is None:
        return []
    found = dict.fromkeys(one for node, above, name in _walk(parsed) for one in _spans_of(parsed, node, above, name))
    return sorted(found, key=lambda one: (one.start, -one.end))


def _walk(parsed: SyntaxTree) -> Iterator[tuple[Node, str, str]]:
    """Yield every named node outside of comments with the type of the node around it ("" at the root) and its field."""
    cursor = parsed.root.walk()
    above = [""]
    while True:
        node = cursor.node
        assert node is not None
        comment = "comment" in node.type
        if node.is_named and not comment:
            yield node, above[-1], cursor.field_name or ""
        if not comment and cursor.goto_first_child():
            above.append(node.type if len(above) > 1 else "statements")  # the root holds statements
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
            above.pop()


def _spans_of(parsed: SyntaxTree, node: Node, above: str, name: str) -> Iterator[ScopeSpan]:
    text, start, end = parsed.text, parsed.characters[node.start_byte], parsed.characters[node.end_byte]
    one_row = node.start_point[0] == node.end_point[0]
    if node.type in IDENTIFIER_NODES and not node.child_count and end - start >= _MIN_NAME_LENGTH:
        yield ScopeSpan("identifier", start, end)
    inside = _inside(text, start, end, "()") if "argument" in node.type else None
    for first, last in [inside or (0, 0), (start, end) if name in _VALUE_FIELDS else (0, 0)]:
        if one_row and last - first >= _MIN_EXPRESSION_LENGTH:
            yield ScopeSpan("expression", first, last)
    if above in _STATEMENT_LISTS and node.type not in _STATEMENT_LISTS and (own := _own_rows(text, start, end)):
        yield ScopeSpan("statement", *own)
    if node.type in BODY_NODES:
        first, last = _inside(text, start, end, "{}") or _stripped(text, start, end)
        if "\n" in text[first:last]:
            yield ScopeSpan("block", first, last)


def _inside(text: str, start: int, end: int, brackets: str) -> tuple[int, int] | None:
    """Return what stands between a span's own brackets; None if it has none, or nothing in them."""
    if text[start : start + 1] != brackets[0] or text[end - 1 : end] != brackets[1]:
        return None
    first, last = _stripped(text, start + 1, end - 1)
    return (first, last) if last > first else None


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _own_rows(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return the span with what ends it; None if anything else stands on its rows."""
    start, end = _stripped(text, start, end)
    line, after = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    rest = text[end : len(text) if after < 0 else after]
    if end <= start or text[line:start].strip() or rest.strip(_ENDS + " \t\r"):
        return None
    return start, end + len(rest.rstrip())


class CallSpan(NamedTuple):
    """A call: its name at `start`..`end`, and what it is given, `first`..`last` between the parentheses (equal if that
    is nothing, both -1 if it has none)."""

    name: str
    start: int
    end: int
    first: int
    last: int


def call_spans(text: str, language: str) -> list[CallSpan]:
    """Return a text's calls by name, in order."""
    parsed = parse_syntax(text, language)
    if parsed is None:
        return []
    return [found for _, node, name in named_calls(parsed) if (found := _call_span(parsed, node, name))]


def _call_span(parsed: SyntaxTree, node: Node, name: str) -> CallSpan | None:
    text, characters = parsed.text, parsed.characters
    given = node.child_by_field_name("arguments") or next(
        (one for one in reversed(node.named_children) if "argument" in one.type or one.type == "call_suffix"), None
    )
    start, end = characters[node.start_byte], characters[node.end_byte]
    limit = end if given is None else characters[given.start_byte]
    at = text.rfind(name, start, limit)
    if at < 0:
        return None
    first = last = -1
    if given is not None:
        opening, closing = characters[given.start_byte], characters[given.end_byte]
        if text[opening : opening + 1] == "(" and text[closing - 1 : closing] == ")":
            first, last = opening + 1, closing - 1
    return CallSpan(name, at, at + len(name), first, last)
