"""Each rule finds its fault, once, and nothing in the sequence next to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from whole import prepared

from longrepo.config.loader import load_settings
from longrepo.data.dataset import read_sequences, write_sequences
from longrepo.data.lint import LINT_RULES, LintReport, lint_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts
from longrepo.data.prepare import write_prepared
from longrepo.data.rows import SequenceRow
from longrepo.data.tokenizer_loading import load_tokenizer

Piece = tuple[str, float]  # text with marks by their names, and its weight
Row = tuple[str, list[Piece]]  # kind, pieces

PRICES = "def price_of(item):\n    return item.cents\n\n\ndef tax(item):\n    return item.cents // 5\n"
TOTAL = "from shop.prices import price_of\n\n\ndef total(items):\n    return sum(map(price_of, items))\n"
END = ("<|FILE_END|><|endoftext|>", 1.0)


def shown(path: str, text: str, end: float = 0.0) -> list[Piece]:
    return [(f"<|FILE_START|> {path}\n{text}", 0.1), ("<|FILE_END|>", end)]


def target(path: str, text: str, *, head: str = "", end: float = 1.0) -> list[Piece]:
    return [(f"<|FILE_START|> {path}\n{head}", 0.1), (text, 1.0), ("<|FILE_END|><|endoftext|>", end)]


def files(*pieces: list[Piece]) -> Row:
    return "hierarchical", [one for some in pieces for one in some]


def gap(prefix: str, suffix: str, middle: str) -> list[Piece]:
    marks = [f"<fim_prefix>{prefix}", f"<fim_suffix>{suffix}", f"<fim_middle>{middle}"]
    return [("<|FILE_START|> shop/total.py\n", 0.1), ("".join(marks), 1.0), END]


HUNK = "@@ -1,3 +1,3 @@\n def price_of(item):\n-    return item.cents\n+    return item.cents + 1\n \n"


def change(hunks: str, message: str = "Round up\n", end: float = 1.0) -> list[Piece]:
    added = [(line + "\n", 1.0 if line.startswith("+") else 0.1) for line in hunks.split("\n")[:-1]]
    return [("<|COMMIT_START|> abcdef01 ", 0.1), (message, 1.0), *added, ("<|COMMIT_END|><|endoftext|>", end)]


def changes(*pieces: list[Piece]) -> Row:
    return "commit_evolution", [one for some in pieces for one in some]


def asked(*pairs: tuple[str, str], snippet: Piece = ("<|SNIPPET_0|> shop/prices.py\n" + PRICES, 0.1)) -> Row:
    lines = [
        piece
        for question, answer in pairs
        for piece in ((f"\nQUESTION: {question}\nANSWER:", 0.1), (f" {answer}", 1.0))
    ]
    return "qa", [snippet, *lines, ("<|endoftext|>", 1.0)]


@pytest.fixture
def lint(tmp_path: Path):
    tokenizer = load_tokenizer("embedded")

    def stored(kind: str, pieces: list[Piece]) -> SequenceRow:
        parts = [(tokenizer.encode_marked(text), weight) for text, weight in pieces]
        ids = np.array([id for some, _ in parts for id in some], np.int32)
        weights = np.array([weight for some, weight in parts for _ in some], np.float32)
        weights[0] = 0
        about = ("easy", 0.5, {}, ["shop/prices.py", "shop/total.py"], [], "Python", "train", "shop")
        return SequenceRow(ids, weights, kind, *about)

    def run(*rows: Row) -> LintReport:
        header = Header(TokenizerFacts.of(tokenizer), [RepositoryFacts("shop", "h" * 40)])
        write_sequences(tmp_path / "out", [stored(*row) for row in rows], header)
        file = read_sequences(tmp_path / "out")
        return lint_sequences(file, tokenizer, range(len(file)))

    return run


CLEAN = files(shown("shop/prices.py", PRICES), target("shop/total.py", TOTAL))
STATE = shown("shop/prices.py", PRICES)
WHERE = ("In which file is the function tax defined?", "shop/prices.py, in <|SNIPPET_0|>")
FAULTS: dict[str, tuple[list[Row], dict[str, int]]] = {
    "the end of a cut piece is scored": (
        [files(target("shop/total.py", TOTAL[:60])), files(target("shop/total.py", TOTAL[60:])), CLEAN],
        {"cut-file-end": 1},
    ),
    "the end token alone says it": (
        [
            files(shown("x.py", "y = 1\n")[:1], target("shop/total.py", TOTAL)),
            files([("<|FILE_START|> shop/total.py\n", 0.1), (TOTAL[:60], 1.0), ("<|endoftext|>", 1.0)]),
            CLEAN,
        ],
        {"cut-file-end": 1, "unused-context": 1, "alone-target": 1},
    ),
    "a cut piece of context ends at a tenth": (
        [
            files(target("shop/prices.py", PRICES)),
            files(shown("shop/prices.py", PRICES[:30], 0.1), target("shop/total.py", TOTAL)),
        ],
        {"cut-context-end": 1},
    ),
    "a change ends in mid-hunk, whose head names the enclosing line": (
        [changes(STATE, change(HUNK[: HUNK.index("+    ")].replace(" @@\n", " @@ class Shop\n")))],
        {"cut-change-end": 1},
    ),
    "a change ends in mid-hunk": ([changes(STATE, change(HUNK[: HUNK.index("+    ")]))], {"cut-change-end": 1}),
    "a change ends in mid-line": (
        [changes(STATE, change(HUNK)[:-3], [("+    return it", 1.0), END])],
        {"cut-change-end": 1},
    ),
    "a change in two parts ends twice": (
        [
            changes(STATE, change(HUNK)),
            changes(STATE, change(HUNK.replace("+ 1", "+ 2"))),
            changes(STATE, change(HUNK)),
        ],
        {"cut-change-end": 1},
    ),
    "no suffix": ([files(gap("def total(", "", "items):\n"))], {"one-sided-gap": 1}),
    "suffix first, and there is none": ([files(gap("", "", "def total(items):\n"))], {"one-sided-gap": 1}),
    "no middle": ([files(gap("def total(", "items):\n", ""))], {"empty-gap": 1}),
    "no head of a hunk": ([changes(STATE, change(HUNK.partition("\n")[2]))], {"no-hunk-head": 1}),
    "rows of a hunk before the next": (
        [changes(STATE, change("     cents = 1\n+    return cents\n" + HUNK))],
        {"no-hunk-head": 1},
    ),
    "another region of the file": (
        [
            changes(
                shown("shop/prices.py", PRICES[PRICES.index("def tax") :]), change(HUNK.replace("item.cents", "one"))
            )
        ],
        {"other-region": 1},
    ),
    "one of two files is used": (
        [files(shown("shop/till.py", "def open_till():\n    pass\n"), CLEAN[1])],
        {"unused-context": 1},
    ),
    "no file is used": (
        [files(shown("shop/till.py", "def open_till():\n    pass\n"), target("shop/total.py", TOTAL))],
        {"unused-context": 1, "alone-target": 1},
    ),
    "a wrapper as context": (
        [files(shown("gradlew", "exec price_of\n"), CLEAN[1])],
        {"poor-context": 1},
    ),
    "a fixture as a snippet": (
        [asked(WHERE, WHERE[::-1], snippet=("<|SNIPPET_0|> tests/fixtures/items.json\n{}\n", 0.1))],
        {"poor-context": 1, "odd-subject": 1},
    ),
    "a bracket that nothing opens": (
        [files(target("shop/total.py", TOTAL, head="import os\n)\n"))],
        {"stray-bracket": 1, "unused-import": 1},
    ),
    "a line of a head twice": (
        [files(target("shop/total.py", TOTAL, head="class Shop:\nclass Shop:\n"))],
        {"repeated-head": 1},
    ),
    "an import that nothing uses": (
        [files(target("shop/total.py", TOTAL, head="from shop.prices import tax\n"))],
        {"unused-import": 1},
    ),
    "one target in a hundred tokens": (
        [files(shown("shop/prices.py", PRICES * 9), target("shop/total.py", "tax\n"))],
        {"few-targets": 1},
    ),
    "three in a hundred, of a question": (
        [asked(WHERE, snippet=("<|SNIPPET_0|> shop/prices.py\n" + PRICES * 9, 0.1))],
        {"few-targets": 1},
    ),
    "asked twice": ([asked(WHERE), asked(WHERE)], {"repeated-question": 1}),
    "a name of tests": (
        [
            asked(
                (WHERE[0], "tests/test_tax.py, in <|SNIPPET_0|>"),
                snippet=("<|SNIPPET_0|> tests/test_tax.py\ndef tax():\n    pass\n", 0.1),
            )
        ],
        {"odd-subject": 1},
    ),
    "a nested name": (
        [
            asked(
                WHERE,
                snippet=(
                    "<|SNIPPET_0|> shop/prices.py\ndef till():\n    if 1:\n        def tax():\n            pass\n",
                    0.1,
                ),
            )
        ],
        {"odd-subject": 1},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_once_and_shown(name: str, lint) -> None:
    rows, expected = FAULTS[name]
    found = lint(*rows)
    assert dict(+found.found) == expected, found.examples
    assert found.rows == len(rows)
    for rule in expected:
        assert found.checked[rule] >= found.found[rule] and found.examples[rule][0].shows


NEIGHBOURS: dict[str, list[Row]] = {
    "a file in two pieces, of which the last is marked": [
        files(target("shop/total.py", TOTAL[:60], end=0.0)), files(target("shop/total.py", TOTAL[60:])), CLEAN,
    ],
    "a cut piece of context ends at nothing": [
        files(target("shop/prices.py", PRICES)), files(shown("shop/prices.py", PRICES[:30], 0), target(
            "shop/total.py", TOTAL)),
    ],
    "another file with another end": [CLEAN, files(target("shop/prices.py", PRICES))],
    "a hunk's head that names the enclosing line": [changes(STATE, change(HUNK.replace(" @@\n", " @@ class Shop\n")))],
    "whole hunks": [changes(STATE, change(HUNK + "@@ -9,2 +9,1 @@\n     return 1\n-\n"))],
    "a message of several paragraphs": [changes(STATE, change(HUNK, "Round up\n\n- never down\n+ ever\n"))],
    "a gap with three texts, in both orders": [
        files(gap("def total(", "):\n", "items")), files(gap("", "):\n", "def total(items")),
    ],
    "context named by its path": [files(shown("shop/shop.py", "one = 1\n"), target("shop/total.py", TOTAL))],
    "a head with what encloses the piece": [
        files(target("shop/total.py", "    }\n    total(tax);\n  }\n}\n", head=(
            "import shop.tax;\nclass Shop {\n  void close() {\n    if (open) {\n"))),
    ],
    "two questions in one sequence": [
        asked(WHERE, ("What is the signature of price_of?", "def price_of(item), in <|SNIPPET_0|>")),
    ],
    "a method isn't nested": [
        asked(WHERE, snippet=("<|SNIPPET_0|> shop/prices.py\nclass Till:\n    def tax(self):\n        pass\n", 0.1)),
    ],
    "context that only the file before a change uses": [
        changes(shown("shop/till.py", "def open_till():\n    pass\n"), shown(
            "shop/prices.py", PRICES + "open_till()\n"), change(HUNK)),
    ],
    "a changelog that the answer names": [
        asked(("Which files did commit abcdef01 change?", "CHANGES.rst"), snippet=(
            "<|SNIPPET_0|> CHANGES.rst\nOne more.\n", 0.1)),
    ],
    "which tests call something": [
        asked(("Which test file calls the function tax?", "tests/test_tax.py, in <|SNIPPET_0|>"), snippet=(
            "<|SNIPPET_0|> tests/test_tax.py\ndef test_tax():\n    tax()\n", 0.1)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_is_nearly_a_fault_passes(name: str, lint) -> None:
    found = lint(*NEIGHBOURS[name])
    assert not +found.found, found.examples


def test_every_rule_has_a_fault_that_it_finds() -> None:
    assert {rule for _, expected in FAULTS.values() for rule in expected} == set(LINT_RULES)


def test_an_everyday_word_is_no_use(lint) -> None:
    """What most files hold says nothing about what belongs together."""
    rows = [files(target(f"shop/{name}.py", f"{name}_one = common\n")) for name in ("first", "second", "third")]
    till = files(shown("shop/till.py", "common\n"), target("shop/total.py", "common = items\n"))
    assert lint(*rows, till, till).found["unused-context"] == 2
    found = lint(*rows[:2], till, till)
    assert found.found["unused-context"] == found.unrelated == 0


def test_a_file_of_no_use_is_a_finding_only_beyond_the_hard_negatives(lint) -> None:
    """A tenth of the sequences of files and a standard deviation: 2 of 4 are too many, 1 of 6 isn't."""
    stranger = files(shown("shop/till.py", "def open_till():\n    pass\n"), CLEAN[1])
    found = lint(stranger, stranger, CLEAN, CLEAN)
    assert found.found["unused-context"] == 2 and found.unrelated == 0
    found = lint(stranger, *[CLEAN] * 5)
    assert not +found.found and found.unrelated == 1
    two = files(shown("shop/till.py", "open_till = 1\n"), shown("shop/door.py", "ajar = 1\n"), CLEAN[1])
    found = lint(two, *[CLEAN] * 5)
    assert found.found["unused-context"] == 2 and found.unrelated == 0


def test_a_word_in_many_pieces_of_one_file_is_no_everyday_word(lint) -> None:
    pieces = [files(target("shop/total.py", f"price_of({number})\n", end=0.0)) for number in range(9)]
    assert not +lint(*pieces, CLEAN).found


def test_a_prepared_repository_keeps_to_the_rules(long_history: Path, tmp_path: Path) -> None:
    settings = load_settings(None, ["data.question_share=0.1", "data.commit_share=0.2", "data.held_out_per_length=2"])
    tokenizer = load_tokenizer("embedded")
    made = prepared(long_history, tokenizer, settings, phases=2)
    write_prepared(tmp_path / "out", made.prepared)
    file = read_sequences(tmp_path / "out")
    report = lint_sequences(file, tokenizer, range(len(file)))
    # So small a repository fills the shortest sequences of phase 2 with any files.
    assert {rule: report.examples[rule] for rule in LINT_RULES if report.found[rule] and rule != "unused-context"} == {}
    assert [rule for rule in LINT_RULES if not report.checked[rule]] == []
