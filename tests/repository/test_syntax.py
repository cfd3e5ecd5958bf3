"""Definitions, calls, identifiers and safe cuts, in characters, for every language and on any input."""

from __future__ import annotations

import time

import pytest

from longrepo.repository import syntax
from longrepo.repository.grammar import GRAMMARS
from longrepo.repository.languages import language_of
from longrepo.repository.model import TextFile
from longrepo.repository.tree import MAX_CHARACTERS

PYTHON = '''"""Größe – a text whose bytes and characters differ."""
import os

LIMIT = 3  # ü

# What a size is.
@frozen
class Size(Base):
    """Doc."""

    unit = "ß"

    # Rounds up.
    def round(self, to: int = 1) -> int:
        return ceil(self.value / to) * os.path.getsize("é")


async def later(
    what,
) -> None:
    def inner(): pass
    inner()
'''


def file(text: str, language: str) -> TextFile:
    return TextFile("x", text, "0" * 40, language)


def test_definitions_count_characters_and_keep_decorators() -> None:
    found = syntax.definitions(file(PYTHON, "Python"))
    assert [(d.name, d.kind, d.line) for d in found] == [
        ("Size", "class", 8),
        ("round", "method", 14),
        ("later", "function", 18),
        ("inner", "function", 21),
    ]
    assert PYTHON[found[0].start :].startswith("@frozen\nclass Size") and PYTHON[: found[0].end].endswith('("é")')
    assert found[1].signature == "def round(self, to: int = 1) -> int:"
    assert found[2].signature == "async def later( what, ) -> None:"


def test_calls_name_what_is_called_and_where() -> None:
    found = syntax.calls(file(PYTHON, "Python"))
    assert [(c.name, c.line, c.inside) for c in found] == [
        ("ceil", 15, "round"),
        ("getsize", 15, "round"),
        ("inner", 22, "later"),
    ]


def test_identifiers_stand_where_they_say() -> None:
    found = list(syntax.identifiers(PYTHON, "Python"))
    assert all(PYTHON[at : at + len(name)] == name for name, at in found)
    names = [name for name, _ in found]
    assert "LIMIT" in names and "getsize" in names and "Größe" not in names and names.count("inner") == 2
    assert list(syntax.identifiers("ab (ç1)", "Other")) == [("ab", 0), ("ç1", 4)]


def test_cuts_leave_nodes_whole_and_keep_what_introduces_them() -> None:
    pieces = [PYTHON[at:].split("\n")[0] for at in syntax.cuts(PYTHON, "Python")]
    assert pieces == [
        "import os",
        "LIMIT = 3  # ü",
        "# What a size is.",
        '    unit = "ß"',
        "    # Rounds up.",
        "async def later(",
    ]


def test_only_a_long_function_is_cut_between_its_statements() -> None:
    short = "def f():\n" + "    x = 1\n" * 10
    assert syntax.cuts(short, "Python") == ()
    assert len(syntax.cuts("def f():\n" + "    x = 1\n" * 300, "Python")) == 299


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("Rust", "impl A { fn f(&self) {} }\npub struct S;\nfn z() {}\n", ["f method", "S struct", "z function"]),
        ("Go", "package m\ntype A struct{}\nfunc (a A) F() {}\nfunc G() {}\n", ["A type", "F method", "G function"]),
        ("JavaScript", "const f = (a) => <p>{a}</p>;\nclass A { m() {} }\n", ["f function", "A class", "m method"]),
        ("TypeScript", "export const f = (a: X) => 1;\ninterface I { a: b }\n", ["f function", "I interface"]),
        ("Java", "@X class A { A() {} int f() { return 1; } }\n", ["A class", "A method", "f method"]),
        ("Kotlin", "class A {\n  fun f() = 1\n}\nfun g() {}\n", ["A class", "f method", "g function"]),
        ("C", "static int *f(int a) { return a; }\nstruct S { int x; };\nstruct S *s;\n", ["f function", "S struct"]),
        ("C++", "class A { int k() { return 1; } };\nint n::A::m() {}\n", ["A class", "k method", "m function"]),
        ("C#", "class A { int F() { return 1; } }\n", ["A class", "F method"]),
        ("Ruby", "class A\n  def f\n  end\nend\ndef g\nend\n", ["A class", "f method", "g function"]),
        ("PHP", "<?php\nclass A { function f() {} }\nfunction g() {}\n", ["A class", "f method", "g function"]),
        ("Swift", "struct A {\n func f() {}\n}\nfunc g() {}\n", ["A class", "f method", "g function"]),
        ("Scala", "object O { def f = 1 }\ntrait T\n", ["O class", "f method", "T trait"]),
        ("Shell", "f() { g; }\nfunction h { i; }\n", ["f function", "h function"]),
        ("Other", "def f(): pass\n", []),
    ],
)
def test_each_language_has_its_definitions(language: str, text: str, expected: list[str]) -> None:
    assert [f"{d.name} {d.kind}" for d in syntax.definitions(file(text, language))] == expected


def test_gos_single_type_includes_its_keyword() -> None:
    (one,) = syntax.definitions(file("package m\n\ntype A struct{}\n", "Go"))
    assert one.signature == "type A struct{}"


def test_nesting_grows_with_depth() -> None:
    flat, deep = "def f():\n    x\n", "def f():\n    if a:\n        for b in c:\n            x\n"
    assert syntax.nesting(flat, "Python") == 1 and syntax.nesting(deep, "Python") == 3
    assert syntax.nesting("a\n  b\n    c\n", "Other") == 2 and syntax.nesting("", "Other") == 0


def test_text_without_a_grammar_is_cut_at_blank_lines_else_at_lines() -> None:
    assert syntax.cuts("a\nb\n\n  \nc\nd\n", "Other") == (8,)
    assert syntax.cuts("a\nb\nc", "Other") == (2, 4) and syntax.cuts("", "Other") == ()


ODD = [
    "",
    "\n",
    "\ufeff",
    "\x01\x02",
    "\udcff é\n",
    "((((" * 5000,
    "{\n" * 3000,
    "a<b<c<" * 500,
    "'\"`" * 900,
    "\r\n\r\n",
]


@pytest.mark.parametrize("language", [*GRAMMARS, "Other"])
def test_odd_input_never_raises_and_cuts_stand_at_line_starts(language: str) -> None:
    for text in ODD:
        one = file(text, language)
        syntax.definitions(one), syntax.calls(one), syntax.imports(one), syntax.nesting(text, language)
        cuts = syntax.cuts(text, language)
        assert list(cuts) == sorted(set(cuts)) and all(text[at - 1] == "\n" for at in cuts)
        assert all(text[at : at + len(name)] == name for name, at in syntax.identifiers(text, language))


@pytest.mark.parametrize("text", ["x = f(1)\n" * 120_000, "(" * 200_000, "{a:[" * 60_000])
def test_a_long_or_endlessly_nested_file_is_read_in_a_moment(text: str) -> None:
    began = time.thread_time()
    for language in ("Python", "TypeScript"):
        one = file(text, language)
        (
            syntax.definitions(one),
            syntax.calls(one),
            syntax.cuts(text, language),
            list(syntax.identifiers(text, language)),
        )
    assert time.thread_time() - began < 6
    assert len(text) < MAX_CHARACTERS or syntax.definitions(one) == ()


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        ("a/B.PY", "", "Python"),
        ("a.d.ts", "", "TypeScript"),
        ("x.h", "int f(void);\n", "C"),
        ("x.h", "namespace a {\n}\n", "C++"),
        ("bin/run", "#!/usr/bin/env -S python3.11 -u\n", "Python"),
        ("bin/run", "#!/bin/bash", "Shell"),
        ("bin/run", "#!\n", "Other"),
        ("Makefile", "", "Makefile"),
        ("docker/Dockerfile.dev", "", "Dockerfile"),
        (".gitignore", "", "Other"),
        ("nothing", "x", "Other"),
        ("a.xyz", "#!/bin/sh\n", "Other"),
    ],
)
def test_languages_go_by_name_then_by_the_first_line(path: str, text: str, language: str) -> None:
    assert language_of(path, text) == language
