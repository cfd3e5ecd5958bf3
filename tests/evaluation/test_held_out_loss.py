"""Base against tuned: the same tokens under both, and an interval that knows what is independent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated import TwoLosses

from longrepo.errors import InputError
from longrepo.evaluation.aggregation import make_figures
from longrepo.evaluation.completion import similarity
from longrepo.evaluation.held_out_loss import make_comparisons, prepared_measurements
from longrepo.evaluation.results import (
    AgainstAdapter,
    Comparison,
    Evaluation,
    Example,
    read_evaluation,
    write_evaluation,
)
from longrepo.evaluation.scoring import MeasurementRow, mean_interval, paired_intervals
from longrepo.reports.evaluation import comparison_verdict


class Rows:
    def __init__(self, rows: list[tuple[int, float, str, str]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        place = {"split": 2, "commits": 3, "files": 3}[name]
        return [[row[place]] if place == 3 else row[place] for row in self.rows]

    def tokens(self, index: int) -> list[int]:
        return [1] * self.rows[index][0]

    def weights(self, index: int) -> list[float]:
        length, weight = self.rows[index][:2]
        return [0.1] * (length - 4) + [weight] * 4


def test_only_target_tokens_of_the_split_count_each_in_its_length() -> None:
    rows = Rows(
        [(10, 1.0, "test", "a"), (16, 1.0, "test", "b"), (17, 1.0, "test", "b"), (9, 1.0, "train", "c"),
         (40, 1.0, "test", "d"), (12, 0.1, "test", "e")]
    )  # fmt: skip
    measurements = list(prepared_measurements(rows, [16, 32]))
    short, long = make_comparisons(row for one in measurements for row in one.run(TwoLosses()).rows)
    assert (short.cap, short.sequences, short.targets, short.groups, short.longest) == (16, 2, 8, 2, 16)
    assert (short.base, short.tuned, short.difference) == (2.0, 1.5, -0.5)
    assert (long.cap, long.sequences, long.targets) == (32, 1, 4)
    assert len(measurements) == 4  # the one of 40 tokens is beyond every range


def test_pieces_of_one_commit_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(0)
    of_commit = np.repeat(rng.normal(-0.1, 1.0, 10), 20)
    values = (of_commit + rng.normal(0, 0.1, 200)).tolist()
    ones = [1.0] * 200
    low, high = mean_interval(values, ones, [str(i // 20) for i in range(200)])
    naive_low, naive_high = mean_interval(values, ones, [str(i) for i in range(200)])
    assert high - low > 2 * (naive_high - naive_low)
    assert low < np.mean(values) < high


def test_the_interval_is_deterministic_and_weighs_by_tokens() -> None:
    sums, counts, groups = [10.0, 1.0, 4.0], [10.0, 2.0, 2.0], ["a", "b", "c"]
    assert mean_interval(sums, counts, groups) == mean_interval(sums, counts, groups)
    low, high = mean_interval(sums, counts, groups)
    assert 0.5 <= low <= 15 / 14 <= high <= 2.0
    assert mean_interval([3.0], [2.0], ["only"]) == (1.5, 1.5)


def test_paired_differences_are_narrower_than_the_means(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(3.0, 1.0, 40)
    tuned = base - 0.2 + rng.normal(0, 0.02, 40)
    groups, ones = [str(number) for number in range(40)], [1.0] * 40
    first, second, difference = paired_intervals([base.tolist(), tuned.tolist()], ones, groups)
    assert difference.high < 0 and difference.value == pytest.approx(second.value - first.value)
    assert difference.high - difference.low < 0.1 * (first.high - first.low)
    logs = paired_intervals([base.tolist(), tuned.tolist()], ones, groups, transform=np.exp)
    assert logs[0] == pytest.approx(np.exp(first)) and logs[2].value == pytest.approx(logs[1].value - logs[0].value)


def row(cap: int, difference: float, low: float, high: float) -> Comparison:
    return Comparison(cap, cap, 8, 100, 8, 2.0, 2.0 + difference, difference, low, high)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(1024, -0.2, -0.3, -0.1), row(2048, -0.1, -0.2, -0.05)], "below base at every length."),
        ([row(1024, -0.2, -0.3, -0.1), row(2048, -0.1, -0.2, 0.1)], "beyond chance at 1 of 2"),
        ([row(1024, -0.2, -0.3, 0.1)], "too few independent commits"),
        ([row(1024, -0.2, -0.3, -0.1), row(2048, 0.1, -0.2, 0.3)], "NOT below base up to 2,048 tokens: more data"),
        ([row(1024, 0.3, 0.1, 0.5), row(2048, 0.1, -0.2, 0.3)], "up to 1,024, 2,048 tokens: a lower learning rate"),
        ([], "no held-out sequence"),
    ],
)
def test_the_verdict_says_what_the_figures_say(rows: list[Comparison], expected: str) -> None:
    assert expected in comparison_verdict(rows)


@pytest.mark.parametrize(
    ("wanted", "written", "expected"),
    [
        ("total = price * count", "total = price * count", (1, 1, 1)),
        ("total = price", "total = cost", (0, 0.62, 0.5)),
        ("}", "", (0, 0, 1)),
        ("a", "b b", (0, 0, 0)),
    ],
)
def test_how_near_a_completion_is(wanted: str, written: str, expected: tuple[float, ...]) -> None:
    assert tuple(similarity(wanted, written).values()) == pytest.approx(expected, abs=0.01)


def test_a_whole_evaluation_reads_back_and_another_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.json"
    found = MeasurementRow("line", "loss", {"class": "in_file", "context": "none", "length": 512}, "a", 4, 8.0, 6.0)
    example = Example("completion", {"task": "line"}, "a.py", "", "x", "y", "", "", "y", {"exact": 0.0}, {"exact": 1.0})
    figures = make_figures([found], 1)
    against = [AgainstAdapter("runs/other", "ab" * 32, figures)]
    whole = Evaluation({"seed": 1}, [row(512, -0.2, -0.3, -0.1)], figures, [example], ["a note"], against)
    write_evaluation(file, whole)
    assert read_evaluation(file) == whole
    assert whole.find("line", length=512)[0].base.value == 2.0 and not whole.find("line", length=1024)
    content = json.loads(file.read_text())
    del content["against"]  # as it was written before there was any
    file.write_text(json.dumps(content))
    assert read_evaluation(file).against == [] and read_evaluation(file).figures == figures
    file.write_text(file.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(InputError, match="run longrepo evaluate again"):
        read_evaluation(file)
