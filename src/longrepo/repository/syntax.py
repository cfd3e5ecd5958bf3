"""Syntax trees with offsets in characters: tree-sitter counts bytes of UTF-8, everything above counts characters."""

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

MAX_CHARACTERS = 300_000  # a longer file is data more often than code, and its tree takes seconds and 100s of MB
_MAX_DEPTH = 1_000  # code stays under 200
_MAX_PARSE_SECONDS = 2.0  # of this thread's processor time; code of 300,000 characters takes 0.1
_READ_BYTES = 512  # bytes read at once; grammars that look back read 100,000 pieces per MB, and each is a copy
_LISTED_NODES = BODY_NODES | CALL_NODES | IMPORT_NODES | OWNER_NODES | WRAPPER_NODES | LONE_WRAPPER_NODES


@dataclass(frozen=True)
class SyntaxTree:
    """A text's tree. `nodes`, `types` and `depths` (0 is the root) are parallel lists of the nodes whose type
    `grammars.py` lists, in the order they begin, outer before inner; `above` has for each the index of the nearest
    such node around it, or -1. `characters[byte]` is the character offset of a byte offset."""

    text: str
    language: str
    root: Node
    nodes: list[Node]
    types: list[str]
    depths: list[int]
    above: list[int]
    characters: Sequence[int]

    def find(self, types: Collection[str]) -> Iterator[tuple[int, Node]]:
        """Yield (index, node) of the nodes of these types, which `grammars.py` has to list."""
        return ((index, self.nodes[index]) for index, kind in enumerate(self.types) if kind in types)

    def parent(self, index: int) -> int:
        """Return the index of a node's parent, or -1 if its type isn't listed."""
        above = self.above[index]
        return above if above >= 0 and self.depths[above] == self.depths[index] - 1 else -1

    def source(self, node: Node) -> str:
        """Return the node's text."""
        return self.text[self.characters[node.start_byte] : self.characters[node.end_byte]]


def parse_syntax(text: str, language: str) -> SyntaxTree | None:
    """Return the syntax tree of a text, or None if there is no grammar for the language or the text is too much for
    it: too long, nested too deep, or slow to parse (300 KB of `a<b<c<` take the C++ grammar a minute)."""
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
    """Parse a text in pieces; a parser that takes too long is told that the text ends, and the result is None."""
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
    """Walk the tree once; return None if it is too deep. (tree-sitter's queries are no faster, and take quadratic time
    on trees full of errors.)"""
    nodes, types, depths, above = list[Node](), list[str](), list[int](), list[int]()
    around, ends = [-1], [sys.maxsize]  # of each open node: its index and the byte where it ends
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
    starts = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80  # every byte except UTF-8 continuation bytes
    return cast(list[int], np.concatenate(([0], np.cumsum(starts))).tolist())


@lru_cache(maxsize=64)
def _grammar(language: str) -> tuple[Language, Sequence[str]]:
    """Return a language's grammar, and for each node kind its name if it is named and listed, else ""."""
    grammar = get_language(cast(SupportedLanguage, GRAMMARS[language]))
    listed = frozenset(definition_rules(language)) | _LISTED_NODES
    names = [""] * (1 << 16)  # errors have the highest kind
    for kind in range(grammar.node_kind_count):
        known = grammar.node_kind_for_id(kind)
        if known in listed and grammar.node_kind_is_named(kind):
            names[kind] = known
    return grammar, names
