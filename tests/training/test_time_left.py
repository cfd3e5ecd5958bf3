"""Progress of a whole run: the share of its tokens, and the time left by what was measured or calibrated."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from small_runs import Told, run, sequences, settings_with

from longrepo.training.plan import RunStart, TrainingPlan, make_plan
from longrepo.training.time_left import FORWARD_SHARE, ProgressEstimate


def plan(*overrides: str, epochs: int | None = None) -> TrainingPlan:
    return make_plan(RunStart("new", settings_with(*overrides), epochs=epochs), sequences(), "memory")


def trained_tokens(plan: TrainingPlan, phase: int) -> int:
    return sum(order.tokens for order in plan.phase_plan(plan.schedule, phase).orders)


def validated_tokens(plan: TrainingPlan, phase: int) -> int:
    groups = plan.validation(phase).groups.values()
    return sum(int(plan.catalog.lengths[index]) for group in groups for index in group)


def test_the_share_grows_over_all_phases_to_one(tmp_path: Path) -> None:
    told = Told()
    run(tmp_path / "run", told=told)
    shares = [progress.share for progress in told.progresses]
    assert len(shares) == len(told.updates) and shares[-1] == 1.0
    assert all(before < after for before, after in pairwise(shares))
    first = plan()
    phase_1 = trained_tokens(first, 1) / (trained_tokens(first, 1) + trained_tokens(first, 2))
    ends = [one.share for one in told.progresses if one.phase == 1]
    assert ends[-1] == pytest.approx(phase_1)
    assert (told.progresses[-1].epoch, told.progresses[-1].epochs) == (4, 4)


def test_a_resumed_run_goes_on_where_its_bar_stood(tmp_path: Path) -> None:
    whole, first, second = Told(), Told(), Told()
    run(tmp_path / "whole", told=whole)
    run(tmp_path / "run", told=first, epochs=1)
    assert first.progresses[-1].share == 1.0 and first.progresses[-1].epochs == 1, "of what was asked"
    run(tmp_path / "run", resume="auto", epochs=3, told=second)
    assert second.progresses[0].share == pytest.approx(whole.progresses[len(first.updates)].share)
    assert second.progresses[-1].share == 1.0


def test_time_is_left_by_each_phases_own_speed() -> None:
    at = plan()
    one, two = trained_tokens(at, 1), trained_tokens(at, 2)
    checks = FORWARD_SHARE * validated_tokens(at, 1), FORWARD_SHARE * validated_tokens(at, 2)
    estimate = ProgressEstimate(at, at.schedule, {})
    assert estimate.seconds_left(at.state) is None
    estimate.count(1, 100, 50.0)
    assert estimate.seconds_left(at.state) == pytest.approx(0.5 * (one + 2 * checks[0] + two + 3 * checks[1]))
    estimate.count(2, 100, 200.0)
    expected = 0.5 * (one + 2 * checks[0]) + 2.0 * (two + 3 * checks[1])
    assert estimate.seconds_left(at.state) == pytest.approx(expected)


def test_a_phase_that_has_not_run_costs_as_calibrated_in_proportion() -> None:
    at = plan()
    estimate = ProgressEstimate(at, at.schedule, {1: 1.0, 2: 3.0})
    one = trained_tokens(at, 1) + 2 * FORWARD_SHARE * validated_tokens(at, 1)
    two = trained_tokens(at, 2) + 3 * FORWARD_SHARE * validated_tokens(at, 2)
    assert estimate.seconds_left(at.state) == pytest.approx(one + 3 * two), "before anything was measured"
    estimate.count(1, 10, 20.0)
    assert estimate.seconds_left(at.state) == pytest.approx(2 * (one + 3 * two)), "twice as slow as calibrated"


@pytest.mark.parametrize("epochs", [1, 3])
def test_epochs_that_were_asked_for_are_all_that_is_left(epochs: int) -> None:
    at, whole = plan(epochs=epochs), plan()
    estimate = ProgressEstimate(at, at.schedule, {1: 1.0, 2: 1.0})
    left, all_left = estimate.seconds_left(at.state), ProgressEstimate(whole, whole.schedule, {1: 1.0, 2: 1.0})
    full = all_left.seconds_left(whole.state)
    assert left is not None and full is not None and 0 < left < full
