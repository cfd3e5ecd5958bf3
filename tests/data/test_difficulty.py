from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from small_packages import module

from longrepo.data.difficulty import (
    FIXED_THRESHOLDS,
    PART_WEIGHTS,
    NameIndex,
    compute_parts,
    difficulty_label,
    quantile_thresholds,
    weighted_score,
)
from longrepo.data.sequence import DIFFICULTIES
from longrepo.data.template import SequencePart
from longrepo.data.text import TokenizedText


def test_the_score_is_between_0_and_1_and_grows_with_each_part() -> None:
    assert (
        weighted_score(dict.fromkeys(PART_WEIGHTS, 0.0)) == 0 and weighted_score(dict.fromkeys(PART_WEIGHTS, 1.0)) == 1
    )
    middle = dict.fromkeys(PART_WEIGHTS, 0.5)
    for part in PART_WEIGHTS:
        assert weighted_score(middle | {part: 0.4}) < weighted_score(middle) < weighted_score(middle | {part: 0.6})


def test_labels_follow_the_thresholds() -> None:
    scores = [0.0, 0.3, 0.4, 0.5]
    assert tuple(difficulty_label(score) for score in scores) == DIFFICULTIES
    low, middle, high = quantile_thresholds([number / 100 for number in range(100)])
    assert (low, middle, high) == (0.25, 0.5, 0.75)
    assert quantile_thresholds([0.9]) == FIXED_THRESHOLDS


Read = Callable[[str, str], TokenizedText]


def parts(read: Read, filler: int = 0, target: str = "total = make_total(3)\n") -> dict[str, float]:
    one = read("a.py", "def make_total(count):\n    return count\n")
    other = read("b.py", target)
    at = len(one) + filler
    return compute_parts(
        [[SequencePart(one, 0, len(one), 0, False), SequencePart(other, 0, len(other), at, True)]], NameIndex()
    )[0]


def test_a_definition_further_away_is_harder(read: Read) -> None:
    near, far = parts(read), parts(read, filler=2000)
    assert 0 < near["distance"] < far["distance"] < 1
    assert parts(read, filler=9000)["distance"] == 1
    assert near["references"] == pytest.approx(1 / 3, abs=1e-4)
    assert parts(read, target="total = 3\n")["references"] == 0


def test_distance_is_measured_in_tokens(read: Read) -> None:
    target = read("b.py", "make_total(3)\n")
    one = read("a.py", "def make_total(count):\n    return count\n")
    at = [place for place, name in zip(one.name_tokens, one.names, strict=True) if name in one.defines]
    (found,) = compute_parts(
        [[SequencePart(one, 0, len(one), 0, False), SequencePart(target, 0, len(target), 500, True)]], NameIndex()
    )
    assert found["distance"] == pytest.approx(math.log2(1 + 500 - at[0]) / math.log2(1 + 8192), abs=1e-4)


def test_unseen_names_and_nesting_are_harder(read: Read) -> None:
    assert parts(read)["unseen"] == 0.5  # `total` stands nowhere, `make_total` stands above
    assert parts(read, target="novel = strange(unheard)\n")["unseen"] == 1
    assert parts(read, target="make_total(make_total)\n")["unseen"] == 0
    nested = "def outer():\n    for x in y:\n        if x:\n            while x:\n                make_total(x)\n"
    assert parts(read, target=nested)["nesting"] > parts(read)["nesting"] == 0


def test_context_alone_has_no_difficulty(read: Read) -> None:
    of = read("a.py", module("amber", None, 3))
    assert compute_parts([[SequencePart(of, 0, len(of), 0, False)]], NameIndex()) == [dict.fromkeys(PART_WEIGHTS, 0.0)]


def test_what_the_whole_repository_uses_is_not_unseen(read: Read) -> None:
    names = NameIndex.of([read(f"{n}.py", module(f"name{n}", None, 1)) for n in range(5)])
    of = read("c.py", "def return_scale(annotations): return\n")
    known = dict(zip(["def", "return_scale", "annotations", "return"], of.names.tolist(), strict=True))
    assert {known["def"], known["annotations"], known["return"]} <= set(names.common.tolist())
    assert known["return_scale"] not in names.common
    target = [[SequencePart(of, 0, len(of), 0, True)]]
    assert compute_parts(target, NameIndex())[0]["unseen"] == 1 and compute_parts(target, names)[0]["unseen"] == 0.25


def test_a_name_that_many_files_define_says_nothing(read: Read) -> None:
    def distance(files: int) -> float:
        texts = [read(f"{n}.py", f"def run(): return {n}\n") for n in range(files)]
        use = read("use.py", "x = run()\n")
        both = [SequencePart(texts[0], 0, len(texts[0]), 0, False), SequencePart(use, 0, len(use), 400, True)]
        return compute_parts([both], NameIndex.of(texts))[0]["distance"]

    assert distance(3) > 0 == distance(4)
