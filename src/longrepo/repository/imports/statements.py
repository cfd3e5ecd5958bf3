"""The import statements of a file, as each language writes them; `graph.py` finds the files they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tree_sitter import Node

from longrepo.repository.syntax import SyntaxTree, parse_syntax
from longrepo.repository.types import TextFile


class Import(NamedTuple):
    """An import statement. `module` is as written, its parts joined by the language's own separator; `names` are those
    imported from it (Python), its local name (Go), the module and the file it is read from (Rust's `mod`), or
    `require` if that is how it is imported (JavaScript); `level` counts a relative import's dots (Python); `line`
    begins at 1."""

    module: str
    names: tuple[str, ...]
    level: int
    line: int


def read_imports(file: TextFile) -> tuple[Import, ...]:
    """Return the imports of a file in Python, Rust, Go, JavaScript, TypeScript, Java, Kotlin, Scala, C#, Swift or C's
    family."""
    parsed = parse_syntax(file.text, file.language) if file.language in _READERS else None
    return imports_in(parsed) if parsed else ()


def imports_in(parsed: SyntaxTree) -> tuple[Import, ...]:
    """Return the import statements of a text in order."""
    reader = _READERS.get(parsed.language)
    if reader is None:
        return ()
    types, read = reader
    return tuple(one for index, node in parsed.find(types) for one in read(parsed, index, node))


def _line(node: Node) -> int:
    return node.start_point[0] + 1


def _python(parsed: SyntaxTree, index: int, node: Node) -> Iterator[Import]:
    names = [_unaliased(parsed, name) for name in node.children_by_field_name("name")]
    if parsed.types[index] == "import_statement":
        yield from (Import(name, (), 0, _line(node)) for name in names)
    elif source := node.child_by_field_name("module_name"):
        module = parsed.source(source).replace(" ", "")
        stripped = module.lstrip(".")
        yield Import(stripped, tuple(names), len(module) - len(stripped), _line(node))


def _unaliased(parsed: SyntaxTree, node: Node) -> str:
    return parsed.source(node.child_by_field_name("name") or node)


def _rust(parsed: SyntaxTree, index: int, node: Node) -> Iterator[Import]:
    if parsed.types[index] == "mod_item":
        name = node.child_by_field_name("name")
        if name is not None and node.child_by_field_name("body") is None:
            path = "::".join((*_inline_modules(parsed, index), parsed.source(name)))
            yield Import("mod", (path, *_path_attribute(parsed, node)), 0, _line(node))
    elif argument := node.child_by_field_name("argument"):
        inline = _inline_modules(parsed, index)
        for path in _use_paths(parsed, argument, "", 50):
            yield Import(_from_file(path, inline), (), 0, _line(node))


def _inline_modules(parsed: SyntaxTree, index: int) -> list[str]:
    """Return the names of the modules around a node whose bodies are in this file, the outermost first."""
    names = list[str]()
    while (index := parsed.above[index]) >= 0:
        if parsed.types[index] == "mod_item" and (name := parsed.nodes[index].child_by_field_name("name")):
            names.append(parsed.source(name))
    return names[::-1]


def _from_file(path: str, inline: list[str]) -> str:
    """Return a path written in an inline module as the file's own module would write it."""
    parts = path.split("::")
    if not inline or parts[0] not in ("self", "super"):
        return path
    inner = list(inline)
    while inner and parts and parts[0] == "super":
        inner.pop()
        del parts[0]
    parts = parts[1:] if parts and parts[0] == "self" else parts
    return "::".join(parts if parts and parts[0] == "super" else ("self", *inner, *parts))


def _path_attribute(parsed: SyntaxTree, node: Node) -> Iterator[str]:
    """Yield the file that `#[path = "…"]` before a `mod` names."""
    before = node.prev_named_sibling
    while before is not None and before.type == "attribute_item":
        words = parsed.source(before).split('"')
        if words[0].replace(" ", "") == "#[path=" and len(words) == 3:
            yield words[1]
        before = before.prev_named_sibling


def _use_paths(parsed: SyntaxTree, node: Node, prefix: str, depth: int) -> Iterator[str]:
    if depth == 0:  # nobody nests this deep; the recursion has to end
        return
    if node.type == "scoped_use_list":
        path, inner = node.child_by_field_name("path"), node.child_by_field_name("list")
        here = prefix + (parsed.source(path) + "::" if path else "")
        if inner is not None:
            yield from _use_paths(parsed, inner, here, depth - 1)
    elif node.type == "use_list":
        for child in node.named_children:
            yield from _use_paths(parsed, child, prefix, depth - 1)
    elif node.type == "use_as_clause":
        if path := node.child_by_field_name("path"):
            yield from _use_paths(parsed, path, prefix, depth - 1)
    elif node.type == "use_wildcard":
        path = node.named_child(0) if node.named_child_count else None
        yield prefix + (parsed.source(path) if path else "")
    elif "comment" not in node.type:
        yield (prefix + parsed.source(node)).removesuffix("::self")


def _go(parsed: SyntaxTree, _: int, node: Node) -> Iterator[Import]:
    if path := node.child_by_field_name("path"):
        name = node.child_by_field_name("name")
        yield Import(parsed.source(path).strip('"`'), (parsed.source(name),) if name else (), 0, _line(node))


def _javascript(parsed: SyntaxTree, index: int, node: Node) -> Iterator[Import]:
    required = False
    if parsed.types[index] != "call_expression":
        source = node.child_by_field_name("source")
        clause = node.named_child(0) if source is None and node.named_child_count else None
        if clause is not None and clause.type == "import_require_clause":
            source, required = clause.child_by_field_name("source"), True
    else:
        function = node.child(0)
        if function is None or function.end_byte - function.start_byte > 7:  # bytes: the longer of the two words
            return
        arguments = node.child_by_field_name("arguments")
        if arguments is None or parsed.source(function) not in ("require", "import"):
            return
        source = arguments.named_child(0) if arguments.named_child_count else None
        required = parsed.source(function) == "require"
    if source is not None and source.type == "string":
        yield Import(parsed.source(source).strip("\"'"), ("require",) if required else (), 0, _line(node))


def _java(parsed: SyntaxTree, index: int, node: Node) -> Iterator[Import]:
    if parsed.types[index].startswith("package"):
        name = parsed.source(node).partition(" ")[2].strip(" ;\n")
        yield Import("package", (name,), 0, _line(node))
        return
    words = parsed.source(node).replace(";", " ").split()
    if len(words) > 1:
        name = words[2] if words[1] == "static" and len(words) > 2 else words[1]
        yield Import(name, (), 0, _line(node))


def _scala(parsed: SyntaxTree, index: int, node: Node) -> Iterator[Import]:
    if parsed.types[index] in _PACKAGES:
        yield from _java(parsed, index, node)
        return
    words = " ".join(parsed.source(node).split()).removeprefix("import ")
    for one in re.split(r",(?![^{]*\})", words):
        outer, _, inner = one.strip().partition("{")
        for name in inner.rstrip("} ").split(","):
            yield Import(re.split(r"=>| as ", outer + name.strip())[0].strip(), (), 0, _line(node))


def _csharp(parsed: SyntaxTree, _: int, node: Node) -> Iterator[Import]:
    words = parsed.source(node).replace(";", " ").replace("=", " = ").split()
    name = words[-1].partition("<")[0].removeprefix("global::") if len(words) > 1 else ""
    if name:
        yield Import(name, (), 0, _line(node))


def _swift(parsed: SyntaxTree, _: int, node: Node) -> Iterator[Import]:
    words = parsed.source(node).split()
    if "import" in words[:-1]:
        yield Import(words[-1], (), 0, _line(node))


def _c(parsed: SyntaxTree, _: int, node: Node) -> Iterator[Import]:
    path = node.child_by_field_name("path")
    if path is not None and path.type in ("string_literal", "system_lib_string"):
        yield Import(parsed.source(path).strip('"'), (), 0, _line(node))


_StatementReader = Callable[[SyntaxTree, int, Node], Iterator[Import]]
_JAVASCRIPT = (frozenset({"import_statement", "export_statement", "call_expression"}), _javascript)
_PACKAGES = frozenset({"package_declaration", "package_header", "package_clause"})
_JAVA = (_PACKAGES | {"import_declaration", "import_header"}, _java)
_C = (frozenset({"preproc_include"}), _c)
_READERS: dict[str, tuple[frozenset[str], _StatementReader]] = {
    "Python": (frozenset({"import_statement", "import_from_statement"}), _python),
    "Rust": (frozenset({"use_declaration", "mod_item"}), _rust),
    "Go": (frozenset({"import_spec"}), _go),
    "JavaScript": _JAVASCRIPT,
    "TypeScript": _JAVASCRIPT,
    "Java": _JAVA,
    "Kotlin": _JAVA,
    "Scala": (_JAVA[0], _scala),
    "C#": (frozenset({"using_directive"}), _csharp),
    "Swift": (frozenset({"import_declaration"}), _swift),
    "C": _C,
    "C++": _C,
    "Objective-C": _C,
}
