"""Language -> grammar, node types, naming rules.

Which grammar reads which language, and which of their node types mean what.

The node types of all languages stand together: a grammar is only asked for those it has.

What the languages whose definitions don't name themselves in a common way call a definition, and where its name is.

`grammar.py` has the node types that mean the same in every grammar; the rules here add to those, or replace them, for
one language.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

GRAMMARS = {
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
    "Perl": "perl",
    "Objective-C": "objc",
    "Clojure": "clojure",
    "F#": "fsharp",
    "PowerShell": "powershell",
    "Nix": "nix",
    "Makefile": "make",
    "Fortran": "fortran",
    "Solidity": "solidity",
    "Verilog": "verilog",
    "GraphQL": "graphql",
    "Nim": "nim",
    "GDScript": "gdscript",
    "Elm": "elm",
    "Pascal": "pascal",
    "Emacs Lisp": "elisp",
    "Common Lisp": "commonlisp",
    "Vim script": "vim",
    "Thrift": "thrift",
    "D": "d",
    "GLSL": "glsl",
    "Fish": "fish",
    "Tcl": "tcl",
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
    "variable_declarator": "function",  # const f = (x) => …
}
# What makes a function inside it a method.
OWNERS = frozenset({"class", "struct", "enum", "trait", "interface"})
OWNER_NODES = frozenset({"impl_item", "extension_declaration", "class_body", "object_declaration"})
# What holds one definition and belongs to it: decorators, `export`, `const`, `template <…>`, Go's word `type`.
WRAPPERS = frozenset({"decorated_definition", "export_statement", "template_declaration", "method_signature", "Decl"})
LONE_WRAPPERS = frozenset(
    {"lexical_declaration", "variable_declaration", "type_declaration", "value_definition", "module_definition"}
)  # only around just one
FUNCTION_VALUES = frozenset(
    {"arrow_function", "function_expression", "generator_function", "function", "function_definition", "parameter"}
)
CALLS = frozenset(
    (
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
)
IDENTIFIERS = frozenset(
    (
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
)
# What holds members or statements: a step deeper in nesting, a place to cut between.
BODIES = frozenset(
    (
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
        "message_body",
        "service_body",
        "aggregate_body",
        "contract_body",
        "struct_body",
        "protocol_body",
        "extension_body",
        "structure",
        "class_declarations",
        "braced_expression",
        "script_block",
        "recipe",
    )
)
IMPORTS = frozenset(
    (
        "import_statement",
        "import_from_statement",
        "export_statement",
        "use_declaration",
        "mod_item",
        "import_spec",
        "import_declaration",
        "import_header",
        "package_declaration",
        "package_header",
        "package_clause",
        "preproc_include",
    )
)


_ELIXIR = {"def": "function", "defp": "function", "defmacro": "macro", "defmacrop": "macro", "defguard": "macro"}
_ELIXIR |= {"defmodule": "module", "defimpl": "module", "defprotocol": "interface"}
_CLOJURE = {"defn": "function", "defn-": "function", "defmacro": "macro", "defmulti": "function"}
_CLOJURE |= {"defprotocol": "interface", "definterface": "interface", "defrecord": "class", "deftype": "class"}
_SWIFT = {"class": "class", "actor": "class", "extension": "class", "struct": "struct", "enum": "enum"}
_ZIG = {"struct": "struct", "union": "struct", "opaque": "struct", "enum": "enum"}
_ZIG_KIND = ":ErrorUnionExpr.:SuffixExpr.:ContainerDecl.:ContainerDeclType"


@dataclass(frozen=True)
class Rule:
    """Paths are steps joined by dots, each a field, `:` and a child's type, or the number of a named child, with `?`
    where it may be missing. `name` leads to the name, by default the field `name`, a declarator or the first
    identifier; `labels` are strings that make up one. `value`, where set, has to lead to a function. `word` leads to
    the word that decides the kind by `kinds`. `body` leads to the body, by default the field `body` or a child of one
    of `BODIES`; where it `follows`, it stands after the node, not in it."""

    kind: str = "function"
    name: str = ""
    value: str = ""
    word: str = ""
    kinds: dict[str, str] = field(default_factory=dict)
    body: str = ""
    follows: bool = False


_SCRIPT = {
    "variable_declarator": Rule(name="name", value="value"),
    "assignment_expression": Rule(name="left.property?", value="right"),
    "public_field_definition": Rule(name="name", value="value"),
    "internal_module": Rule("module", "name"),
    "function_signature": Rule(name="name"),
    "abstract_method_signature": Rule("method", "name"),
}
_SIGNATURE = Rule(name="name", follows=True)
_RULES: dict[str, dict[str, Rule | None]] = {
    "JavaScript": {**_SCRIPT},
    "TypeScript": {**_SCRIPT},
    "Swift": {
        "class_declaration": Rule("class", "name", word="declaration_kind", kinds=_SWIFT),
        "typealias_declaration": Rule("type", "name"),
    },
    "C#": {"local_function_statement": Rule(name="name")},
    "SQL": {
        "create_table": Rule("table", ":object_reference"),
        "create_view": Rule("view", ":object_reference"),
        "create_materialized_view": Rule("view", ":object_reference"),
        "create_function": Rule("function", ":object_reference"),
        "create_type": Rule("type", ":object_reference"),
    },
    "Lua": {"assignment_statement": Rule(name=":variable_list.name", value=":expression_list.value")},
    "Haskell": {
        "function": Rule(name="name"),
        "bind": Rule(name="name"),
        "data_type": Rule("type", "name"),
        "newtype": Rule("type", "name"),
        "type_synomym": Rule("type", "name"),
        "module": None,
    },
    "Elixir": {"call": Rule(name=":arguments.0.left?.target?", word="target", kinds=_ELIXIR)},
    "Dart": {
        "function_signature": _SIGNATURE,
        "getter_signature": _SIGNATURE,
        "setter_signature": _SIGNATURE,
        "constructor_signature": Rule("method", "name", follows=True),
        "factory_constructor_signature": Rule("method", ":identifier", follows=True),
        "mixin_declaration": Rule("class", ":identifier"),
    },
    "R": {"function_definition": None, "binary_operator": Rule(name="lhs", value="rhs")},
    "Julia": {
        "module_definition": Rule("module", "name"),
        "struct_definition": Rule("struct", ":type_head.:binary_expression?.0?"),
        "abstract_definition": Rule("type", ":type_head.:binary_expression?.0?"),
        "function_definition": Rule(name=":signature.:where_expression?.:typed_expression?.:call_expression.0"),
        "assignment": Rule(name=":call_expression.0"),
        "macro_definition": Rule("macro", ":signature.:call_expression.0"),
    },
    "OCaml": {
        "module_binding": Rule("module", ":module_name"),
        "module_type_definition": Rule("interface", ":module_type_name"),
        "type_binding": Rule("type", "name"),
        "let_binding": Rule(name="pattern", value=":parameter"),
        "class_binding": Rule("class", ":class_name"),
        "method_definition": Rule("method", ":method_name"),
        "external": Rule(name=":value_name"),
    },
    "Zig": {
        "FnProto": Rule(name="function", follows=True),
        "VarDecl": Rule("struct", "variable_type_function", word=_ZIG_KIND, kinds=_ZIG),
    },
    "Erlang": {
        "fun_decl": Rule(name="clause.name"),
        "record_decl": Rule("struct", "name"),
        "pp_define": Rule("macro", "lhs.name"),
        "type_alias": Rule("type", "name.name"),
    },
    "Protocol Buffers": {
        "message": Rule("message", ":message_name"),
        "enum": Rule("enum", ":enum_name"),
        "service": Rule("service", ":service_name"),
        "rpc": Rule("method", ":rpc_name"),
    },
    "CMake": {
        "function_def": Rule(name=":function_command.:argument_list.:argument", body=":body"),
        "macro_def": Rule("macro", ":macro_command.:argument_list.:argument", body=":body"),
    },
    "Terraform": {"block": Rule("block", "labels", body=":body")},
    "Perl": {
        "subroutine_declaration_statement": Rule(name="name"),
        "method_declaration_statement": Rule("method", "name"),
    },
    "Objective-C": {
        "class_interface": Rule("class", ":identifier"),
        "class_implementation": Rule("class", ":identifier"),
    },
    "Clojure": {"list_lit": Rule(name="1.name?", word="0", kinds=_CLOJURE)},
    "F#": {
        "function_or_value_defn": Rule(name=":function_declaration_left.:identifier"),
        "record_type_defn": Rule("type", ":type_name.type_name"),
        "union_type_defn": Rule("type", ":type_name.type_name"),
        "anon_type_defn": Rule("class", ":type_name.type_name"),
        "member_defn": Rule("method", ":method_or_prop_defn.name.method?"),
    },
    "PowerShell": {
        "function_statement": Rule(name=":function_name"),
        "class_statement": Rule("class", ":simple_name"),
        "class_method_definition": Rule("method", ":simple_name"),
        "enum_statement": Rule("enum", ":simple_name"),
    },
    "Nix": {"binding": Rule(name="attrpath", value="expression")},
    "Makefile": {
        "rule": Rule("target", ":targets", body=":recipe"),
        "define_directive": Rule("macro", "name", body="value"),
    },
    "Fortran": {
        "subroutine": Rule(name=":subroutine_statement.name"),
        "function": Rule(name=":function_statement.name"),
        "module": Rule("module", ":module_statement.:name"),
        "program": Rule("module", ":program_statement.:name"),
        "derived_type_definition": Rule("type", ":derived_type_statement.:type_name"),
    },
    "Solidity": {
        "contract_declaration": Rule("class", "name"),
        "library_declaration": Rule("class", "name"),
        "modifier_definition": Rule(name="name"),
    },
    "Verilog": {
        "module_declaration": Rule("module", ":module_header.:simple_identifier"),
        "function_body_declaration": Rule(name=":function_identifier"),
        "task_body_declaration": Rule(name=":task_identifier"),
    },
    "GraphQL": {
        "object_type_definition": Rule("type", ":name"),
        "input_object_type_definition": Rule("type", ":name"),
        "union_type_definition": Rule("type", ":name"),
        "interface_type_definition": Rule("interface", ":name"),
        "enum_type_definition": Rule("enum", ":name"),
    },
    "Nim": {
        "proc_declaration": Rule(name="name"),
        "func_declaration": Rule(name="name"),
        "iterator_declaration": Rule(name="name"),
        "template_declaration": Rule("macro", "name"),
        "macro_declaration": Rule("macro", "name"),
        "type_declaration": Rule("type", ":type_symbol_declaration.name"),
    },
    "Elm": {
        "value_declaration": Rule(name="functionDeclarationLeft.:lower_case_identifier"),
        "type_declaration": Rule("type", "name"),
    },
    "Pascal": {"defProc": Rule(name="header.name"), "declType": Rule("type", "name")},
    "Thrift": {"struct_definition": Rule("struct", "type"), "service_definition": Rule("service", "type")},
    "Tcl": {"procedure": Rule(name="name")},
    "Common Lisp": {"defun": Rule(name=":defun_header.function_name")},
}
_COMMON = {node_type: Rule(kind) for node_type, kind in DEFINITIONS.items()}
_COMMON["variable_declarator"] = _SCRIPT["variable_declarator"]


@lru_cache(maxsize=128)
def definition_rules(language: str) -> MappingProxyType[str, Rule]:
    """Node type -> the rule by which it is a definition in this language."""
    rules = {**_COMMON, **_RULES.get(language, {})}
    return MappingProxyType({node_type: rule for node_type, rule in rules.items() if rule is not None})
