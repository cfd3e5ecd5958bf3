"""What a text calls by name, and from within which definition."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tree_sitter import Node

from longrepo.repository.syntax.definition_rules import definition_rules
from longrepo.repository.syntax.definitions import Definition
from longrepo.repository.syntax.grammar import CALLS, IDENTIFIERS
from longrepo.repository.syntax.tree import Parsed

_HEAD_STEPS = 3  # from what defines to the name and parameters that look like a call
_DEFINERS: dict[str, tuple[Mapping[str, str], Mapping[str, int]]] = {  # words, node types -> steps to the head
    "Elixir": (definition_rules("Elixir")["call"].kinds, {}),
    "Julia": ({}, {"function_definition": _HEAD_STEPS, "macro_definition": _HEAD_STEPS, "assignment": 1}),
}


class Call(NamedTuple):
    """A call of something by name: `inside` is the definition it stands in, "" at the top level; `at` is where the
    whole call begins."""

    name: str
    line: int
    inside: str
    at: int


def calls_in(parsed: Parsed, definitions: Sequence[Definition]) -> tuple[Call, ...]:
    """What a text calls by name, in order. `a.b.c(…)` calls c; a call of an expression has no name and is left out."""
    starts, inside = _enclosing(definitions, len(parsed.text))
    named = _named(parsed)
    if parsed.language in _DEFINERS:
        named = _without_heads(parsed, named)
    characters = parsed.characters
    found = list[Call]()
    for _, node, name in named:
        at = characters[node.start_byte]
        found.append(Call(name, node.start_point[0] + 1, inside[bisect_right(starts, at) - 1], at))
    return tuple(found)


def _named(parsed: Parsed) -> Iterator[tuple[int, Node, str]]:
    for index, node in parsed.find(CALLS):
        if name := _callee(parsed, node):
            yield index, node, name


def _without_heads(parsed: Parsed, named: Iterable[tuple[int, Node, str]]) -> Iterator[tuple[int, Node, str]]:
    """Without Elixir's `def f(a)`, two calls to its grammar, and without the f(a) of Julia's `function f(a)`."""
    words, types = _DEFINERS[parsed.language]
    definers = {index for index, _ in parsed.find(types)}
    for index, node, name in named:
        if name in words:
            definers.add(index)
            continue
        above = parsed.above[index]
        steps = parsed.depths[index] - parsed.depths[above]
        if above != index - 1 or above not in definers or steps > types.get(parsed.types[above], _HEAD_STEPS):
            yield index, node, name


def _callee(parsed: Parsed, call: Node) -> str:
    """The last identifier of what is called: c of a.b.c, f of f::<T>."""
    for field in ("function", "method", "name", "constructor", "type", "target"):
        if target := call.child_by_field_name(field):
            break
    else:
        target = call.named_child(0)
    while target is not None:
        kind, children = target.type, target.named_child_count
        if kind in IDENTIFIERS:
            return parsed.source((target.named_child(children - 1) if children else None) or target)
        if not children or kind in CALLS:
            return ""
        target = _last_part(target, children)
    return ""


def _last_part(target: Node, children: int) -> Node | None:
    last = target.named_child(children - 1)
    if last is None or not _is_argument(last):
        return last
    return next((child for child in reversed(target.named_children) if not _is_argument(child)), None)


def _is_argument(node: Node) -> bool:
    return "argument" in node.type or node.type == "call_suffix"


def _enclosing(definitions: Sequence[Definition], length: int) -> tuple[list[int], list[str]]:
    """Offsets at which the innermost enclosing definition changes, and its name from there on."""
    starts, names = [0], [""]
    stack: list[Definition] = []

    def close(until: int) -> None:
        while stack and stack[-1].end <= until:
            starts.append(stack.pop().end)
            names.append(stack[-1].name if stack else "")

    for one in definitions:
        close(one.start)
        starts.append(one.start)
        names.append(one.name)
        stack.append(one)
    close(length)
    return starts, names
