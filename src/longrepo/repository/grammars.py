"""Which grammar reads which language, what the node types mean, and how each language names its definitions.

Node types that mean the same in every grammar are listed together: a grammar is only asked for those it has. The
rules for a single language add to them or replace them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

GRAMMARS = {
    "Python": "python",
    "Rust": "rust",
    "Go": "go",
    "JavaScript": "tsx",  # reads JavaScript with JSX too
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

DEFINITION_NODES = {
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
# A function inside one of these is a method.
OWNER_KINDS = frozenset({"class", "struct", "enum", "trait", "interface"})
OWNER_NODES = frozenset({"impl_item", "extension_declaration", "class_body", "object_declaration"})
# Nodes that hold one definition and belong to it: decorators, `export`, `const`, `template <…>`, Go's `type`.
WRAPPER_NODES = frozenset(
    {"decorated_definition", "export_statement", "template_declaration", "method_signature", "Decl"}
)
LONE_WRAPPER_NODES = frozenset(
    {"lexical_declaration", "variable_declaration", "type_declaration", "value_definition", "module_definition"}
)  # only if they hold just one
FUNCTION_VALUE_NODES = frozenset(
    {"arrow_function", "function_expression", "generator_function", "function", "function_definition", "parameter"}
)
CALL_NODES = frozenset(
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
IDENTIFIER_NODES = frozenset(
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
# Nodes that hold members or statements: one level deeper in nesting, with cuts between them.
BODY_NODES = frozenset(
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
IMPORT_NODES = frozenset(
    (
        "import_statement",
        "import_from_statement",
        "export_statement",
        "use_declaration",
        "mod_item",
        "import_spec",
        "import_declaration",
        "import_header",
        "using_directive",
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
class DefinitionRule:
    """How one node type defines something. Paths are steps joined by dots: a field, `:` and a child's type, or the
    number of a named child, with `?` if the step may be missing. `name` leads to the name (by default the field
    `name`, a declarator or the first identifier; `labels`: strings that make up a name). `value`, if set, has to lead
    to a function. `word` leads to the word that decides the kind by `kinds`. `body` leads to the body (by default the
    field `body` or a child in `BODY_NODES`); with `follows` the body comes after the node instead of inside it."""

    kind: str = "function"
    name: str = ""
    value: str = ""
    word: str = ""
    kinds: dict[str, str] = field(default_factory=dict)
    body: str = ""
    follows: bool = False


_SCRIPT_RULES = {
    "variable_declarator": DefinitionRule(name="name", value="value"),
    "assignment_expression": DefinitionRule(name="left.property?", value="right"),
    "public_field_definition": DefinitionRule(name="name", value="value"),
    "internal_module": DefinitionRule("module", "name"),
    "function_signature": DefinitionRule(name="name"),
    "abstract_method_signature": DefinitionRule("method", "name"),
}
_SIGNATURE_RULE = DefinitionRule(name="name", follows=True)
_RULES: dict[str, dict[str, DefinitionRule | None]] = {
    "JavaScript": {**_SCRIPT_RULES},
    "TypeScript": {**_SCRIPT_RULES},
    "Swift": {
        "class_declaration": DefinitionRule("class", "name", word="declaration_kind", kinds=_SWIFT),
        "typealias_declaration": DefinitionRule("type", "name"),
    },
    "C#": {"local_function_statement": DefinitionRule(name="name")},
    "SQL": {
        "create_table": DefinitionRule("table", ":object_reference"),
        "create_view": DefinitionRule("view", ":object_reference"),
        "create_materialized_view": DefinitionRule("view", ":object_reference"),
        "create_function": DefinitionRule("function", ":object_reference"),
        "create_type": DefinitionRule("type", ":object_reference"),
    },
    "Lua": {"assignment_statement": DefinitionRule(name=":variable_list.name", value=":expression_list.value")},
    "Haskell": {
        "function": DefinitionRule(name="name"),
        "bind": DefinitionRule(name="name"),
        "data_type": DefinitionRule("type", "name"),
        "newtype": DefinitionRule("type", "name"),
        "type_synomym": DefinitionRule("type", "name"),
        "module": None,
    },
    "Elixir": {"call": DefinitionRule(name=":arguments.0.left?.target?", word="target", kinds=_ELIXIR)},
    "Dart": {
        "function_signature": _SIGNATURE_RULE,
        "getter_signature": _SIGNATURE_RULE,
        "setter_signature": _SIGNATURE_RULE,
        "constructor_signature": DefinitionRule("method", "name", follows=True),
        "factory_constructor_signature": DefinitionRule("method", ":identifier", follows=True),
        "mixin_declaration": DefinitionRule("class", ":identifier"),
    },
    "R": {"function_definition": None, "binary_operator": DefinitionRule(name="lhs", value="rhs")},
    "Julia": {
        "module_definition": DefinitionRule("module", "name"),
        "struct_definition": DefinitionRule("struct", ":type_head.:binary_expression?.0?"),
        "abstract_definition": DefinitionRule("type", ":type_head.:binary_expression?.0?"),
        "function_definition": DefinitionRule(
            name=":signature.:where_expression?.:typed_expression?.:call_expression.0"
        ),
        "assignment": DefinitionRule(name=":call_expression.0"),
        "macro_definition": DefinitionRule("macro", ":signature.:call_expression.0"),
    },
    "OCaml": {
        "module_binding": DefinitionRule("module", ":module_name"),
        "module_type_definition": DefinitionRule("interface", ":module_type_name"),
        "type_binding": DefinitionRule("type", "name"),
        "let_binding": DefinitionRule(name="pattern", value=":parameter"),
        "class_binding": DefinitionRule("class", ":class_name"),
        "method_definition": DefinitionRule("method", ":method_name"),
        "external": DefinitionRule(name=":value_name"),
    },
    "Zig": {
        "FnProto": DefinitionRule(name="function", follows=True),
        "VarDecl": DefinitionRule("struct", "variable_type_function", word=_ZIG_KIND, kinds=_ZIG),
    },
    "Erlang": {
        "fun_decl": DefinitionRule(name="clause.name"),
        "record_decl": DefinitionRule("struct", "name"),
        "pp_define": DefinitionRule("macro", "lhs.name"),
        "type_alias": DefinitionRule("type", "name.name"),
    },
    "Protocol Buffers": {
        "message": DefinitionRule("message", ":message_name"),
        "enum": DefinitionRule("enum", ":enum_name"),
        "service": DefinitionRule("service", ":service_name"),
        "rpc": DefinitionRule("method", ":rpc_name"),
    },
    "CMake": {
        "function_def": DefinitionRule(name=":function_command.:argument_list.:argument", body=":body"),
        "macro_def": DefinitionRule("macro", ":macro_command.:argument_list.:argument", body=":body"),
    },
    "Terraform": {"block": DefinitionRule("block", "labels", body=":body")},
    "Perl": {
        "subroutine_declaration_statement": DefinitionRule(name="name"),
        "method_declaration_statement": DefinitionRule("method", "name"),
    },
    "Objective-C": {
        "class_interface": DefinitionRule("class", ":identifier"),
        "class_implementation": DefinitionRule("class", ":identifier"),
    },
    "Clojure": {"list_lit": DefinitionRule(name="1.name?", word="0", kinds=_CLOJURE)},
    "F#": {
        "function_or_value_defn": DefinitionRule(name=":function_declaration_left.:identifier"),
        "record_type_defn": DefinitionRule("type", ":type_name.type_name"),
        "union_type_defn": DefinitionRule("type", ":type_name.type_name"),
        "anon_type_defn": DefinitionRule("class", ":type_name.type_name"),
        "member_defn": DefinitionRule("method", ":method_or_prop_defn.name.method?"),
    },
    "PowerShell": {
        "function_statement": DefinitionRule(name=":function_name"),
        "class_statement": DefinitionRule("class", ":simple_name"),
        "class_method_definition": DefinitionRule("method", ":simple_name"),
        "enum_statement": DefinitionRule("enum", ":simple_name"),
    },
    "Nix": {"binding": DefinitionRule(name="attrpath", value="expression")},
    "Makefile": {
        "rule": DefinitionRule("target", ":targets", body=":recipe"),
        "define_directive": DefinitionRule("macro", "name", body="value"),
    },
    "Fortran": {
        "subroutine": DefinitionRule(name=":subroutine_statement.name"),
        "function": DefinitionRule(name=":function_statement.name"),
        "module": DefinitionRule("module", ":module_statement.:name"),
        "program": DefinitionRule("module", ":program_statement.:name"),
        "derived_type_definition": DefinitionRule("type", ":derived_type_statement.:type_name"),
    },
    "Solidity": {
        "contract_declaration": DefinitionRule("class", "name"),
        "library_declaration": DefinitionRule("class", "name"),
        "modifier_definition": DefinitionRule(name="name"),
    },
    "Verilog": {
        "module_declaration": DefinitionRule("module", ":module_header.:simple_identifier"),
        "function_body_declaration": DefinitionRule(name=":function_identifier"),
        "task_body_declaration": DefinitionRule(name=":task_identifier"),
    },
    "GraphQL": {
        "object_type_definition": DefinitionRule("type", ":name"),
        "input_object_type_definition": DefinitionRule("type", ":name"),
        "union_type_definition": DefinitionRule("type", ":name"),
        "interface_type_definition": DefinitionRule("interface", ":name"),
        "enum_type_definition": DefinitionRule("enum", ":name"),
    },
    "Nim": {
        "proc_declaration": DefinitionRule(name="name"),
        "func_declaration": DefinitionRule(name="name"),
        "iterator_declaration": DefinitionRule(name="name"),
        "template_declaration": DefinitionRule("macro", "name"),
        "macro_declaration": DefinitionRule("macro", "name"),
        "type_declaration": DefinitionRule("type", ":type_symbol_declaration.name"),
    },
    "Elm": {
        "value_declaration": DefinitionRule(name="functionDeclarationLeft.:lower_case_identifier"),
        "type_declaration": DefinitionRule("type", "name"),
    },
    "Pascal": {"defProc": DefinitionRule(name="header.name"), "declType": DefinitionRule("type", "name")},
    "Thrift": {
        "struct_definition": DefinitionRule("struct", "type"),
        "service_definition": DefinitionRule("service", "type"),
    },
    "Tcl": {"procedure": DefinitionRule(name="name")},
    "Common Lisp": {"defun": DefinitionRule(name=":defun_header.function_name")},
}
_COMMON_RULES = {node_type: DefinitionRule(kind) for node_type, kind in DEFINITION_NODES.items()}
_COMMON_RULES["variable_declarator"] = _SCRIPT_RULES["variable_declarator"]


@lru_cache(maxsize=128)
def definition_rules(language: str) -> MappingProxyType[str, DefinitionRule]:
    """Return the rules of a language: node type -> how it defines something."""
    rules = {**_COMMON_RULES, **_RULES.get(language, {})}
    return MappingProxyType({node_type: rule for node_type, rule in rules.items() if rule is not None})
