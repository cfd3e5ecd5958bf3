"""Python files as Python's own parser reads them, for checking answers."""

from __future__ import annotations

import ast
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_MAY_BIND = re.compile(r"\b(?:def|class|as|for)\b|=|^[\s\w,.*()]*$")


@dataclass(frozen=True)
class NameUse:
    """A mention of a name: `inside` is the innermost function around it, "" at the top level."""

    inside: str
    call: bool


@dataclass(frozen=True)
class PythonClass:
    """A class, its bases as written without type arguments, and the methods that stand in it under no condition."""

    name: str
    bases: tuple[str, ...]
    methods: tuple[str, ...]


class PythonFile:
    """What is kept of one file, a small part of its tree. `parsed` is False where this Python can't parse it: then
    only what lines say is known."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.functions: defaultdict[str, list[FunctionNode]] = defaultdict(list)  # without their bodies
        self.classes: list[PythonClass] = []
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self._bound: defaultdict[str, set[int]] = defaultdict(set)
        tree = _parse_module(text)
        self.parsed = tree is not None
        if tree is not None:
            self._read(tree)

    def defining_lines(self, name: str) -> set[int]:
        """Lines that define, bind or rename something to a name, in any scope but a function's own variables."""
        if self.parsed:
            return self._bound.get(name, set())
        pattern = re.compile(rf"\s*(?:(?:async\s+)?def|class)\s+{name}\b|{name}\s*=|.*\bas\s+{name}\b")
        return {number for number, line in enumerate(self._text.split("\n"), 1) if pattern.match(line)}

    def owners(self, method: str) -> list[str]:
        """The classes in whose body, under no condition, a function of this name stands."""
        return [one.name for one in self.classes if method in one.methods]

    def uses(self, name: str) -> list[NameUse]:
        """Every mention of a name in code but its definitions and imports. Parses the file once more."""
        tree = _parse_module(self._text)
        return list(_uses(tree, name, "")) if tree else []

    def _read(self, tree: ast.Module) -> None:
        pending: list[tuple[ast.AST, bool]] = [(tree, False)]
        functions: list[FunctionNode] = []
        while pending:
            node, local = pending.pop()
            if isinstance(node, FunctionNode):
                self._bound[node.name].add(node.lineno)
                functions.append(node)
                local = True
            elif isinstance(node, ast.ClassDef):
                self._bound[node.name].add(node.lineno)
                methods = tuple(one.name for one in node.body if isinstance(one, FunctionNode))
                self.classes.append(PythonClass(node.name, tuple(map(_base_name, node.bases)), methods))
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self.imports.append(node)
                for one in node.names:
                    if one.asname:
                        self._bound[one.asname].add(node.lineno)
            elif isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Store) and not local:
                    self._bound[node.id].add(node.lineno)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                self._bound[node.attr].add(node.lineno)
            pending += [(child, local) for child in ast.iter_child_nodes(node)]
        for function in functions:
            function.body = []
            self.functions[function.name].append(function)


def may_bind(line: str) -> bool:
    """Whether a line could bind a name at all; if not, its file needn't be parsed."""
    return _MAY_BIND.search(line) is not None


def same_signature(function: FunctionNode, answer: str) -> bool:
    """Whether an answer spells a function's name, parameters, defaults and annotations."""
    tree = _parse_module(f"{answer}: pass")
    given = tree.body[0] if tree else None
    return (
        type(given) is type(function)
        and isinstance(given, FunctionNode)
        and given.name == function.name
        and ast.dump(given.args) == ast.dump(function.args)
        and _dump(given.returns) == _dump(function.returns)
    )


def default_of(function: FunctionNode, parameter: str) -> ast.expr | None:
    """A parameter's default, None where it has none."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(plain[len(plain) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    pairs += [(one, value) for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    return next((value for one, value in pairs if one.arg == parameter), None)


def same_expression(node: ast.expr, answer: str) -> bool:
    """Whether an answer spells an expression."""
    tree = _parse_module(f"({answer})")
    body = tree.body[0] if tree and len(tree.body) == 1 else None
    return isinstance(body, ast.Expr) and ast.dump(body.value) == ast.dump(node)


def _parse_module(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _uses(node: ast.AST, name: str, inside: str) -> Iterator[NameUse]:
    for child in ast.iter_child_nodes(node):
        called = isinstance(node, ast.Call) and node.func is child
        if isinstance(child, ast.Call) and _last_name(child.func) == name:
            yield NameUse(inside, True)
        elif (_last_name(child) == name and not called) or (isinstance(child, ast.Constant) and child.value == name):
            yield NameUse(inside, False)
        yield from _uses(child, name, child.name if isinstance(child, FunctionNode) else inside)


def _base_name(node: ast.expr) -> str:
    return ast.unparse(node.value if isinstance(node, ast.Subscript) else node)


def _last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _dump(node: ast.AST | None) -> str:
    return ast.dump(node) if node else ""
