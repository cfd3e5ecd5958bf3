from __future__ import annotations

import pytest
from small_packages import module

from longrepo.repository.model import TextFile
from longrepo.sequences.difficulty import FIXED_THRESHOLDS, PARTS, Names, label, parts_of, quantile_thresholds, score_of
from longrepo.sequences.draft import Draft, Part
from longrepo.sequences.sequence import DIFFICULTIES
from longrepo.sequences.tokenizer import RepoTokenizer


def test_the_score_is_between_0_and_1_and_grows_with_each_part() -> None:
    assert score_of(dict.fromkeys(PARTS, 0.0)) == 0 and score_of(dict.fromkeys(PARTS, 1.0)) == 1
    middle = dict.fromkeys(PARTS, 0.5)
    for part in PARTS:
        assert score_of(middle | {part: 0.4}) < score_of(middle) < score_of(middle | {part: 0.6})


def test_labels_follow_the_thresholds() -> None:
    scores = [0.0, 0.3, 0.4, 0.5]
    assert tuple(label(score) for score in scores) == DIFFICULTIES
    low, middle, high = quantile_thresholds([number / 100 for number in range(100)])
    assert (low, middle, high) == (0.25, 0.5, 0.75)
    assert quantile_thresholds([0.9]) == FIXED_THRESHOLDS


def parts(tokenizer: RepoTokenizer, filler: int = 0, target: str = "total = make_total(3)\n") -> dict[str, float]:
    definition = "def make_total(count):\n    return count\n"
    files = [TextFile("a.py", definition, "", "Python"), TextFile("b.py", target, "", "Python")]
    draft, at = Draft(tokenizer), len(definition)
    draft.parts = [
        Part("a.py", "Python", definition, 0, at, False),
        Part("b.py", "Python", target, at + filler, at + filler + len(target), True),
    ]
    return parts_of(draft, Names(defined_in=Names.of(files).defined_in))


def test_a_definition_further_away_is_harder(tokenizer: RepoTokenizer) -> None:
    near, far = parts(tokenizer), parts(tokenizer, filler=2000)
    assert 0 < near["distance"] < far["distance"] < 1
    assert near["references"] == pytest.approx(1 / 3, abs=1e-4)


def test_unseen_names_and_nesting_are_harder(tokenizer: RepoTokenizer) -> None:
    plain = parts(tokenizer)
    assert parts(tokenizer, target="novel = strange(unheard)\n")["unseen"] > plain["unseen"]
    nested = "def outer():\n    for x in y:\n        if x:\n            while x:\n                make_total(x)\n"
    assert parts(tokenizer, target=nested)["nesting"] > plain["nesting"]


def test_what_the_whole_repository_uses_is_not_unseen() -> None:
    files = [TextFile(f"{n}.py", module(f"name{n}", None, 1), "", "Python") for n in range(5)]
    names = Names.of(files)
    assert {"def", "return", "scale", "annotations"} <= names.common
    assert "name1_step_0" not in names.common and names.defined_in["name1_step_0"] == ("1.py",)
