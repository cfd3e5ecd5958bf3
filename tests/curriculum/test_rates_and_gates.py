"""Learning rates, early stopping, and the verdict that opens phase 3."""

from __future__ import annotations

from itertools import pairwise

import pytest

from longrepo.config.schema import Settings
from longrepo.curriculum.schedule import GateVerdict, judge_gate, learning_rate_at, make_schedule, should_stop_early


def test_warm_up_then_cosine_to_the_final_ratio_in_every_phase() -> None:
    settings = Settings.model_validate({"training": {"warmup_ratio": 0.2, "final_learning_rate_ratio": 0.1}})
    for phase in make_schedule(settings):
        peak = settings.training.base_learning_rate * phase.lr_multiplier
        rates = [learning_rate_at(settings.training, phase, update, 50) / peak for update in range(50)]
        assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
        assert all(one > two for one, two in pairwise(rates[9:]))
        assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("updates, ratio", [(1, 0.15), (1, 0.0), (2, 0.99)])
def test_tiny_phases_have_a_rate_too(updates: int, ratio: float) -> None:
    settings = Settings.model_validate({"training": {"warmup_ratio": ratio}})
    phase = make_schedule(settings)[0]
    for update in range(updates):
        assert 0 < learning_rate_at(settings.training, phase, update, updates) <= settings.training.base_learning_rate


def test_a_phase_follows_only_one_that_converged() -> None:
    def verdict(start: float | None, epochs: list[float], min_delta: float = 0.001) -> GateVerdict:
        return judge_gate(4, start, epochs, min_delta, 5)

    go = verdict(2.0, [1.8, 1.7, 1.71])
    assert go.go and go.reason.startswith("phase 5 follows: phase 4 brought")
    flat = verdict(2.0, [2.1, 1.9999])
    assert not flat.go and "phase 5 is left out: phase 4 brought" in flat.reason and "2.0000 only to" in flat.reason
    overfitted = verdict(2.0, [1.5, 1.6])
    assert not overfitted.go and "6.7% above its best" in overfitted.reason
    assert not verdict(None, []).go
    assert not verdict(2.0, [2.0], 0.0).go, "no fall at all is no convergence"


def test_early_stopping_waits_for_patience_and_counts_only_real_gains() -> None:
    assert not should_stop_early([2.0, 1.9, 1.9, 1.9], 3, 0.001)
    assert should_stop_early([2.0, 1.9, 1.9, 1.8995, 1.9], 3, 0.001)
    assert not should_stop_early([2.0, 1.9, 1.9, 1.89, 1.9, 1.9], 3, 0.001)
    assert not should_stop_early([1.0, 2.0, 3.0, 4.0], 0, 0.001), "0 never stops"
