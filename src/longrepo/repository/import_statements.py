"""What a file says it imports, in each language's own words; `imports.py` finds the files these mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tree_sitter import Node

from longrepo.repository.model import TextFile
from longrepo.repository.tree import Parsed, parse


@dataclass(frozen=True)
class Import:
    """`module` as written, its parts joined by the language's own sign; `names` taken from it, as far as it names
    any; `level` counts a relative import's dots (Python); `line` begins at 1."""

    module: str
    names: tuple[str, ...]
    level: int
    line: int


def imports(file: TextFile) -> tuple[Import, ...]:
    """The import statements of a Python, Rust, Go, JavaScript, TypeScript, Java, Kotlin, Scala, C or C++ file."""
    reader = _READERS.get(file.language)
    parsed = parse(file.text, file.language) if reader else None
    return tuple(reader(parsed)) if reader and parsed else ()


def _line(node: Node) -> int:
    return node.start_point[0] + 1


def _python(parsed: Parsed) -> Iterator[Import]:
    for node in parsed.find(("import_statement", "import_from_statement")):
        names = [_unaliased(parsed, name) for name in node.children_by_field_name("name")]
        if node.type == "import_statement":
            yield from (Import(name, (), 0, _line(node)) for name in names)
            continue
        source = node.child_by_field_name("module_name")
        if source is not None:
            module = parsed.source(source).replace(" ", "")
            stripped = module.lstrip(".")
            yield Import(stripped, tuple(names), len(module) - len(stripped), _line(node))


def _unaliased(parsed: Parsed, node: Node) -> str:
    return parsed.source(node.child_by_field_name("name") or node)


def _rust(parsed: Parsed) -> Iterator[Import]:
    for node in parsed.find(("use_declaration", "mod_item")):
        if node.type == "mod_item":
            name = node.child_by_field_name("name")
            if name is not None and node.child_by_field_name("body") is None:
                yield Import("mod", (parsed.source(name),), 0, _line(node))
        elif argument := node.child_by_field_name("argument"):
            yield from (Import(path, (), 0, _line(node)) for path in _use_paths(parsed, argument, "", 50))


def _use_paths(parsed: Parsed, node: Node, prefix: str, depth: int) -> Iterator[str]:
    if depth == 0:  # nobody writes this; a recursion has to end
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
        path = node.named_child(0)
        yield prefix + (parsed.source(path) if path else "")
    elif "comment" not in node.type:
        yield (prefix + parsed.source(node)).removesuffix("::self")


def _go(parsed: Parsed) -> Iterator[Import]:
    for node in parsed.find(("import_spec",)):
        if path := node.child_by_field_name("path"):
            yield Import(parsed.source(path).strip('"`'), (), 0, _line(node))


def _javascript(parsed: Parsed) -> Iterator[Import]:
    for node in parsed.find(("import_statement", "export_statement", "call_expression")):
        source = node.child_by_field_name("source")
        if node.type == "call_expression":
            function, arguments = node.child_by_field_name("function"), node.child_by_field_name("arguments")
            if function is None or arguments is None or parsed.source(function) not in ("require", "import"):
                continue
            source = arguments.named_child(0)
        if source is not None and source.type == "string":
            yield Import(parsed.source(source).strip("\"'"), (), 0, _line(node))


def _java(parsed: Parsed) -> Iterator[Import]:
    for node in parsed.find(("package_declaration", "package_header", "package_clause")):
        name = parsed.source(node).partition(" ")[2].strip(" ;\n")
        yield Import("package", (name,), 0, _line(node))
    for node in parsed.find(("import_declaration", "import_header")):
        words = parsed.source(node).replace(";", " ").split()
        if len(words) > 1:
            name = words[2] if words[1] == "static" and len(words) > 2 else words[1]
            yield Import(name, (), 0, _line(node))


def _c(parsed: Parsed) -> Iterator[Import]:
    for node in parsed.find(("preproc_include",)):
        path = node.child_by_field_name("path")
        if path is not None and path.type == "string_literal":  # <…> is the system's
            yield Import(parsed.source(path).strip('"'), (), 0, _line(node))


_READERS: dict[str, Callable[[Parsed], Iterator[Import]]] = {
    "Python": _python,
    "Rust": _rust,
    "Go": _go,
    "JavaScript": _javascript,
    "TypeScript": _javascript,
    "Java": _java,
    "Kotlin": _java,
    "Scala": _java,
    "C": _c,
    "C++": _c,
    "Objective-C": _c,
}
