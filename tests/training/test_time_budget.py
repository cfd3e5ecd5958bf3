"""A time budget only takes epochs away, all phases alike, and its choice stays with the run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from small_runs import Told, run

from longrepo.errors import InputError, RunError
from longrepo.training.artifact import find_artifact
from longrepo.training.time_left import EpochCost, gain_ahead, scale_epochs, tokens_within

EPOCHS = {1: 5, 2: 8, 3: 8}


@pytest.mark.parametrize("budget", [10_000, 900, 700, 500, 300, 150, 71, 70])
def test_the_choice_fits_and_keeps_every_phase(budget: float) -> None:
    seconds = {1: 10.0, 2: 20.0, 3: 40.0}
    chosen, sentence = scale_epochs(EPOCHS, seconds, budget)
    assert all(1 <= chosen[number] <= EPOCHS[number] for number in EPOCHS)
    assert sum(chosen[number] * seconds[number] for number in EPOCHS) <= budget
    assert chosen == EPOCHS if budget >= 530 else "shortened" in sentence


def test_phases_shrink_alike_and_what_still_fits_is_given_back() -> None:
    chosen, _ = scale_epochs(EPOCHS, {1: 10.0, 2: 10.0, 3: 10.0}, 110)
    assert sum(chosen.values()) == 11 and chosen[2] == chosen[3] == 4 and chosen[1] == 3


def test_one_that_does_not_even_fit_once_is_said() -> None:
    chosen, sentence = scale_epochs(EPOCHS, {1: 10.0, 2: 20.0, 3: 40.0}, 60)
    assert chosen == {1: 1, 2: 1, 3: 1} and "one shorter epoch each" in sentence


@pytest.mark.parametrize(
    ("budget", "most"),
    [(40.0, 9), (41.0, 10), (46.0, 13), (66.0, 26), (100.0, 88), (500.0, 100), (16.0, 0), (6.0, -4)],
)
def test_epochs_are_as_long_as_the_budget_allows(budget: float, most: int) -> None:
    # Validations take 16 s. Phase 1 has 10 tokens at 1 s, phase 2 has 100 at 0.5 s, phase 3 has 30 at 1 s.
    costs = [EpochCost(10, 1.0, 4.0), EpochCost(100, 0.5, 4.0), EpochCost(30, 1.0, 8.0)]
    found = tokens_within(costs, budget)
    taken = 16 + sum(min(max(found, 0), cost.tokens) * cost.per_token for cost in costs)
    assert taken <= max(budget, 16)
    one_more = 16 + sum(min(max(found, 0) + 1, cost.tokens) * cost.per_token for cost in costs)
    assert one_more > budget or found >= 100
    assert found == most


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_a_geometric_curve_is_continued_exactly(ratio: float) -> None:
    curve = [2.0 + 0.4 * ratio**n for n in range(9)]
    assert gain_ahead(curve[:4], 5) == pytest.approx(curve[3] - curve[8])
    assert 0 < gain_ahead(curve[:4], 0.5) < gain_ahead(curve[:4], 1) == pytest.approx(curve[3] - curve[4])


def test_a_curve_that_rose_promises_nothing_and_one_that_speeds_up_no_miracle() -> None:
    assert gain_ahead([3.0, 2.0, 2.1], 4) == 0.0
    assert gain_ahead([3.0, 2.0, 2.0], 4) == 0.0
    assert gain_ahead([3.0, 2.9, 2.5], 1) == pytest.approx(0.4 * 0.9)
    assert gain_ahead([3.0, 3.1, 2.9], 1) == pytest.approx(0.1 * 0.9)
    assert gain_ahead([2.41, 2.31, 2.48, 2.42, 2.33], 4) == 0.0, "a rise that is made up for"


def test_a_short_budget_shortens_the_run_and_holds_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FakeEngine):
        def accumulate(self, batch, normalizer, key):  # type: ignore[no-untyped-def]
            time.sleep(0.004)
            return super().accumulate(batch, normalizer, key)

    # An epoch is 12 micro-batches of 4 ms in phase 1 and about 8 in phase 2, and validation: the 8 epochs take 0.5 s.
    budget = ("long_context.phase1_epochs=4", "long_context.phase2_epochs=4", "training.time_budget_hours=0.00007")
    told = Told()
    engine = Slow()
    outcome = run(tmp_path / "run", *budget, told=told, engine=engine, epochs=1)
    chosen = outcome.state.schedule
    assert outcome.state.schedule_from == "time budget"
    assert any("needs about" in note or "shortened" in note for note in told.notes)
    again = run(tmp_path / "run", *budget[:2], "training.time_budget_hours=9", resume="auto", epochs=1, told=told)
    assert again.state.schedule == chosen
    assert any("chose the epochs at the start" in note for note in told.notes)


class Timed(FakeEngine):
    """Takes 40 µs a token."""

    def accumulate(self, batch, normalizer, key):  # type: ignore[no-untyped-def]
        time.sleep(4e-5 * int(batch.lengths.sum()))
        return super().accumulate(batch, normalizer, key)


def test_epochs_that_are_too_long_are_shortened_and_stay_so_on_resume(tmp_path: Path) -> None:
    told = Told()
    short = "training.time_budget_hours=0.000003"  # 11 ms: less than one epoch of phase 1, which takes 24
    began = run(tmp_path / "run", short, told=told, engine=Timed(), epochs=1)
    most = began.state.max_tokens_per_epoch
    assert most is not None
    assert any("one shorter epoch each, of " in note for note in told.notes)
    assert told.epochs[0].tokens <= max(most, 60)
    again = run(tmp_path / "run", short, resume="auto", told=told, engine=Timed())
    assert again.state.max_tokens_per_epoch == most and again.state.finished
    assert all(record.tokens <= max(most, 128) * 1.5 for record in told.epochs)


def test_what_another_hour_brings_is_said_only_where_two_epochs_tell(tmp_path: Path) -> None:
    told = Told()
    run(tmp_path / "two", told=told)
    (line,) = [note for note in told.notes if note.startswith("another ")]
    assert "(about 2.0 more epochs of phase 2)" in line and "another hour" not in line, "no more than it had"
    once = Told()
    run(tmp_path / "one", *(f"long_context.phase{number}_epochs=1" for number in (1, 2, 3)), told=once)
    assert not any(note.startswith("another ") for note in once.notes)


def test_a_run_stopped_in_its_first_epoch_is_usable(tmp_path: Path) -> None:
    """The last checkpoint is taken, but not the one before the first update: it is the base itself."""

    class Stops(FakeEngine):
        def accumulate(self, batch, normalizer, key):  # type: ignore[no-untyped-def]
            if self.updates == 2:
                raise RunError("stopped")
            return super().accumulate(batch, normalizer, key)

        updates = 0

        def apply_update(self, rate, norm):  # type: ignore[no-untyped-def]
            self.updates += 1
            return super().apply_update(rate, norm)

    with pytest.raises(RunError, match="stopped"):
        run(tmp_path / "run", engine=Stops())
    found = find_artifact(tmp_path / "run")
    assert found.adapter.parent.resolve().name == "step-00000002"
    assert found.notes == ("no epoch of the run is finished: its last checkpoint is taken, after 2 updates",)
    (tmp_path / "run" / "last").unlink()
    (tmp_path / "run" / "last").symlink_to(tmp_path / "run" / "checkpoints" / "step-00000000")
    with pytest.raises(InputError, match="nothing was trained"):
        find_artifact(tmp_path / "run")
