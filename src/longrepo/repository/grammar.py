"""Syntax trees with offsets in characters, and which node types mean what in the languages we know.

tree-sitter counts bytes of UTF-8; everything that leaves this floor counts characters. Node types are listed for all
languages together: a grammar is only asked for those it has.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tree_sitter import Language, Node, Query, QueryCursor, Tree
from tree_sitter_language_pack import SupportedLanguage, get_language, get_parser

MAX_CHARACTERS = 300_000  # beyond this a file is data more often than code, and a tree takes seconds and 100s of MB
_SECONDS = 2.0  # of this thread's processor time; code of 300,000 characters takes 0.3

_GRAMMARS = {
    "Python": "python",
    "Rust": "rust",
    "Go": "go",
    "JavaScript": "tsx",  # a superset of JavaScript with JSX; the typed grammar reads untyped code too
    "TypeScript": "typescript",
    "Java": "java",
    "Kotlin": "kotlin",
    "C": "c",
    "C++": "cpp",
    "C#": "csharp",
    "Ruby": "ruby",
    "PHP": "php",
    "Swift": "swift",
    "Scala": "scala",
    "Shell": "bash",
    "SQL": "sql",
    "HTML": "html",
    "CSS": "css",
    "Markdown": "markdown",
    "YAML": "yaml",
    "TOML": "toml",
    "JSON": "json",
    "Lua": "lua",
    "Haskell": "haskell",
    "Elixir": "elixir",
    "Dart": "dart",
    "R": "r",
    "Julia": "julia",
    "OCaml": "ocaml",
    "Zig": "zig",
    "Erlang": "erlang",
    "Protocol Buffers": "proto",
    "CMake": "cmake",
    "Terraform": "hcl",
}

DEFINITIONS = {
    "function_definition": "function",
    "function_declaration": "function",
    "generator_function_declaration": "function",
    "function_item": "function",
    "method_declaration": "method",
    "method_definition": "method",
    "constructor_declaration": "method",
    "init_declaration": "method",
    "method": "function",
    "singleton_method": "method",
    "class_definition": "class",
    "class_declaration": "class",
    "abstract_class_declaration": "class",
    "class_specifier": "class",
    "class": "class",
    "object_definition": "class",
    "object_declaration": "class",
    "record_declaration": "class",
    "struct_item": "struct",
    "struct_specifier": "struct",
    "struct_declaration": "struct",
    "union_item": "struct",
    "union_specifier": "struct",
    "enum_item": "enum",
    "enum_specifier": "enum",
    "enum_declaration": "enum",
    "enum_definition": "enum",
    "trait_item": "trait",
    "trait_definition": "trait",
    "trait_declaration": "trait",
    "interface_declaration": "interface",
    "protocol_declaration": "interface",
    "annotation_type_declaration": "interface",
    "type_spec": "type",
    "type_alias_declaration": "type",
    "type_alias": "type",
    "type_item": "type",
    "type_definition": "type",
    "macro_definition": "macro",
    "preproc_function_def": "macro",
    "module": "module",
    "message": "message",
    "service": "service",
    "variable_declarator": "function",  # const f = (x) => …: kept only where the value is a function
}
# What makes a function inside it a method.
OWNERS = frozenset({"class", "struct", "enum", "trait", "interface"})
OWNER_NODES = frozenset({"impl_item", "extension_declaration", "class_body", "object_declaration"})
FUNCTION_VALUES = frozenset({"arrow_function", "function_expression", "generator_function", "function"})
CALLS = (
    "call",
    "call_expression",
    "function_call",
    "method_invocation",
    "object_creation_expression",
    "new_expression",
    "invocation_expression",
    "function_call_expression",
    "member_call_expression",
    "scoped_call_expression",
    "command",
)
IDENTIFIERS = (
    "identifier",
    "type_identifier",
    "field_identifier",
    "property_identifier",
    "shorthand_property_identifier",
    "shorthand_property_identifier_pattern",
    "shorthand_field_identifier",
    "package_identifier",
    "namespace_identifier",
    "simple_identifier",
    "statement_identifier",
    "constant",
    "instance_variable",
    "variable_name",
    "name",
    "word",
)
# What holds members or statements: a step deeper in nesting, a place to cut between.
BODIES = (
    "block",
    "class_body",
    "interface_body",
    "enum_body",
    "enum_class_body",
    "constructor_body",
    "function_body",
    "object_type",
    "template_body",
    "body_statement",
    "statement_block",
    "declaration_list",
    "field_declaration_list",
    "enumerator_list",
    "enum_variant_list",
    "compound_statement",
    "switch_body",
    "switch_block",
    "match_block",
    "do_block",
    "do_group",
    "section",
    "block_mapping",
    "block_sequence",
    "object",
    "array",
    "element",
)


@dataclass(frozen=True)
class Parsed:
    """A text's tree. `characters` maps a byte offset to a character offset; None where they are the same."""

    text: str
    tree: Tree
    grammar: str
    characters: NDArray[np.int32] | None

    def at(self, byte: int) -> int:
        """The character offset of a byte offset."""
        return byte if self.characters is None else int(self.characters[byte])

    def find(self, types: Iterable[str]) -> list[Node]:
        """The nodes of these types in the order they begin, outer before inner."""
        query = _query(self.grammar, tuple(types))
        if query is None:
            return []
        found = QueryCursor(query).captures(self.tree.root_node).get("n", [])
        return sorted(found, key=lambda node: (node.start_byte, -node.end_byte))

    def source(self, node: Node) -> str:
        """The node's text."""
        return self.text[self.at(node.start_byte) : self.at(node.end_byte)]


@lru_cache(maxsize=8)  # definitions, cuts and calls of one file are asked for one after the other
def parse(text: str, language: str) -> Parsed | None:
    """The syntax tree of a text, or None where the language has no grammar here, the text is too long for one, or it
    makes the parser search (100 KB of unclosed brackets take a grammar with many readings minutes)."""
    grammar = _GRAMMARS.get(language)
    if grammar is None or not text or len(text) > MAX_CHARACTERS:
        return None
    data = text.encode("utf-8", "surrogatepass")
    tree = _tree(grammar, data)
    if tree is None:
        return None
    characters = None
    if len(data) != len(text):
        starts = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80  # every byte but UTF-8's continuations
        characters = np.concatenate(([0], np.cumsum(starts, dtype=np.int32))).astype(np.int32)
    return Parsed(text, tree, grammar, characters)


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


@lru_cache(maxsize=256)
def _query(grammar: str, types: tuple[str, ...]) -> Query | None:
    language: Language = get_language(cast(SupportedLanguage, grammar))
    known = [name for name in types if language.id_for_node_kind(name, True)]
    return Query(language, " ".join(f"({name}) @n" for name in known)) if known else None
