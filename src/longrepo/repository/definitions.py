"""What a text defines (functions, types and the like, each with its signature) and what it calls by name."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tree_sitter import Node

from longrepo.repository.grammars import (
    BODY_NODES,
    CALL_NODES,
    FUNCTION_VALUE_NODES,
    IDENTIFIER_NODES,
    LONE_WRAPPER_NODES,
    OWNER_KINDS,
    OWNER_NODES,
    WRAPPER_NODES,
    DefinitionRule,
    definition_rules,
)
from longrepo.repository.syntax import SyntaxTree

_CLAUSE_LANGUAGES = frozenset({"Haskell", "Elixir", "Erlang"})  # one function may have several clauses
_FOLLOWING_BODIES = frozenset({"function_body", "Block"})
_PLAIN_NAME = re.compile(r"[^\s()\[\]{}'\"]+")  # what may stand left of an assigned function and is a name
_MAX_SIGNATURE_CHARACTERS = 400  # characters
_MAX_HEAD_CHARACTERS = 4_000  # characters of the text that are read for a signature


class Definition(NamedTuple):
    """A named piece of code. `kind` is function, method, class, struct, enum, trait, interface, type, macro, module,
    message, service, table, view, target or block; `text[start:end]` is the whole definition with its decorators,
    `text[start:body]` the part before its body (`body` is `end` if it has none); `signature` is that part on one line,
    without decorators."""

    name: str
    kind: str
    start: int
    end: int
    line: int
    signature: str
    body: int


def definitions_in(parsed: SyntaxTree) -> tuple[Definition, ...]:
    """Return the definitions of a text in the order they begin, outer before inner."""
    rules, owned = definition_rules(parsed.language), _is_method_by_node(parsed)
    found = list[Definition]()
    latest = dict[int, int]()  # index of the node around -> index in `found` of the last definition in it
    for index, node in parsed.find(rules):
        one = _definition(parsed, index, node, rules[parsed.types[index]], owned[index])
        if one is None:
            continue
        if parsed.language in _CLAUSE_LANGUAGES:
            last = latest.setdefault(parsed.above[index], len(found))
            if last < len(found) and found[last][:2] == one[:2]:
                found[last] = found[last]._replace(end=one.end)
                continue
            latest[parsed.above[index]] = len(found)
        found.append(one)
    return tuple(found)


def _definition(parsed: SyntaxTree, index: int, node: Node, rule: DefinitionRule, owned: bool) -> Definition | None:
    if parsed.depths[index] == 0:  # the root of a Python tree has the type of Ruby's modules
        return None
    value = _follow_path(node, rule.value) if rule.value else node
    if value is None or (rule.value and value.type not in FUNCTION_VALUE_NODES):
        return None
    kind = rule.kind
    if rule.word:
        word = _follow_path(node, rule.word)
        kind = rule.kinds.get(parsed.source(word).partition("(")[0], "") if word else ""
    name = _name(parsed, node, rule) if kind else ""
    if not name or (rule.value and not _PLAIN_NAME.fullmatch(name)) or (kind == "target" and name.startswith(".")):
        return None
    node_type = parsed.types[index]
    body = _body(node, value, rule)
    if node_type.endswith("_specifier") and body is None:  # `struct s *p` mentions a struct
        return None
    if kind == "function" and owned and node_type != "variable_declarator":
        kind = "method"
    outer = _outermost_wrapper(parsed, index)
    whole, at = parsed.nodes[outer], parsed.characters
    start, end = at[whole.start_byte], at[whole.end_byte]
    if rule.follows and (body := _following_body(parsed, index, outer)):
        end = max(end, at[body.end_byte])
    head = at[node.start_byte] if parsed.types[outer] == "decorated_definition" else start
    stop = max(head, at[body.start_byte]) if body is not None else end
    signature = (
        " ".join(parsed.text[head : min(stop, head + _MAX_HEAD_CHARACTERS)].split())
        .removesuffix("=>")
        .removesuffix("{")
        .rstrip()
    )
    return Definition(name, kind, start, end, node.start_point[0] + 1, signature[:_MAX_SIGNATURE_CHARACTERS], stop)


def _body(node: Node, value: Node, rule: DefinitionRule) -> Node | None:
    if rule.body:
        return _follow_path(node, rule.body)
    field = value.child_by_field_name("body") or node.child_by_field_name("body")
    return field or next((child for child in value.named_children if child.type in BODY_NODES), None)


def _name(parsed: SyntaxTree, node: Node, rule: DefinitionRule) -> str:
    if rule.name == "labels":
        return ".".join(parsed.source(child).strip('"') for child in node.named_children if child.type == "string_lit")
    if rule.name:
        found = _follow_path(node, rule.name)
    else:
        found = node.child_by_field_name("name") or _declarator_name(node) or _first_name(node)
    return parsed.source(found).strip() if found else ""


def _follow_path(node: Node, path: str) -> Node | None:
    """Follow a rule's path from a node; return where it leads, or None."""
    here: Node | None = node
    for part in path.split("."):
        step = part.removesuffix("?")
        if here is None:
            return None
        if step.startswith(":"):
            below = next((child for child in here.named_children if child.type == step[1:]), None)
        elif step.isdigit():
            below = here.named_child(int(step)) if here.named_child_count > int(step) else None
        else:
            below = here.child_by_field_name(step)
        here = below or (here if step != part else None)
    return here


def _following_body(parsed: SyntaxTree, index: int, outer: int) -> Node | None:
    """Return the body right after a signature: the next listed node that isn't inside it."""
    end = parsed.nodes[index].end_byte
    for later in range(index + 1, min(index + 8, len(parsed.nodes))):
        node = parsed.nodes[later]
        if node.start_byte >= end:
            beside = parsed.depths[later] in (parsed.depths[index], parsed.depths[outer])
            return node if beside and parsed.types[later] in _FOLLOWING_BODIES else None
    return None


def _outermost_wrapper(parsed: SyntaxTree, index: int) -> int:
    """Return the index of the outermost node that holds nothing but this definition and what belongs to it."""
    while (above := parsed.parent(index)) >= 0:
        kind = parsed.types[above]
        if kind not in WRAPPER_NODES and not (kind in LONE_WRAPPER_NODES and _is_lone_definition(parsed.nodes[above])):
            break
        index = above
    return index


def _is_lone_definition(node: Node) -> bool:
    """`type A struct{}` and `const f = () => 1`, but not `type (A …; B …)` or `const f = …, g = …`."""
    second = node.child(1) if node.named_child_count == 1 else None
    return second is not None and second.type != "("


def _is_method_by_node(parsed: SyntaxTree) -> list[bool]:
    """Return for each node whether the nearest definition around it makes a function in it a method."""
    rules, owned, makes = definition_rules(parsed.language), list[bool](), list[bool]()
    for kind, depth, above in zip(parsed.types, parsed.depths, parsed.above, strict=True):
        inherited = makes[above] if above >= 0 else False
        owned.append(inherited)
        if kind in OWNER_NODES:
            inherited = True
        elif depth and kind in rules:
            inherited = rules[kind].kind in OWNER_KINDS or kind == "module"
        makes.append(inherited)
    return owned


def _declarator_name(node: Node) -> Node | None:
    """Find the name inside C's declarators: `int *(*f(void))(int)` declares f, `void n::A::m()` m."""
    inner = node.child_by_field_name("declarator")
    while inner is not None:
        deeper = inner.child_by_field_name("declarator") or (
            inner.child_by_field_name("name") if inner.type == "qualified_identifier" else None
        )
        if deeper is None:
            if inner.named_child_count and inner.type not in ("operator_name", "destructor_name", "template_function"):
                return next(
                    (c for c in inner.named_children if "declarator" in c.type or "identifier" in c.type), inner
                )
            return inner
        inner = deeper
    return None


def _first_name(node: Node) -> Node | None:
    return next((child for child in node.named_children if child.type in IDENTIFIER_NODES), None)


_HEAD_STEPS = 3  # levels from a definition to the name and parameters that look like a call
_DEFINING_NODES: dict[str, tuple[Mapping[str, str], Mapping[str, int]]] = {  # words, node types -> steps to the head
    "Elixir": (definition_rules("Elixir")["call"].kinds, {}),
    "Julia": ({}, {"function_definition": _HEAD_STEPS, "macro_definition": _HEAD_STEPS, "assignment": 1}),
}


class Call(NamedTuple):
    """A call by name. `inside` is the name of the definition around it, "" at the top level; `at` is the offset where
    the whole call begins."""

    name: str
    line: int
    inside: str
    at: int


def calls_in(parsed: SyntaxTree, definitions: Sequence[Definition]) -> tuple[Call, ...]:
    """Return a text's calls by name, in order. `a.b.c(…)` calls c; calls of an expression have no name and are left
    out."""
    starts, inside = _enclosing(definitions, len(parsed.text))
    named = named_calls(parsed)
    if parsed.language in _DEFINING_NODES:
        named = _without_heads(parsed, named)
    characters = parsed.characters
    found = list[Call]()
    for _, node, name in named:
        at = characters[node.start_byte]
        found.append(Call(name, node.start_point[0] + 1, inside[bisect_right(starts, at) - 1], at))
    return tuple(found)


def named_calls(parsed: SyntaxTree) -> Iterator[tuple[int, Node, str]]:
    """Yield (index, node, name) of each call by name, in order."""
    for index, node in parsed.find(CALL_NODES):
        if name := _callee(parsed, node):
            yield index, node, name


def _without_heads(parsed: SyntaxTree, named: Iterable[tuple[int, Node, str]]) -> Iterator[tuple[int, Node, str]]:
    """Leave out Elixir's `def f(a)`, which its grammar reads as two calls, and the f(a) of Julia's `function f(a)`."""
    words, types = _DEFINING_NODES[parsed.language]
    definers = {index for index, _ in parsed.find(types)}
    for index, node, name in named:
        if name in words:
            definers.add(index)
            continue
        above = parsed.above[index]
        steps = parsed.depths[index] - parsed.depths[above]
        if above != index - 1 or above not in definers or steps > types.get(parsed.types[above], _HEAD_STEPS):
            yield index, node, name


def _callee(parsed: SyntaxTree, call: Node) -> str:
    """Return the last identifier of what is called: c of a.b.c, f of f::<T>."""
    for field in ("function", "method", "name", "constructor", "type", "target"):
        if target := call.child_by_field_name(field):
            break
    else:
        target = call.named_child(0) if call.named_child_count else None
    while target is not None:
        kind, children = target.type, target.named_child_count
        if kind in IDENTIFIER_NODES:
            return parsed.source((target.named_child(children - 1) if children else None) or target)
        if not children or kind in CALL_NODES:
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
    """Return the offsets at which the innermost enclosing definition changes, and its name from there on."""
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
