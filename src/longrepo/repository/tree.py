"""Syntax trees with offsets in characters: tree-sitter counts bytes of UTF-8, everything above counts characters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tree_sitter import Node, Tree
from tree_sitter_language_pack import SupportedLanguage, get_language, get_parser

from longrepo.repository.grammar import BODIES, CALLS, DEFINITIONS, GRAMMARS, IDENTIFIERS, IMPORTS

MAX_CHARACTERS = 300_000  # beyond this a file is data more often than code, and a tree takes seconds and 100s of MB
_DEEPEST = 1_000  # code stays under 200; finding a node's parent takes time in proportion to its depth
_SECONDS = 2.0  # of this thread's processor time; code of 300,000 characters takes 0.3
_KNOWN_TYPES = frozenset((*BODIES, *CALLS, *DEFINITIONS, *IDENTIFIERS, *IMPORTS))


@dataclass(frozen=True)
class Parsed:
    """A text's tree. `nodes` are those of a type that `grammar.py` lists, in the order they begin, outer before inner;
    `characters` maps a byte offset to a character offset, None where they are the same."""

    text: str
    tree: Tree
    nodes: tuple[tuple[str, Node], ...]
    characters: NDArray[np.int32] | None

    def at(self, byte: int) -> int:
        """The character offset of a byte offset."""
        return byte if self.characters is None else int(self.characters[byte])

    def find(self, types: Iterable[str]) -> list[Node]:
        """The nodes of these types, each listed in `grammar.py`, in the order they begin, outer before inner."""
        wanted = frozenset(types)
        return [node for kind, node in self.nodes if kind in wanted]

    def source(self, node: Node) -> str:
        """The node's text."""
        return self.text[self.at(node.start_byte) : self.at(node.end_byte)]


@lru_cache(maxsize=8)  # definitions, cuts and calls of one file are asked for one after the other
def parse(text: str, language: str) -> Parsed | None:
    """The syntax tree of a text, or None where the language has no grammar here or the text defeats one: it is too
    long, nested too deep, or makes the parser search (300 KB of `a<b<c<` take the C++ grammar a minute)."""
    grammar = GRAMMARS.get(language)
    if grammar is None or not text or len(text) > MAX_CHARACTERS:
        return None
    data = text.encode("utf-8", "surrogatepass")
    tree = _tree(grammar, data)
    nodes = _known_nodes(tree, grammar) if tree is not None else None
    if tree is None or nodes is None:
        return None
    characters = None
    if len(data) != len(text):
        starts = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80  # every byte but UTF-8's continuations
        characters = np.concatenate(([0], np.cumsum(starts, dtype=np.int32))).astype(np.int32)
    return Parsed(text, tree, nodes, characters)


def _tree(grammar: str, data: bytes) -> Tree | None:
    """The tree, read in pieces so that a parser that takes too long can be told that the text ends here."""
    deadline = time.thread_time() + _SECONDS
    late = False

    def piece(offset: int, _: object) -> bytes:
        nonlocal late
        late = late or time.thread_time() > deadline
        return b"" if late else data[offset : offset + 2048]

    tree = get_parser(cast(SupportedLanguage, grammar)).parse(piece)
    return None if late else tree


def _known_nodes(tree: Tree, grammar: str) -> tuple[tuple[str, Node], ...] | None:
    """One walk over the tree, or None where it is too deep. (tree-sitter's queries take time that grows with the
    square of the text on trees full of errors.)"""
    names = _names(grammar)
    found: list[tuple[str, Node]] = []
    cursor = tree.walk()
    depth = 0
    while True:
        node = cursor.node
        if node is not None and (name := names.get(node.kind_id)):
            found.append((name, node))
        if cursor.goto_first_child():
            depth += 1
            if depth > _DEEPEST:
                return None
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return tuple(found)
            depth -= 1


@lru_cache(maxsize=64)
def _names(grammar: str) -> dict[int, str]:
    """Node kind -> name, of the named kinds that `grammar.py` lists."""
    language = get_language(cast(SupportedLanguage, grammar))
    kinds = ((kind, language.node_kind_for_id(kind)) for kind in range(language.node_kind_count))
    return {kind: name for kind, name in kinds if name in _KNOWN_TYPES and language.node_kind_is_named(kind)}
