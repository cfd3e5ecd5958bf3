"""The outline of a text: its definitions, calls, imports and cuts, from one parse, small enough to store.

A cut is a place where the text may be divided without breaking a syntax node. Offsets are in characters, lines begin
at 1. Nothing here raises on odd input: tree-sitter reads broken code too, and a text that has no grammar or is too
long for one is divided by lines.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from tree_sitter import Node

from longrepo.repository.definitions import Call, Definition, calls_in, definitions_in
from longrepo.repository.grammars import BODY_NODES, DEFINITION_NODES, OWNER_KINDS
from longrepo.repository.imports.statements import Import, imports_in
from longrepo.repository.syntax import SyntaxTree, parse_syntax

_LARGE_CHARACTERS = 1500  # characters: a function longer than this may be cut between its statements too
_MAX_BODY_STEPS = 4  # how many levels below its holder a body is looked for
_HEAD_NODE_PARTS = (
    "comment",
    "attribute",
    "decorator",
    "annotation",
)  # node types with such a part in their name introduce the next node
_FUNCTION_BODIES = frozenset(
    {"block", "compound_statement", "statement_block", "function_body", "constructor_body", "Block"}
    | {"braced_expression", "script_block", "recipe"}
)
_INNER_BODIES = frozenset({"switch_body", "switch_block", "match_block", "do_block", "do_group", "object", "array"})


def cuts_in(parsed: SyntaxTree) -> tuple[int, ...]:
    """Return ascending offsets, each at the start of a line, where a cut leaves syntax nodes whole.

    These are the starts of top-level nodes and of the members of classes and the like, except the first, which stays
    with their head; of a function's statements only if the function is longer than 1,500 characters. What introduces
    a node (comments right above it, attributes, decorators) stays with it. Never 0 or the end.
    """
    members = {-1: parsed.root.named_children}  # index of a node that is cut inside -> its children
    found = set(_starts(parsed, members[-1], first=True))
    holders = list[int]()  # for each node, the index of the nearest body around it, -1 for the root
    for index, (kind, above) in enumerate(zip(parsed.types, parsed.above, strict=True)):
        holder = -1 if above < 0 else above if parsed.types[above] in BODY_NODES else holders[above]
        holders.append(holder)
        if kind in BODY_NODES and holder in members and _is_cut(parsed, index, holder, members[holder]):
            members[index] = parsed.nodes[index].named_children
            found.update(_starts(parsed, members[index], first=False))
    return tuple(sorted(at for at in found if 0 < at < len(parsed.text)))


def line_cuts(text: str) -> tuple[int, ...]:
    """Return the offsets after blank lines, or else of every line: for a text without a tree."""
    after_blank = tuple(match.end() for match in re.finditer(r"\n[ \t\r]*\n(?=[^\s])", text))
    found = after_blank or tuple(match.end() for match in re.finditer(r"\n", text))
    return tuple(at for at in found if 0 < at < len(text))


def _is_cut(parsed: SyntaxTree, index: int, holder: int, members: list[Node]) -> bool:
    """Whether a body close below its holder is large, or holds something other than a function's statements."""
    steps = parsed.depths[index] - (parsed.depths[holder] if holder >= 0 else 0)
    if not 0 < steps <= _MAX_BODY_STEPS:
        return False
    if not _is_code(parsed, index):
        return True
    position = bisect_right(members, parsed.nodes[index].start_byte, key=lambda node: node.start_byte) - 1
    around = members[max(position, 0)]
    return parsed.characters[around.end_byte] - parsed.characters[around.start_byte] > _LARGE_CHARACTERS


def _is_code(parsed: SyntaxTree, index: int) -> bool:
    kind, parent = parsed.types[index], parsed.parent(index)
    owner = parsed.types[parent] if parent >= 0 else ""
    if kind in _FUNCTION_BODIES:
        return DEFINITION_NODES.get(owner) not in OWNER_KINDS
    if kind == "body_statement":
        return owner not in ("class", "module")
    return kind in _INNER_BODIES


def _starts(parsed: SyntaxTree, members: list[Node], first: bool) -> Iterator[int]:
    """Yield the line starts of the members that begin a line and that nothing introduces; of the first only if
    `first`."""
    text, characters = parsed.text, parsed.characters
    previous = characters[members[0].start_byte] if members and not first else 0
    line, begins = 0, first
    above_end, introduces = 0, False
    for node in members:
        start, end, kind = characters[node.start_byte], characters[node.end_byte], node.type
        newline = text.rfind("\n", previous, start)
        if newline >= 0:
            line = newline + 1
            begins = not text[line:start].strip()
        elif text[previous:start].strip():
            begins = False
        if begins and kind != "end_tag":
            blank = not text[start : start + 1].strip() and not text.startswith("\n", start)
            if not blank and not (introduces and text.count("\n", above_end, start) <= 1):
                yield line
        previous, above_end, introduces = start, end, _is_head(kind)


@lru_cache(maxsize=1024)
def _is_head(kind: str) -> bool:
    return any(head in kind for head in _HEAD_NODE_PARTS)


OUTLINE_VERSION = 3  # of the results: stored outlines of another version are out of date


@dataclass(frozen=True)
class Outline:
    """`definitions`, `calls` and `imports` in the order they begin, outer before inner; `cuts`, ascending, where the
    text may be cut with its syntax nodes whole; `bodies`, (start, end) of each that holds members or statements."""

    definitions: tuple[Definition, ...]
    calls: tuple[Call, ...]
    imports: tuple[Import, ...]
    cuts: tuple[int, ...]
    bodies: tuple[tuple[int, int], ...]

    def to_json(self) -> str:
        """Return one line of JSON, in columns rather than rows."""
        columns = {
            "definitions": list(zip(*self.definitions, strict=True)),
            "calls": list(zip(*self.calls, strict=True)),
            "imports": list(zip(*self.imports, strict=True)),
            "cuts": self.cuts,
            "bodies": list(chain.from_iterable(self.bodies)),
        }
        return json.dumps(columns, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Outline:
        """Read the outline that `to_json` wrote."""
        columns = json.loads(text)
        bodies = iter(columns["bodies"])
        imports = zip(*columns["imports"], strict=True)
        return Outline(
            tuple(map(Definition, *columns["definitions"])) if columns["definitions"] else (),
            tuple(map(Call, *columns["calls"])) if columns["calls"] else (),
            tuple(Import(module, tuple(names), level, line) for module, names, level, line in imports),
            tuple(columns["cuts"]),
            tuple(zip(bodies, bodies, strict=True)),
        )


def build_outline(text: str, language: str) -> Outline:
    """Return the outline of a text. Without a tree it has only cuts: after blank lines, or else at every line."""
    parsed = parse_syntax(text, language)
    if parsed is None:
        return Outline((), (), (), line_cuts(text), ())
    definitions = definitions_in(parsed)
    at = parsed.characters
    bodies = tuple((at[node.start_byte], at[node.end_byte]) for _, node in parsed.find(BODY_NODES))
    return Outline(definitions, calls_in(parsed, definitions), imports_in(parsed), cuts_in(parsed), bodies)
