"""What a piece of a file needs of the lines above it, in the ways that languages write it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from longrepo.data.text import TokenizedText, imported_names, text_top

# The file, its text, the line that the piece begins with, and the lines that stand before it as context.
IMPORTS = {
    "a block of Go": (
        "a.go",
        'package main\n\nimport (\n\t"fmt"\n\t"os"\n)\n\nfunc main() {\n\tfmt.Println("a")\n\tos.Exit(1)\n}\n',
        "\tos.Exit",
        'package main\nimport (\n\t"os"\n)\nfunc main() {',
    ),
    "names of Python over lines, and prose that looks like imports": (
        "a.py",
        '"""Shop.\n\nfrom the beginning.\nuse with care.\n"""\n\nfrom shop import (\n    cart,\n)\nimport os\n\n'
        "def f():\n    a = 1\n    return cart(a)\n",
        "    return",
        "from shop import (\n    cart,\n)\ndef f():",
    ),
    "JavaScript": (
        "a.js",
        'import {\n  cart,\n} from "./shop"\nlet fs = require("fs")\n\nfunction f() {\n  a()\n  return cart(a)\n}\n',
        "  return",
        'import {\n  cart,\n} from "./shop"\nfunction f() {',
    ),
    "Rust": (
        "a.rs",
        "use std::{\n    fs,\n};\npub use a::b;\npub mod cd;\n\nfn f() {\n    let a = 1;\n    fs::cart(a);\n}\n",
        "    fs::cart",
        "use std::{\n    fs,\n};\nfn f() {",
    ),
    "Ruby": ("a.rb", 'require_relative "shop"\n\ndef f\n  a = 1\n  b\nend\n', "  b", 'require_relative "shop"\ndef f'),
    "Lua": (
        "a.lua",
        'local shop = require("shop")\n\nfunction f()\n  local a = 1\n  return a\nend\n',
        "  return",
        'local shop = require("shop")\nfunction f()',
    ),
    "Clojure": (
        "a.clj",
        "(ns a.core\n  (:require [shop.cart :as cart]))\n\n(defn f []\n  (let [a 1]\n    (cart/x a)))\n",
        "    (cart",
        "(ns a.core\n  (:require [shop.cart :as cart]))\n(defn f []\n  (let [a 1]",
    ),
    "OCaml": ("a.ml", "open Shop\n\nlet f x =\n  let a = 1 in\n  cart a\n", "  cart", "open Shop\nlet f x ="),
    "a shell": ("a.sh", ". ./lib.sh\n\nf() {\n  a=1\n  cart $a\n}\n", "  cart", ". ./lib.sh\nf() {"),
    "PHP": (
        "a.php",
        "<?php\nnamespace App;\nuse App\\Shop;\n\nfunction f() {\n  $a = 1;\n  return new Shop($a);\n}\n",
        "  return",
        "namespace App;\nuse App\\Shop;\nfunction f() {",
    ),
    "C#": (
        "a.cs",
        "global using X;\nusing System;\nnamespace A;\n\nclass C {\n  int F() {\n    a();\n    return a;\n  }\n}\n",
        "    return",
        "global using X;\nusing System;\nnamespace A;\nclass C {\n  int F() {",
    ),
    "R": ("a.R", "library(shop)\nf <- function(x) {\n  a <- 1\n  b\n}\n", "  b", "library(shop)\nf <- function(x) {"),
    "Kotlin": (
        "a.kt",
        "package a\nimport b.C\n\nfun f(): Int {\n    val a = 1\n    return a\n}\n",
        "    return",
        "package a\nfun f(): Int {",
    ),
}
HOLDERS = {
    "a brace on its own line": (
        "a.cs",
        "class C\n{\n    int F()\n    {\n        int a = 1;\n        return a;\n    }\n}\n",
        "        return",
        "class C\n    int F()",
    ),
    "arguments over lines": (
        "a.py",
        "def f(\n    a,\n    b,\n):\n    x = 1\n    return x\n",
        "    return",
        "def f(\n    a,\n    b,\n):",
    ),
    "a comment at the margin": ("a.py", "def f(a):\n    x = 1\n#    y = 2\n    return x\n", "    return", "def f(a):"),
    "a directive": (
        "a.c",
        "int f() {\n  int a;\n#ifdef X\n  a = 2;\n#endif\n  return a;\n}\n",
        "  return",
        "int f() {",
    ),
    "a label": ("a.c", "int f(int a) {\n  a = 2;\nout:\n  return a;\n}\n", "  return", "int f(int a) {"),
    "an access section": ("a.cc", "class A {\npublic:\n  int f();\n  int g();\n};\n", "  int g", "class A {"),
    "an else behind a brace": (
        "a.js",
        "function f(x) {\n  if (x) {\n    a()\n  } else {\n    b()\n    c()\n  }\n}\n",
        "    c()",
        "function f(x) {\n  if (x) {",
    ),
    "an else of Python": (
        "a.py",
        "def f(x):\n    if x:\n        a()\n    else:\n        b()\n        c()\n",
        "        c()",
        "def f(x):\n    else:",
    ),
    "keys of YAML": (
        "a.yaml",
        "jobs:\n  test:\n    # c\n    steps:\n      - a\n      - b\n",
        "      - b",
        "jobs:\n  test:\n    steps:",
    ),
    "a rule by its id": (
        "a.scss",
        "#main {\n  .a {\n    color: red;\n    top: 1;\n  }\n}\n",
        "    top",
        "#main {\n  .a {",
    ),
    "a piece that begins with a brace, with what opens it": (
        "a.js",
        "function f() {\n  if (a) {\n    b()\n  }\n  c()\n}\n",
        "  }\n",
        "function f() {\n  if (a) {",
    ),
    "a comment below imports": (
        "A.java",
        "package a;\n\nimport b.Cart;\n\n/**\n * One.\n * Two.\n */\nclass A {}\n",
        " * Two",
        "package a;",
    ),
    "a line that closes one bracket and opens another": (
        "a.js",
        "function f() {\n  const [\n    a,\n  ] = g(\n    1,\n    2,\n  )\n}\n",
        "    2",
        "function f() {\n  const [\n  ] = g(",
    ),
    "a bracket that closes what stands above its branches": (
        "a.go",
        "func f(a int) int {\n\tswitch a {\n\tcase 1:\n\t\treturn 2\n\tdefault: // none\n\t\tg()\n\t}\n\treturn 3\n}\n",
        "\t}",
        "func f(a int) int {\n\tswitch a {",
    ),
    "a bracket alone in a list": (
        "a.js",
        "const layers = [\n  {\n    x: 1,\n  },\n  {\n    x: 2,\n    y: 3,\n  },\n]\n",
        "    y: 3",
        "const layers = [\n  {",
    ),
    "a bracket alone below what it belongs to": (
        "a.cc",
        "void f()\n{\n    int x;\n    int y;\n}\n",
        "    int y",
        "void f()",
    ),
    "a branch of a template is no holder": (
        "a.ejs",
        "<% if (a) { %>\n  <b>\n<% } else { %>\n  <i>\n  <u>\n<% } %>\n",
        "  <u>",
        "<% if (a) { %>",
    ),
    "an import that stands twice": (
        "a.cc",
        '#include "x.h"\n#if A\n#include "x.h"\n#endif\nint f() {\n  x();\n}\n',
        "  x();",
        '#include "x.h"\nint f() {',
    ),
    "a piece that begins with a bracket": (
        "a.py",
        "class A:\n    x = [\n        1,\n    ]\n\n    def f(self):\n        pass\n",
        "    ]\n",
        "class A:\n    x = [",
    ),
}


@pytest.mark.parametrize("case", [*IMPORTS, *HOLDERS])
def test_a_piece_is_headed_by_what_it_uses_and_what_holds_it(
    case: str, read: Callable[[str, str], TokenizedText]
) -> None:
    path, text, start, head = (IMPORTS | HOLDERS)[case]
    of = read(path, text)
    found = "".join(of.slice_text(*span) for span in of.head(of.token_at(text.index(start)), 300, len(of)))
    assert [line.rstrip() for line in found.split("\n") if line.strip()] == head.split("\n")


def test_a_head_keeps_to_its_budget_and_leaves_a_statement_whole_or_out(
    read: Callable[[str, str], TokenizedText],
) -> None:
    names = "".join(f"    name_{n},\n" for n in range(30))
    text = f"import os\nfrom shop import (\n{names})\n\ndef f():\n    a = 1\n    return [{names}]\n"
    of = read("a.py", text)
    at = of.token_at(text.index("    return"))
    for budget in (0, 3, 12, 40, 2000):
        spans = of.head(at, budget, len(of))
        assert sum(end - start for start, end in spans) <= budget
        found = "".join(of.slice_text(*span) for span in spans)
        assert ("from shop" in found) == ("name_29" in found) == (budget == 2000)


def test_what_a_piece_is_directly_under_comes_first(read: Callable[[str, str], TokenizedText]) -> None:
    of = read(
        "a.js", "describe('one', () => {\n  it('two', () => {\n    shallow([\n      1,\n      2,\n    ])\n  })\n})\n"
    )
    at = of.token_at(of.text.index("      2"))
    found = ["".join(of.slice_text(*span) for span in of.head(at, budget, len(of))).strip() for budget in range(40)]
    assert next(one for one in found if one) == "shallow(["
    assert found[-1].split("\n")[0] == "describe('one', () => {"


def test_an_import_without_an_end_is_left_out(read: Callable[[str, str], TokenizedText]) -> None:
    of = read(
        "a.py", "import os\nfrom shop import (\n" + "    name,\n" * 60 + "\ndef f():\n    a = 1\n    return os.name\n"
    )
    found = "".join(of.slice_text(*span) for span in of.head(of.token_at(of.text.index("    return")), 2000, len(of)))
    assert found.split() == ["import", "os", "def", "f():"]


@pytest.mark.parametrize(
    ("language", "row", "names"),
    [
        ("Python", "from a.b import c as d, ef  # gh", {"d", "ef"}),
        ("Python", "import os.path", {"os", "path"}),
        ("Python", "from a import *", set()),
        ("Java", "import static a.b.Cart.total;", {"total"}),
        ("Java", "import a.b.$Cart$Total;", {"$Cart$Total"}),
        ("Java", "import a.b.Cart$Total;", {"Cart$Total"}),
        ("Java", "import a.b.*;", set()),
        ("Java", "package a.b;", set()),
        ("Go", '\tcart "example.org/shop/v2"', {"cart"}),
        ("Go", '\t"example.org/go-shop"', {"shop"}),
        ("Rust", "use crate::shop::{Cart, total as sum};", {"Cart", "sum"}),
        ("TypeScript", "import type { Cart, Total as Sum } from './shop'", {"Cart", "Sum"}),
        ("JavaScript", 'const { cart, other } = require("./shop")', {"cart", "other"}),
        ("C", "#include <shop.h>", set()),
    ],
)
def test_an_import_brings_the_names_that_the_file_calls_it_by(language: str, row: str, names: set[str]) -> None:
    assert imported_names(row, language) == names


@pytest.mark.parametrize(
    ("language", "text", "licence", "imports"),
    [
        (
            "Java",
            "/*\n * Copyright\n */\n\npackage a;\n\nimport b.C;\n\n/** One. */\nclass A {}\n",
            "package",
            "/** One",
        ),
        ("Go", '// Copyright 1\n\n//go:build x\n\npackage a\n\nimport (\n\t"b"\n)\n\nfunc A() {}\n', "//go:", "func A"),
        (
            "Python",
            "#!/usr/bin/python\n# Its licence: MIT\nimport a\nfrom b import (\n    c,\n)\n\nx = 1\n",
            "import a",
            "x = 1",
        ),
        ("Python", "# What it does.\nimport a\n\ndef f(): ...\n", "# What", "def f"),
        ("C", "/* SPDX-License-Identifier: MIT */\n#ifndef A\n#define A\n#include <b.h>\nint a;\n", "#ifndef", "int a"),
        ("Python", "x = 1\nimport a\n# A licence\n", "x = 1", "x = 1"),
        ("Java", "/* A licence without an end\n", "/* A", "/* A"),
        ("Markdown", "# Licence\n\nText.\n", "# Licence", "# Licence"),
        ("Shell", "# Copyright alone\n", "", ""),
    ],
)
def test_a_text_begins_behind_its_licence_and_its_imports(language: str, text: str, licence: str, imports: str) -> None:
    found = text_top(text, language)
    assert text[found[0] :].startswith(licence) and text[found[1] :].startswith(imports)
    assert found == tuple(text.index(one) if one else len(text) for one in (licence, imports))
