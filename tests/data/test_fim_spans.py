"""Spans to fill in are scopes of the syntax and places in mid-word, with text on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from longrepo.config.schema import DataSettings
from longrepo.data.builder import LongContextSequenceBuilder
from longrepo.data.fim_spans import (
    MAX_SPAN_TOKENS,
    RANDOM_SPANS,
    choose_fim_span,
    fim_scopes,
    whole_character,
)
from longrepo.data.sequence import LongContextSequence
from longrepo.data.template import FIM_SPLIT_TOKENS
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.repository.scopes import SCOPES

Read = Callable[[str, str], TokenizedText]
PYTHON = """\
class Cart:
    def total(self, rate):
        amount = sum(self.prices, start=rate)
        if amount > rate:
            amount -= 1
        return amount
"""


def found(text: str, language: str) -> dict[str, list[str]]:
    return {kind: [text[start:end] for start, end in spans] for kind, spans in fim_scopes(text, language).items()}


def test_scopes_are_the_syntax_s_and_without_a_grammar_words_lines_and_paragraphs() -> None:
    python = found(PYTHON, "Python")
    assert "self.prices, start=rate" in python["expression"] and "amount -= 1" in python["statement"]
    assert {*python} == {*SCOPES}
    for language in ("Markdown", "Awk"):
        scopes = found("Ask (one two).\n\nFirst line,\nthe second.\n", language)
        assert "second" in scopes["identifier"] and scopes["expression"] == ["one two"]
        assert scopes["block"] == ["First line,\nthe second."] and "the second." in scopes["statement"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_both_sides_hold_text_and_a_span_is_at_most_half(read: Read, ending: str) -> None:
    of = read("cart.py", (PYTHON * 20).replace("\n", ending))
    kinds = Counter[str]()
    inside_words = 0
    for number in range(300):
        start, end = (0, len(of)) if number % 2 else (int(of.cuts[3]), int(of.cuts[-2]))
        span = choose_fim_span(of, start, end, f"key {number}")
        assert span is not None and span == choose_fim_span(of, start, end, f"key {number}")
        low, high = int(of.starts[start]), int(of.starts[end]) if end < len(of) else len(of.text)
        prefix, middle, suffix = of.text[low : span.start], of.text[span.start : span.end], of.text[span.end : high]
        assert prefix.strip() and middle.strip() and suffix.strip()
        assert not prefix.endswith("\r") and not middle.endswith("\r")
        size = of.starts.searchsorted([span.start, span.end])
        assert size[1] - size[0] <= min(MAX_SPAN_TOKENS, (end - start) // 2)
        kinds[span.kind] += 1
        inside_words += span.kind in RANDOM_SPANS and (prefix[-1] + middle[0]).isalpha()
    assert {*kinds} == {*SCOPES, *RANDOM_SPANS}
    assert 0.4 < sum(kinds[kind] for kind in SCOPES) / 300 < 0.6
    assert min(kinds[kind] for kind in SCOPES) > 10 and min(kinds[kind] for kind in RANDOM_SPANS) > 45
    assert inside_words > 30
    assert any(
        choose_fim_span(of, 0, len(of), f"one {number}").end - choose_fim_span(of, 0, len(of), f"one {number}").start
        < 3
        for number in range(40)
    )  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "can"), [("", False), ("a", False), ("\n\n\n", False), ("ab\n", False), ("a = 1\n", True)]
)
def test_a_text_too_short_is_not_cut(read: Read, text: str, can: bool) -> None:
    of = read("a.py", text)
    assert any(choose_fim_span(of, 0, len(of), f"{number}") for number in range(20)) == can


def test_a_cursor_stands_between_whole_characters() -> None:
    text = "a\r\nbe\u0301 <NAME>x \U0001f468\u200d\U0001f469"
    assert [whole_character(text, at) for at in range(len(text) + 1)] == [
        0, 1, 1, 3, 4, 4, 6, 7, 7, 7, 7, 7, 7, 13, 14, 15, 15, 15, 18,
    ]  # fmt: skip


def test_each_side_is_tokenized_as_an_editor_s_text_is(tokenizer: RepoTokenizer) -> None:
    in_words = 0
    for seed in range(30):
        builder = LongContextSequenceBuilder(tokenizer, 400, data=DataSettings(fim_share=1), seed=seed)
        sequence = builder.build_hierarchical_sequence([("cart.py", PYTHON * 4)], truncate=True)
        assert isinstance(sequence, LongContextSequence) and len(sequence) <= 400
        ids, fim = sequence.tokens, tokenizer.fim
        assert fim is not None
        at = [ids.index(id) for id in (fim.prefix, fim.suffix, fim.middle)]
        if at[1] == at[0] + 1:
            continue  # suffix first: its prefix and middle are joined
        sides = [ids[at[0] + 1 : at[1]], ids[at[1] + 1 : at[2]], ids[at[2] + 1 : -1]]
        prefix, suffix, middle = map(tokenizer.decode, sides)
        assert sides == [tokenizer.encode(text) for text in (prefix, suffix, middle)]
        assert (PYTHON * 4).startswith(prefix + middle + suffix)
        assert len(ids) <= len(tokenizer.encode(prefix + middle + suffix)) + 20 + FIM_SPLIT_TOKENS
        in_words += (prefix[-1] + middle[0]).isalpha()
        assert sequence.loss_weights[-1] == 1 and not sequence.loss_weights[at[2]]
    assert in_words > 3


LICENCE = "# Copyright 2020 Somebody\n#\n# Licensed under the terms of a licence that is long enough.\n" * 4
DRAWING = '<svg>\n  <path d="' + " ".join(f"M{n}.25,{n * 7 % 91}c-1.{n},0.5" for n in range(60)) + '"/>\n</svg>\n'


@pytest.mark.parametrize(
    ("path", "text", "never", "sometimes"),
    [
        ("a.py", LICENCE + "\n" + PYTHON * 3, "Licensed", "amount"),
        (
            "a.go",
            LICENCE.replace("#", "//") + "\npackage a\n\nfunc Add(a, b int) int {\n\treturn a + b\n}\n",
            "terms",
            "a + b",
        ),
        ("a.svg", DRAWING, "M30.25,28c-1.30,0.5 M31.25,35c-1.31", ""),
        ("a.py", "KEY = '" + "aB3/" * 40 + "'\n" + PYTHON, "aB3/" * 25, "amount"),
    ],
)
def test_nobody_asks_for_a_licence_or_for_values(read: Read, path: str, text: str, never: str, sometimes: str) -> None:
    of = read(path, text)
    spans = [span for number in range(150) if (span := choose_fim_span(of, 0, len(of), f"{number}")) is not None]
    middles = [text[span.start : span.end] for span in spans]
    assert any(sometimes in one for one in middles) and not any(never in one for one in middles)
    assert all(sum(one.isdigit() for one in middle) < 40 for middle in middles)
