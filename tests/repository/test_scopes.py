"""The spans at which a model is asked to go on: names, expressions, statements, blocks and the parts of calls."""

from __future__ import annotations

import pytest

from longrepo.repository.scopes import call_spans, scope_spans

TEXTS = {
    "Python": (
        "# note(me)\nclass Till:\n    def pay(self, sum):\n        rest = self.count(sum, 2)\n        self.log(rest)\n"
        "        return rest\n",
        ["sum, 2", "self.count(sum, 2)"],
        ["rest = self.count(sum, 2)", "self.log(rest)", "return rest"],
        "rest = self.count(sum, 2)\n        self.log(rest)\n        return rest",
    ),
    "Java": (
        "class Till {\n  int pay(int sum) {\n    int rest = this.count(sum, 2);\n    log(rest); // said\n"
        "    return rest;\n  }\n}\n",
        ["sum, 2", "this.count(sum, 2)"],
        ["int rest = this.count(sum, 2);", "return rest;"],
        "int rest = this.count(sum, 2);\n    log(rest); // said\n    return rest;",
    ),
    "Go": (
        "package till\n\nfunc pay(sum int) int {\n\trest := count(sum, 2)\n\tlog(rest)\n\treturn rest\n}\n",
        ["sum, 2", "count(sum, 2)"],
        ["rest := count(sum, 2)", "log(rest)", "return rest"],
        "rest := count(sum, 2)\n\tlog(rest)\n\treturn rest",
    ),
    "TypeScript": (
        "function pay(sum: number) {\n  const rest = count(sum, 2);\n  log(rest);\n  return rest;\n}\n",
        ["sum, 2", "count(sum, 2)"],
        ["const rest = count(sum, 2);", "log(rest);", "return rest;"],
        "const rest = count(sum, 2);\n  log(rest);\n  return rest;",
    ),
    "Rust": (
        "fn pay(sum: u32) -> u32 {\n    let rest = count(sum, 2);\n    log(rest);\n    rest\n}\n",
        ["sum, 2", "count(sum, 2)"],
        ["let rest = count(sum, 2);", "log(rest);", "rest"],
        "let rest = count(sum, 2);\n    log(rest);\n    rest",
    ),
    "C": (
        "int pay(int sum) {\n    int rest = count(sum, 2);\n    log(rest);\n    return rest;\n}\n",
        ["sum, 2", "count(sum, 2)"],
        ["int rest = count(sum, 2);", "log(rest);", "return rest;"],
        "int rest = count(sum, 2);\n    log(rest);\n    return rest;",
    ),
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_divided_where_people_stop(language: str) -> None:
    text, expressions, statements, block = TEXTS[language]
    spans = scope_spans(text, language)
    found = {scope: [text[one.start : one.end] for one in spans if one.scope == scope] for scope, *_ in spans}
    assert set(expressions) <= set(found["expression"])
    inner = [one for one in found["statement"] if "\n" not in one]
    assert [one for one in inner if "package" not in one] == statements
    assert block in found["block"] and all("\n" in one for one in found["block"])
    assert "rest" in found["identifier"] and "note" not in found["identifier"]
    assert len(spans) == len(set(spans))


@pytest.mark.parametrize("language", TEXTS)
def test_a_call_s_name_and_what_it_is_given(language: str) -> None:
    text = TEXTS[language][0]
    calls = call_spans(text, language)
    assert [text[one.start : one.end] for one in calls] == ["count", "log"] == [one.name for one in calls]
    assert [text[one.first : one.last] for one in calls] == ["sum, 2", "rest"]


def test_a_call_without_parentheses_or_arguments() -> None:
    ruby = call_spans("puts total\ncount()\n", "Ruby")
    assert [(one.name, one.first) for one in ruby] == [("puts", -1), ("count", 17)] and ruby[1].last == 17


def test_a_text_without_a_grammar_has_no_scopes() -> None:
    assert scope_spans("some words (of a book)\n", "Other") == [] == call_spans("some(words)", "Other")
    assert scope_spans("", "Python") == []
