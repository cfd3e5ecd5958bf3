"""What a text defines: functions, types and the like, each with its signature's extent."""

from __future__ import annotations

import re
from typing import NamedTuple

from tree_sitter import Node

from longrepo.repository.syntax.definition_rules import Rule, definition_rules
from longrepo.repository.syntax.grammar import (
    BODIES,
    FUNCTION_VALUES,
    IDENTIFIERS,
    LONE_WRAPPERS,
    OWNER_NODES,
    OWNERS,
    WRAPPERS,
)
from longrepo.repository.syntax.tree import Parsed

_CLAUSED = frozenset({"Haskell", "Elixir", "Erlang"})  # where one function stands in several clauses
_FOLLOWING = frozenset({"function_body", "Block"})
_PLAIN = re.compile(r"[^\s()\[\]{}'\"]+")  # of what may stand left of an assigned function, what can be asked for
_SIGNATURE = 400  # characters
_HEAD = 4_000  # characters of the text that are read for one


class Definition(NamedTuple):
    """A named piece of code. `kind` is function, method, class, struct, enum, trait, interface, type, macro, module,
    message, service, table, view, target or block; `text[start:end]` is all of it with its decorators,
    `text[start:body]` what stands before its body (`body` is `end` where it has none); `signature` is that on one
    line, without decorators."""

    name: str
    kind: str
    start: int
    end: int
    line: int
    signature: str
    body: int


def definitions_in(parsed: Parsed) -> tuple[Definition, ...]:
    """The definitions of a text in the order they begin, outer before inner."""
    rules, owned = definition_rules(parsed.language), _owned(parsed)
    found = list[Definition]()
    latest = dict[int, int]()  # index of the node around -> where in `found` is the last definition in it
    for index, node in parsed.find(rules):
        one = _definition(parsed, index, node, rules[parsed.types[index]], owned[index])
        if one is None:
            continue
        if parsed.language in _CLAUSED:
            last = latest.setdefault(parsed.above[index], len(found))
            if last < len(found) and found[last][:2] == one[:2]:
                found[last] = found[last]._replace(end=one.end)
                continue
            latest[parsed.above[index]] = len(found)
        found.append(one)
    return tuple(found)


def _definition(parsed: Parsed, index: int, node: Node, rule: Rule, owned: bool) -> Definition | None:
    if parsed.depths[index] == 0:  # the root of a Python tree has the type of Ruby's modules
        return None
    value = _follow(node, rule.value) if rule.value else node
    if value is None or (rule.value and value.type not in FUNCTION_VALUES):
        return None
    kind = rule.kind
    if rule.word:
        word = _follow(node, rule.word)
        kind = rule.kinds.get(parsed.source(word).partition("(")[0], "") if word else ""
    name = _name(parsed, node, rule) if kind else ""
    if not name or (rule.value and not _PLAIN.fullmatch(name)) or (kind == "target" and name.startswith(".")):
        return None
    node_type = parsed.types[index]
    body = _body(node, value, rule)
    if node_type.endswith("_specifier") and body is None:  # `struct s *p` mentions a struct
        return None
    if kind == "function" and owned and node_type != "variable_declarator":
        kind = "method"
    outer = _wrapped(parsed, index)
    whole, at = parsed.nodes[outer], parsed.characters
    start, end = at[whole.start_byte], at[whole.end_byte]
    if rule.follows and (body := _following(parsed, index, outer)):
        end = max(end, at[body.end_byte])
    head = at[node.start_byte] if parsed.types[outer] == "decorated_definition" else start
    stop = max(head, at[body.start_byte]) if body is not None else end
    signature = (
        " ".join(parsed.text[head : min(stop, head + _HEAD)].split()).removesuffix("=>").removesuffix("{").rstrip()
    )
    return Definition(name, kind, start, end, node.start_point[0] + 1, signature[:_SIGNATURE], stop)


def _body(node: Node, value: Node, rule: Rule) -> Node | None:
    if rule.body:
        return _follow(node, rule.body)
    field = value.child_by_field_name("body") or node.child_by_field_name("body")
    return field or next((child for child in value.named_children if child.type in BODIES), None)


def _name(parsed: Parsed, node: Node, rule: Rule) -> str:
    if rule.name == "labels":
        return ".".join(parsed.source(child).strip('"') for child in node.named_children if child.type == "string_lit")
    if rule.name:
        found = _follow(node, rule.name)
    else:
        found = node.child_by_field_name("name") or _declared(node) or _first_name(node)
    return parsed.source(found).strip() if found else ""


def _follow(node: Node, path: str) -> Node | None:
    """Where a rule's path leads from a node."""
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


def _following(parsed: Parsed, index: int, outer: int) -> Node | None:
    """The body right after a signature: the next node that is listed and not inside it."""
    end = parsed.nodes[index].end_byte
    for later in range(index + 1, min(index + 8, len(parsed.nodes))):
        node = parsed.nodes[later]
        if node.start_byte >= end:
            beside = parsed.depths[later] in (parsed.depths[index], parsed.depths[outer])
            return node if beside and parsed.types[later] in _FOLLOWING else None
    return None


def _wrapped(parsed: Parsed, index: int) -> int:
    """The index of the outermost node that holds this definition and only what belongs to it."""
    while (above := parsed.parent(index)) >= 0:
        kind = parsed.types[above]
        if kind not in WRAPPERS and not (kind in LONE_WRAPPERS and _lone(parsed.nodes[above])):
            break
        index = above
    return index


def _lone(node: Node) -> bool:
    """`type A struct{}` and `const f = () => 1`, but not `type (A …; B …)` or `const f = …, g = …`."""
    second = node.child(1) if node.named_child_count == 1 else None
    return second is not None and second.type != "("


def _owned(parsed: Parsed) -> list[bool]:
    """Of each node, whether the nearest definition or the like around it makes a function a method."""
    rules, owned, makes = definition_rules(parsed.language), list[bool](), list[bool]()
    for kind, depth, above in zip(parsed.types, parsed.depths, parsed.above, strict=True):
        inherited = makes[above] if above >= 0 else False
        owned.append(inherited)
        if kind in OWNER_NODES:
            inherited = True
        elif depth and kind in rules:
            inherited = rules[kind].kind in OWNERS or kind == "module"
        makes.append(inherited)
    return owned


def _declared(node: Node) -> Node | None:
    """The name inside C's declarators: `int *(*f(void))(int)` declares f, `void n::A::m()` m."""
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
    return next((child for child in node.named_children if child.type in IDENTIFIERS), None)
