"""Tree-sitter trees in characters.

Syntax trees with offsets in characters: tree-sitter counts bytes of UTF-8, everything above counts characters.

What a text's syntax tree says of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from tree_sitter import Language, Node, Parser, Tree
from tree_sitter_language_pack import SupportedLanguage, get_language

from longrepo.repository.grammars import (
    BODY_NODES,
    CALL_NODES,
    GRAMMARS,
    IMPORT_NODES,
    LONE_WRAPPER_NODES,
    OWNER_NODES,
    WRAPPER_NODES,
    definition_rules,
)

MAX_CHARACTERS = 300_000  # beyond this a file is data more often than code, and a tree takes seconds and 100s of MB
_MAX_DEPTH = 1_000  # code stays under 200
_MAX_PARSE_SECONDS = 2.0  # of this thread's processor time; code of 300,000 characters takes 0.1
_READ_BYTES = 512  # bytes read at once; grammars that look back ask for 100,000 pieces a MB, and each is a copy
_LISTED_NODES = BODY_NODES | CALL_NODES | IMPORT_NODES | OWNER_NODES | WRAPPER_NODES | LONE_WRAPPER_NODES


@dataclass(frozen=True)
class SyntaxTree:
    """A text's tree. Of the nodes of a type that `grammar.py` lists, in the order they begin, outer before inner,
    `nodes`, `types` and `depths` (0 is the root) stand side by side; `above` has the index of the nearest of them
    around each, -1 where there is none. `characters[byte]` is the character offset of a byte offset."""

    text: str
    language: str
    root: Node
    nodes: list[Node]
    types: list[str]
    depths: list[int]
    above: list[int]
    characters: Sequence[int]

    def find(self, types: Collection[str]) -> Iterator[tuple[int, Node]]:
        """(index, node) of the nodes of these types, each listed in `grammar.py`."""
        return ((index, self.nodes[index]) for index, kind in enumerate(self.types) if kind in types)

    def parent(self, index: int) -> int:
        """The index of a node's parent, -1 where that is of no listed type."""
        above = self.above[index]
        return above if above >= 0 and self.depths[above] == self.depths[index] - 1 else -1

    def source(self, node: Node) -> str:
        """The node's text."""
        return self.text[self.characters[node.start_byte] : self.characters[node.end_byte]]


def parse_syntax(text: str, language: str) -> SyntaxTree | None:
    """The syntax tree of a text, or None where the language has no grammar here or the text defeats one: it is too
    long, nested too deep, or makes the parser search (300 KB of `a<b<c<` take the C++ grammar a minute)."""
    if language not in GRAMMARS or not text or len(text) > MAX_CHARACTERS:
        return None
    data = text.encode("utf-8", "surrogatepass")
    grammar, names = _grammar(language)
    tree = _parse_tree(grammar, data)
    known = _list_nodes(tree, names) if tree is not None else None
    if tree is None or known is None:
        return None
    return SyntaxTree(text, language, tree.root_node, *known, _character_offsets(data, len(text)))


def _parse_tree(grammar: Language, data: bytes) -> Tree | None:
    """The tree, read in pieces so that a parser that takes too long can be told that the text ends here."""
    deadline = time.thread_time() + _MAX_PARSE_SECONDS
    late, calls, furthest = False, 0, -1

    def piece(offset: int, _: object) -> bytes:
        nonlocal late, calls, furthest
        calls += 1
        if offset > furthest or not calls % 64:
            furthest = max(furthest, offset)
            late = late or time.thread_time() > deadline
        return b"" if late else data[offset : offset + _READ_BYTES]

    tree = Parser(grammar).parse(piece)
    return None if late else tree


def _list_nodes(tree: Tree, names: Sequence[str]) -> tuple[list[Node], list[str], list[int], list[int]] | None:
    """One walk over the tree, or None where it is too deep. (tree-sitter's queries are no faster, and take time that
    grows with the square of the text on trees full of errors.)"""
    nodes, types, depths, above = list[Node](), list[str](), list[int](), list[int]()
    around, ends = [-1], [sys.maxsize]  # of the nodes that are open: index, byte at which it ends
    cursor = tree.walk()
    first_child, next_sibling, to_parent = cursor.goto_first_child, cursor.goto_next_sibling, cursor.goto_parent
    while True:
        node = cast(Node, cursor.node)
        if name := names[node.kind_id]:
            start, depth = node.start_byte, cursor.depth
            if depth > _MAX_DEPTH:
                return None
            while ends[-1] <= start:
                ends.pop()
                around.pop()
            above.append(around[-1])
            around.append(len(nodes))
            ends.append(node.end_byte)
            nodes.append(node)
            types.append(name)
            depths.append(depth)
        if first_child():
            continue
        while not next_sibling():
            if not to_parent():
                return nodes, types, depths, above


def _character_offsets(data: bytes, length: int) -> Sequence[int]:
    if len(data) == length:
        return range(length + 1)
    starts = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80  # every byte but UTF-8's continuations
    return cast(list[int], np.concatenate(([0], np.cumsum(starts))).tolist())


@lru_cache(maxsize=64)
def _grammar(language: str) -> tuple[Language, Sequence[str]]:
    """A language's grammar, and by node kind its name if it is named and anybody here asks for it, else ""."""
    grammar = get_language(cast(SupportedLanguage, GRAMMARS[language]))
    listed = frozenset(definition_rules(language)) | _LISTED_NODES
    names = [""] * (1 << 16)  # errors have the highest kind
    for kind in range(grammar.node_kind_count):
        known = grammar.node_kind_for_id(kind)
        if known in listed and grammar.node_kind_is_named(kind):
            names[kind] = known
    return grammar, names
