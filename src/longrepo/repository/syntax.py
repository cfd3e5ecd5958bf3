"""What a file defines, calls and imports, and where it may be cut. Offsets are characters, lines begin at 1.

Nothing here raises on odd input: tree-sitter reads broken code too, and text without a grammar, or too long for one,
is treated by lines.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from longrepo.repository.grammar import (
    BODIES,
    CALLS,
    DEFINITIONS,
    FUNCTION_VALUES,
    IDENTIFIERS,
    OWNER_NODES,
    OWNERS,
)
from longrepo.repository.import_statements import Import, imports
from longrepo.repository.model import TextFile
from longrepo.repository.tree import Parsed, parse

__all__ = ["Call", "Definition", "Import", "calls", "cuts", "definitions", "identifiers", "imports", "nesting"]

_SIGNATURE = 400  # characters
_LARGE = 1500  # characters: a function longer than this may be cut between its statements too
_WORD = re.compile(r"[^\W\d]\w*")
_BODY_TYPES = frozenset(BODIES)
_IDENTIFIER_TYPES = frozenset(IDENTIFIERS)
_WRAPPERS = frozenset({"decorated_definition", "export_statement", "template_declaration", "lexical_declaration"})
_HEADS = ("comment", "attribute", "decorator", "annotation", "marker_annotation")


@dataclass(frozen=True)
class Definition:
    """A named piece of code: `kind` is function, method, class, struct, enum, trait, interface, type, macro, module,
    message or service; `text[start:end]` is all of it with its decorators; `signature` is what stands before its
    body, on one line."""

    name: str
    kind: str
    start: int
    end: int
    line: int
    signature: str


@dataclass(frozen=True)
class Call:
    """A call of something by name: `inside` is the definition it stands in, "" at the top level."""

    name: str
    line: int
    inside: str


def definitions(file: TextFile) -> tuple[Definition, ...]:
    """The definitions of a file in the order they begin, outer before inner."""
    parsed = parse(file.text, file.language)
    if parsed is None:
        return ()
    found = (_definition(parsed, node) for node in parsed.find(DEFINITIONS))
    return tuple(one for one in found if one is not None)


def calls(file: TextFile) -> tuple[Call, ...]:
    """What a file calls by name, in order. `a.b.c(…)` calls c; a call of an expression has no name and is left out."""
    parsed = parse(file.text, file.language)
    if parsed is None:
        return ()
    starts, inside = _enclosing(definitions(file), len(file.text))
    found: list[Call] = []
    for node in parsed.find(CALLS):
        if name := _callee(parsed, node):
            owner = inside[bisect_right(starts, parsed.at(node.start_byte)) - 1]
            found.append(Call(name, node.start_point[0] + 1, owner))
    return tuple(found)


def identifiers(text: str, language: str) -> Iterator[tuple[str, int]]:
    """(name, offset) of each identifier in order; without a grammar, of each word."""
    parsed = parse(text, language)
    nodes = parsed.find(IDENTIFIERS) if parsed else []
    if parsed is None or not nodes:
        yield from ((match.group(), match.start()) for match in _WORD.finditer(text))
        return
    for node in nodes:
        if not node.named_child_count:  # Kotlin's dotted identifier holds simple ones
            yield parsed.source(node), parsed.at(node.start_byte)


def nesting(text: str, language: str) -> int:
    """How deep bodies and blocks stand inside each other; without a grammar, how many widths of indentation."""
    parsed = parse(text, language)
    if parsed is None:
        return _indentation(text)
    deepest, open_ends = 0, list[int]()
    for node in parsed.find(BODIES):
        while open_ends and open_ends[-1] <= node.start_byte:
            open_ends.pop()
        open_ends.append(node.end_byte)
        deepest = max(deepest, len(open_ends))
    return deepest


def cuts(text: str, language: str) -> tuple[int, ...]:
    """Ascending offsets, each at the start of a line, where a cut leaves syntax nodes whole.

    These are the starts of top-level nodes and of the members of classes and the like but the first, which stays with
    their head; of the statements of a function only where it is longer than 1,500 characters. What introduces a node
    (comments right above it, attributes, decorators) stays with it. Without a grammar: after blank lines, else every
    line. Never 0 or the end.
    """
    parsed = parse(text, language)
    if parsed is None:
        return _line_cuts(text)
    found: set[int] = set()
    line_starts, first_characters = _lines(text)
    root = parsed.tree.root_node
    pending = [root]
    while pending:
        holder = pending.pop()
        above: Node | None = None
        for node in holder.named_children:
            start, end = parsed.at(node.start_byte), parsed.at(node.end_byte)
            pending.extend(body for body in _bodies(node, 3) if end - start > _LARGE or not _is_code(body))
            first = above is None and holder is not root  # a head belongs to the first of what follows it
            if not first and not (above and _introduces(above, node)) and node.type != "end_tag":
                row = node.start_point[0]
                if row < len(line_starts) and start == first_characters[row]:
                    found.add(line_starts[row])
            above = node
    return tuple(sorted(at for at in found if 0 < at < len(text)))


def _definition(parsed: Parsed, node: Node) -> Definition | None:
    if node.parent is None:  # the root of a Python tree has the type of Ruby's modules
        return None
    name_node = node.child_by_field_name("name") or _declared(node) or _first_name(node)
    if name_node is None:
        return None
    body = node.child_by_field_name("body") or next((c for c in node.named_children if c.type in _BODY_TYPES), None)
    kind = DEFINITIONS[node.type]
    if node.type == "variable_declarator":
        value = node.child_by_field_name("value")
        if value is None or value.type not in FUNCTION_VALUES:
            return None
        body = value.child_by_field_name("body")
    if node.type.endswith("_specifier") and body is None:  # `struct s *p` mentions a struct
        return None
    if kind == "function" and node.type != "variable_declarator" and _owned(node):
        kind = "method"
    whole = node
    while (above := whole.parent) is not None and (above.type in _WRAPPERS or _is_lone_type(above)):
        whole = above
    head_start = parsed.at(node.start_byte if whole.type == "decorated_definition" else whole.start_byte)
    end = parsed.at(whole.end_byte)
    head_end = parsed.at(body.start_byte) if body is not None else end
    signature = " ".join(parsed.text[head_start : max(head_start, head_end)].split())
    signature = signature.removesuffix("=>").removesuffix("{").rstrip()[:_SIGNATURE]
    name = parsed.source(name_node)
    start = parsed.at(whole.start_byte)
    return Definition(name, kind, start, end, node.start_point[0] + 1, signature) if name else None


def _is_lone_type(node: Node) -> bool:
    """Go's `type A struct{}`, where the word `type` stands outside the definition; not `type (A …; B …)`."""
    return node.type == "type_declaration" and node.child(1) == node.named_child(0) and node.named_child_count == 1


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
    return next((child for child in node.named_children if child.type in _IDENTIFIER_TYPES), None)


def _owned(node: Node) -> bool:
    above = node.parent
    while above is not None:
        if above.type in OWNER_NODES:
            return True
        kind = DEFINITIONS.get(above.type)
        if kind is not None and above.parent is not None:
            return kind in OWNERS or above.type == "module"
        above = above.parent
    return False


def _callee(parsed: Parsed, call: Node) -> str:
    """The last identifier of what is called: c of a.b.c, f of f::<T>."""
    for field in ("function", "method", "name", "constructor", "type"):
        if target := call.child_by_field_name(field):
            break
    else:
        target = call.named_child(0)
    while target is not None:
        if target.type in _IDENTIFIER_TYPES:
            inner = target.named_child_count and target.named_child(target.named_child_count - 1)
            return parsed.source(inner or target)
        parts = [c for c in target.named_children if "argument" not in c.type and c.type != "call_suffix"]
        if not parts or target.type in CALLS:
            return ""
        target = parts[-1]
    return ""


def _enclosing(found: tuple[Definition, ...], length: int) -> tuple[list[int], list[str]]:
    """Offsets at which the innermost enclosing definition changes, and its name from there on."""
    starts, names = [0], [""]
    stack: list[Definition] = []

    def close(until: int) -> None:
        while stack and stack[-1].end <= until:
            starts.append(stack.pop().end)
            names.append(stack[-1].name if stack else "")

    for one in found:
        close(one.start)
        starts.append(one.start)
        names.append(one.name)
        stack.append(one)
    close(length)
    return starts, names


def _bodies(node: Node, depth: int) -> Iterator[Node]:
    """The nearest bodies at or below a node."""
    if node.type in _BODY_TYPES:
        yield node
    elif depth:
        for child in node.named_children:
            yield from _bodies(child, depth - 1)


def _is_code(body: Node) -> bool:
    """Whether a body holds a function's statements rather than a class's members."""
    if body.type in ("block", "compound_statement", "statement_block", "function_body", "constructor_body"):
        owner = body.parent
        return owner is None or DEFINITIONS.get(owner.type) not in OWNERS
    if body.type == "body_statement":
        return body.parent is not None and body.parent.type not in ("class", "module")
    return body.type in ("switch_body", "switch_block", "match_block", "do_block", "do_group", "object", "array")


def _introduces(above: Node, node: Node) -> bool:
    near = node.start_point[0] - above.end_point[0] <= 1
    return near and any(above.type == head or above.type.endswith(f"_{head}") or head in above.type for head in _HEADS)


def _lines(text: str) -> tuple[list[int], list[int]]:
    """Where each line starts, and where its first character stands that isn't white space."""
    starts, firsts = [0], list[int]()
    for line in text.split("\n"):
        firsts.append(starts[-1] + len(line) - len(line.lstrip()))
        starts.append(starts[-1] + len(line) + 1)
    return starts[:-1], firsts


def _line_cuts(text: str) -> tuple[int, ...]:
    after_blank = tuple(match.end() for match in re.finditer(r"\n[ \t\r]*\n(?=[^\s])", text))
    found = after_blank or tuple(match.end() for match in re.finditer(r"\n", text))
    return tuple(at for at in found if 0 < at < len(text))


def _indentation(text: str) -> int:
    widths = {len(line) - len(line.lstrip()) for line in text.expandtabs(4).splitlines() if line.strip()}
    unit = min((width for width in widths if width > 1), default=0)
    return max(widths) // unit if unit else 0
