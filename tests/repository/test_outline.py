"""Outlines: offsets in characters, whole nodes between cuts, lossless storage, any input in a moment."""

from __future__ import annotations

import time

import pytest

from longrepo.repository.definitions import Definition
from longrepo.repository.grammars import GRAMMARS
from longrepo.repository.outline import Outline, build_outline
from longrepo.repository.syntax import MAX_CHARACTERS

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


def only(text: str, language: str) -> Definition:
    (one,) = build_outline(text, language).definitions
    return one


def test_definitions_count_characters_and_keep_decorators() -> None:
    found = build_outline(PYTHON, "Python").definitions
    assert [(d.name, d.kind, d.line) for d in found] == [
        ("Size", "class", 8),
        ("round", "method", 14),
        ("later", "function", 18),
        ("inner", "function", 21),
    ]
    assert PYTHON[found[0].start :].startswith("@frozen\nclass Size") and PYTHON[: found[0].end].endswith('("é")')
    assert found[1].signature == "def round(self, to: int = 1) -> int:"
    assert found[2].signature == "async def later( what, ) -> None:"


def test_a_signature_ends_where_the_body_begins() -> None:
    size, *_, inner = build_outline(PYTHON, "Python").definitions
    assert PYTHON[size.start : size.body] == "@frozen\nclass Size(Base):\n    "
    assert PYTHON[inner.body : inner.end] == "pass"
    bodiless = only("struct É;\n", "Rust")
    assert bodiless.body == bodiless.end == 9


def test_calls_name_what_is_called_and_where() -> None:
    found = build_outline(PYTHON, "Python").calls
    assert [(c.name, c.line, c.inside) for c in found] == [
        ("ceil", 15, "round"),
        ("getsize", 15, "round"),
        ("inner", 22, "later"),
    ]
    assert [PYTHON[c.at :].split("(")[0] for c in found] == ["ceil", "os.path.getsize", "inner"]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("Elixir", "def f(a), do: g(h(a))\ndef k, do: m()\n", ["g f", "h f", "m k"]),
        ("Julia", "function f(a)::Int\n  g(a)\nend\nh(x) = k(x)\n", ["g f", "k h"]),
        ("JavaScript", "f(() => a.b(c)(d))\nconst [x, y] = [() => g(), 1]\nnew A()\n", ["f ", "b ", "g ", "A "]),
        ("Rust", "fn f() { a::b::<T>(c); d.e(); }\n", ["b f", "e f"]),
    ],
)
def test_the_head_of_a_definition_is_no_call(language: str, text: str, expected: list[str]) -> None:
    assert [f"{c.name} {c.inside}" for c in build_outline(text, language).calls] == expected


def test_declarators_side_by_side_are_each_a_definition_of_their_own() -> None:
    text = "const f = () => 1, g = () => h();\nvar k = function () {};\n"
    read = build_outline(text, "JavaScript")
    assert [text[d.start : d.end] for d in read.definitions] == ["f = () => 1", "g = () => h()", text[34:-1]]
    assert [(c.name, c.inside) for c in read.calls] == [("h", "g")]


def test_what_follows_a_class_is_none_of_its_methods() -> None:
    text = "class A:\n    def f(self): pass\nif x:\n    def g(): pass\n"
    assert [d.kind for d in build_outline(text, "Python").definitions] == ["class", "method", "function"]


def test_a_function_in_clauses_is_one_definition() -> None:
    text = "f 0 = 1\nf x = g x\nh = f\nf y = 2\n"
    found = build_outline(text, "Haskell").definitions
    assert [" ".join(text[one.start : one.end].split()) for one in found] == ["f 0 = 1 f x = g x", "h = f", "f y = 2"]


def test_bodies_stand_outer_first_around_what_they_hold() -> None:
    text = "def f():\n    if é:\n        x\n"
    assert [text[start:end] for start, end in build_outline(text, "Python").bodies] == ["if é:\n        x", "x"]


def test_cuts_leave_nodes_whole_and_keep_what_introduces_them() -> None:
    pieces = [PYTHON[at:].split("\n")[0] for at in build_outline(PYTHON, "Python").cuts]
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
    assert build_outline(short, "Python").cuts == ()
    assert len(build_outline("def f():\n" + "    x = 1\n" * 300, "Python").cuts) == 299
    inside = "class A {\n  int f() {\n" + "    x = 1;\n" * 300 + "  }\n  int g() {\n    y();\n    z();\n  }\n}\n"
    assert len(build_outline(inside, "Java").cuts) == 300  # 299 in f, one before g, none in g


def test_a_definition_includes_a_body_that_stands_beside_it() -> None:
    text = "void f(int a) {\n  g();\n}\n"
    one = only(text, "Dart")
    assert (text[one.start : one.body], one.end) == ("void f(int a) ", len(text) - 1)


def test_gos_single_type_includes_its_keyword() -> None:
    assert only("package m\n\ntype A struct{}\n", "Go").signature == "type A struct{}"


def test_text_without_a_grammar_is_cut_at_blank_lines_else_at_lines() -> None:
    assert build_outline("a\nb\n\n  \nc\nd\n", "Other") == Outline((), (), (), (8,), ())
    assert build_outline("a\nb\nc", "Other").cuts == (2, 4) and build_outline("", "Other").cuts == ()


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
    "def f(\n=> function class x = {[(\n" * 40,
]


@pytest.mark.parametrize("language", [*GRAMMARS, "Other"])
def test_odd_input_never_raises_and_is_stored_exactly(language: str) -> None:
    for text in ODD:
        read = build_outline(text, language)
        assert list(read.cuts) == sorted(set(read.cuts)) and all(text[at - 1] == "\n" for at in read.cuts)
        assert all(0 <= d.start <= d.body <= d.end <= len(text) for d in read.definitions)
        assert all(0 <= start <= end <= len(text) for start, end in read.bodies)
        assert Outline.from_json(read.to_json()) == read


def test_what_is_stored_comes_back_as_it_was() -> None:
    read = build_outline(PYTHON, "Python")
    stored = read.to_json()
    assert read.definitions and read.calls and read.imports and read.cuts and read.bodies
    assert Outline.from_json(stored) == read and "\n" not in stored
    assert type(Outline.from_json(stored).imports[0].names) is tuple


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("Python", "x = f(1)\n" * 120_000),
        ("Python", "(" * 200_000),
        ("TypeScript", "{a:[" * 60_000),
        ("TypeScript", "f(" * 100_000),
        ("TypeScript", "f(a);" * 50_000),
        ("JSON", "[" + "[1,2]," * 40_000 + "1]"),
        ("Rust", "use a;mod b;" * 20_000),
        ("C++", "a<b<c<" * 20_000),
    ],
)
def test_a_long_or_endlessly_nested_file_is_read_in_a_moment(language: str, text: str) -> None:
    began = time.thread_time()
    read = build_outline(text, language)
    assert time.thread_time() - began < 4
    assert len(text) < MAX_CHARACTERS or read.definitions == ()


def test_a_call_of_nothing_that_the_grammar_names_is_no_call() -> None:
    text = "command! -nargs=* FZF call s:cmd(<bang>0, <f-args>)\nlet a = Twice(1)\n"
    assert [one.name for one in build_outline(text, "Vim script").calls] == ["Twice"]
