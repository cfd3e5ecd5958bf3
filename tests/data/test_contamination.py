from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_packages import module
from tokenizers import Tokenizer

from longrepo.config.schema import DataSettings
from longrepo.data.builder import LongContextSequenceBuilder, Version
from longrepo.data.contamination import LeakCheck, check_leaks
from longrepo.data.dataset import read_sequences, write_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts
from longrepo.data.rows import SequenceRow, row_from_sequence
from longrepo.data.sequence import LongContextSequence
from longrepo.data.stored_text import StoredText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.utils.hashing import line_hash, normalize_line

Piece = str | tuple[str, float]  # text or a mark's name, and its weight (text alone: 0.1)


@pytest.fixture(scope="module")
def tokenizer() -> RepoTokenizer:
    return load_tokenizer("embedded")


def row(
    tokenizer: RepoTokenizer, split: str, *pieces: Piece, kind: str = "hierarchical", **about: object
) -> SequenceRow:
    """A row of these pieces; a mark stands as its name."""
    ids: list[int] = []
    weights: list[float] = []
    for piece in pieces:
        text, weight = piece if isinstance(piece, tuple) else (piece, 0.1)
        mark = tokenizer.structure_ids.get(text)
        some = tokenizer.encode(text) if mark is None else [mark]
        ids += some
        weights += [weight] * len(some)
    given = {"difficulty": "easy", "difficulty_score": 0.0, "difficulty_parts": {}, "language": "Python"}
    given |= {"files": ["a.py"], "commits": [], "repository": "shop", **about}
    return SequenceRow(np.array(ids, np.int32), np.array(weights, np.float32), kind=kind, split=split, **given)


@pytest.fixture
def check(tokenizer: RepoTokenizer, tmp_path: Path):
    facts = RepositoryFacts("shop", "h", held_out_files={"test": ["held.py"]})

    def run(*rows: SequenceRow, by: RepoTokenizer = tokenizer) -> LeakCheck:
        write_sequences(tmp_path / "out", rows, Header(TokenizerFacts.of(by), [facts]))
        return check_leaks(read_sequences(tmp_path / "out"), by)

    return run


HELD = ("old = 1\n", ("def price(amount):\n    return amount * 3\n", 1.0), "later = 2\n")


def held(tokenizer: RepoTokenizer, split: str = "test", **about: object) -> SequenceRow:
    return row(tokenizer, split, *((piece, 0.0) if isinstance(piece, str) else piece for piece in HELD), **about)


def test_lines_are_the_same_without_white_space_and_short_ones_never_count() -> None:
    assert normalize_line("\t if  a ==\u00a0b:\r") == "ifa==b:"
    assert line_hash("  return 12") == line_hash("return  12\r") != line_hash("return 13")
    assert line_hash("  }  ") == line_hash("") == line_hash("a b c") == 0
    assert line_hash("a b cd") != 0 and 0 < line_hash("x" * 99) < 2**64


def test_lines_that_training_does_not_hold_are_no_leak(check, tokenizer: RepoTokenizer) -> None:
    found = check(row(tokenizer, "train", "old = 1\nlater = 2\ndef prices(amount):\n"), held(tokenizer))
    assert found.leaks == [] and found.scored_lines == 2
    assert (found.training_rows, found.held_out_rows) == (1, {"test": 1})
    assert found.training_lines == 3


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_a_scored_line_in_any_training_row_is_a_leak(check, tokenizer: RepoTokenizer, weight: float) -> None:
    trained = row(tokenizer, "train", "<|FILE_START|>", " a.py\nif x:\n", ("\t\treturn  amount*3 \n", weight))
    (leak,) = check(row(tokenizer, "train", "nothing = 1\n"), trained, held(tokenizer)).leaks
    assert (leak.kind, leak.split, leak.row, leak.found_in, leak.line) == ("line", "test", 2, 1, 3)
    assert leak.shows == "return amount * 3"


def test_a_line_scored_in_part_or_not_at_all_is_no_leak(check, tokenizer: RepoTokenizer) -> None:
    trained = row(tokenizer, "train", "old = 1\nprice = tax + vat\n}\n")
    partly = row(tokenizer, "validation", ("old = 1\nprice =", 0.0), (" tax + vat\n}\n", 1.0))
    found = check(trained, partly)
    assert found.leaks == [] and found.scored_lines == 0


def test_a_line_of_characters_that_are_several_tokens_is_whole(check, tokenizer: RepoTokenizer) -> None:
    text = "naïve = '价格 € 𝄞'\n"
    found = check(
        row(tokenizer, "train", text), row(tokenizer, "test", ("x = 1\n", 0.0), (text, 1.0), ("y = 2\n", 0.0))
    )
    assert [leak.shows for leak in found.leaks] == [text.strip()]


@pytest.mark.parametrize("sign", ["+", "-", " ", ""])
def test_the_rows_of_hunks_are_compared_with_and_without_their_sign(check, tokenizer: RepoTokenizer, sign: str) -> None:
    hunk = ("<|COMMIT_START|>", f" abcdef12 Say so\n@@ -1,1 +1,1 @@\n{sign}def price(amount):\n", "<|COMMIT_END|>")
    (leak,) = check(row(tokenizer, "train", *hunk, kind="commit_evolution"), held(tokenizer)).leaks
    assert (leak.line, leak.shows) == (3, "def price(amount):")
    scored = row(tokenizer, "test", *((piece, 1.0) for piece in hunk), kind="commit_evolution")
    plain = row(tokenizer, "train", "def price(amount):\n")
    assert [leak.shows for leak in check(plain, scored).leaks] == [f"{sign}def price(amount):".strip()]


def test_a_list_item_in_a_file_is_not_a_removed_row(check, tokenizer: RepoTokenizer) -> None:
    state = ("<|FILE_START|>", " a.md\n- def price(amount):\n", "<|FILE_END|>", "<|COMMIT_START|>", " 1 Say\n")
    assert check(row(tokenizer, "train", *state, kind="commit_evolution"), held(tokenizer)).leaks == []


def test_marks_end_a_line_even_as_plain_text(check, tokenizer: RepoTokenizer) -> None:
    pieces = ("<|FILE_START|>", " a.py\nreturn amount * 3", "<|FILE_END|>", "<|FILE_START|>", " b.py\n")
    assert len(check(row(tokenizer, "train", *pieces), held(tokenizer)).leaks) == 1
    without = load_tokenizer("embedded", structure_tokens="none")
    assert len(check(row(without, "train", *pieces), held(without), by=without).leaks) == 1


def test_lines_cut_by_fill_in_the_middle_are_whole_again(tokenizer: RepoTokenizer) -> None:
    text = module("amber", None, 6)
    for seed in range(8):
        builder = LongContextSequenceBuilder(tokenizer, data=DataSettings(fim_share=1), seed=seed)
        built = builder.build_hierarchical_sequence([("amber.py", text)])
        assert isinstance(built, LongContextSequence)
        one = row_from_sequence(built)
        lines = list(StoredText(tokenizer).lines(one.input_ids, one.kind, one.loss_weights))
        assert [line.text for line in lines[1:]] == text.rstrip("\n").split("\n")
        assert all(line.scored for line in lines[1:] if line.text.strip())


def test_a_builder_s_commit_chain_leaks_what_it_adds(check, tokenizer: RepoTokenizer) -> None:
    before = "def one():\n    return 1\n"
    versions = [Version("a" * 40, "Say more", before + "def price(amount):\n    return amount * 3\n")]
    built = LongContextSequenceBuilder(tokenizer).build_commit_evolution_sequence("x.py", versions, before)
    assert isinstance(built, LongContextSequence)
    assert {leak.shows for leak in check(row_from_sequence(built), held(tokenizer)).leaks} == {
        "def price(amount):",
        "return amount * 3",
    }


LONG = "allowed.update([{}])\n".format(", ".join(f'"module_{word}"' for word in "abcdefghijklmnop"))
SPREAD = LONG.replace("[", "[\n    ").replace('", "', '",\n    "')


def test_a_block_laid_out_anew_is_a_near_duplicate(check, tokenizer: RepoTokenizer) -> None:
    trained = row(tokenizer, "train", LONG)
    assert not {normalize_line(line) for line in SPREAD.split("\n")} & {normalize_line(LONG)}
    (leak,) = check(trained, row(tokenizer, "test", ("x = 1\n", 0.0), (SPREAD, 1.0))).leaks
    assert (leak.kind, leak.row, leak.found_in) == ("near-duplicate", 1, 0)
    other = SPREAD.replace("module", "package_of").replace("allowed", "forbidden")
    found = check(trained, row(tokenizer, "test", ("x = 1\n", 0.0), (other, 1.0)))
    assert found.leaks == [] and found.blocks == 1


def test_what_is_not_scored_makes_no_near_duplicate(check, tokenizer: RepoTokenizer) -> None:
    shared = "".join(LONG.replace("module", word) for word in ("one", "two", "three", "four", "five", "six"))
    found = check(row(tokenizer, "train", shared), row(tokenizer, "test", (shared, 0.0), (SPREAD, 1.0)))
    assert found.leaks == [] and found.blocks == 1


def test_test_must_not_repeat_what_validation_scores(check, tokenizer: RepoTokenizer) -> None:
    validation = row(tokenizer, "validation", ("x = 1\n", 0.0), (LONG, 1.0))
    shown = row(tokenizer, "validation", ("x = 1\n" + LONG, 0.0))
    test = row(tokenizer, "test", ("y = 1\n", 0.0), (SPREAD, 1.0))
    found = check(validation, shown, test, validation, test)
    assert [(leak.kind, leak.row, leak.found_in) for leak in found.leaks] == [
        ("near-duplicate", 2, 0),
        ("near-duplicate", 4, 0),
    ]


def test_held_out_commits_and_files_must_not_be_trained_on(check, tokenizer: RepoTokenizer) -> None:
    one, other = "a" * 40, "b" * 40
    trained = row(tokenizer, "train", "x = 1\n", commits=[one, other], files=["held.py", "a.py"])
    found = check(trained, held(tokenizer, commits=[other]))
    assert [(leak.kind, leak.row, leak.found_in, leak.shows) for leak in found.leaks] == [
        ("commit", 1, 0, other),
        ("file", -1, 0, "held.py"),
    ]
    elsewhere = row(tokenizer, "train", "x = 1\n", files=["held.py"], repository="another")
    assert check(elsewhere, held(tokenizer, commits=[other])).leaks == []


def test_every_leak_of_a_line_is_counted_once(check, tokenizer: RepoTokenizer) -> None:
    trained = row(tokenizer, "train", "return amount * 3\nreturn amount * 3\n")
    found = check(trained, trained, held(tokenizer), held(tokenizer, "validation"))
    assert found.count("line") == 2 and found.rows == 2 and {leak.found_in for leak in found.leaks} == {0}


def test_a_small_vocabulary_works_as_well(check, backend: Tokenizer) -> None:
    small = RepoTokenizer(backend, "tiny")
    found = check(row(small, "train", "def price(amount):\n"), held(small), by=small)
    assert [leak.shows for leak in found.leaks] == ["def price(amount):"]
