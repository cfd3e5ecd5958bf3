"""A time budget only takes epochs away, all phases alike, and its choice stays with the run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from small_runs import Told, run

from longrepo.training.time_left import scale_epochs

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
    assert chosen == {1: 1, 2: 1, 3: 1} and "max_tokens_per_epoch" in sentence


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
