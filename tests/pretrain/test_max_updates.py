"""`training.max_updates`: a phase of so many updates, in as many passes as that takes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from small_runs import Told, run, weights_of


def test_each_phase_ends_after_so_many_updates_and_its_rate_decays_over_them(tmp_path: Path) -> None:
    """12 sequences of phase 1 are 6 updates an epoch of two: 8 updates are one pass and a third of another."""
    told = Told()
    of = ("training.max_updates=8", "long_context.phase1_epochs=9", "long_context.phase2_epochs=0")
    outcome = run(tmp_path / "run", *of, told=told)
    assert outcome.exit_status == 0 and outcome.state.update == 8
    assert [one.epoch for one in told.updates] == [1] * 6 + [2] * 2
    rates = [one.learning_rate for one in told.updates]
    assert rates[-1] < 0.11 * max(rates) and told.phases[0].updates == 8
    last = told.epochs[-1]
    assert last.sequences == 4 and sum(last.by_difficulty.values()) == 4
    assert last.left_out["update limit"] == 8
    stopped = run(tmp_path / "other", *of, told=StopAt())
    assert stopped.exit_status == 130
    run(tmp_path / "other", *of, resume="auto")
    assert weights_of(tmp_path / "other") == weights_of(tmp_path / "run")


def test_a_limit_beyond_the_epochs_changes_nothing(tmp_path: Path) -> None:
    told, plain = Told(), Told()
    run(tmp_path / "one", "training.max_updates=999", told=told)
    run(tmp_path / "other", told=plain)
    assert [one.loss for one in told.updates] == [one.loss for one in plain.updates]


class StopAt(Told):
    """Ctrl-C in the second pass."""

    def update(self, record: object) -> None:

        super().update(record)  # type: ignore[arg-type]
        if len(self.updates) == 7:
            os.kill(os.getpid(), signal.SIGINT)
