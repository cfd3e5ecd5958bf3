"""What is wrong with the lines repeated before a piece of a file."""

from __future__ import annotations

import pytest

from longrepo.data.repeated_heads import stray_bracket, unused_import


def test_brackets_in_strings_and_comments_do_not_count() -> None:
    assert stray_bracket('if (text == ")") {  // :)\n', "  }\n") == "}"
    assert stray_bracket('if (text == ")") {  // :)\n', "  x();\n") == ""
    assert stray_bracket("def total(\n", "    items):\n    pass\n") == ""
    assert stray_bracket("def total(\n", "    pass\n  ]\n") == "def total("


@pytest.mark.parametrize(
    ("line", "uses", "not_used"),
    [
        ("import numpy as np", "np.zeros(1)", "zeros = 1"),
        ("from a.b import c as d, e", "e()", "c()"),
        ("import java.io.IOException;", "IOException x;", "File x;"),
        ("import { one, two as three } from './x';", "three()", "two()"),
        ("use crate::shop::Till;", "Till::new()", "shop()"),
    ],
)
def test_the_names_that_an_import_brings(line: str, uses: str, not_used: str) -> None:
    assert unused_import(line + "\n", uses) == "" and unused_import(line + "\n", not_used) == line
    assert unused_import("from __future__ import annotations\nimport java.util.*;\n", "x") == ""


def test_a_lifetime_is_no_quote() -> None:
    head = "fn links<'a, 'b>(event: Event<'a>, path: &'b Path) -> Event<'a> {\n"
    assert stray_bracket(head, "}\n") == ""
    assert stray_bracket(head.replace("{", ""), "}\n") == "}"
    assert stray_bracket("if one == '(' || text.starts_with(&'[') {\n", "}\n") == ""
