"""Phases: touching caps, 1-based epochs, and the guide's scheduler class."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longrepo.config.loader import load_settings
from longrepo.config.schema import ContextSettings, Settings
from longrepo.curriculum.schedule import LongContextPhaseScheduler, Schedule, make_schedule
from longrepo.data.sequence import LongContextSequence
from longrepo.errors import InputError

ALL = {"long_context": {"phase3_enabled": True}}


def test_the_guides_epochs_belong_to_the_guides_phases() -> None:
    scheduler = LongContextPhaseScheduler(ALL)
    assert [scheduler.get_phase_at_epoch(e).number for e in (1, 5, 6, 13, 14, 21)] == [1, 1, 2, 2, 3, 3]
    for outside in (0, 22):
        with pytest.raises(ValueError, match="1-21"):
            scheduler.get_phase_at_epoch(outside)


@pytest.mark.parametrize("enabled, epochs", [(False, 13), ("auto", 21), (True, 21)])
def test_phase_3_is_there_when_true_or_auto(enabled: bool | str, epochs: int) -> None:
    assert LongContextPhaseScheduler({"long_context": {"phase3_enabled": enabled}}).total_epochs == epochs


@pytest.mark.parametrize("length, phase", [(1, 1), (1024, 1), (1025, 2), (1300, 2), (2048, 2), (2049, 3), (4096, 3)])
def test_every_length_up_to_the_last_cap_belongs_to_exactly_one_phase(length: int, phase: int) -> None:
    phases = make_schedule(Settings.model_validate(ALL))
    assert [p.number for p in phases if p.takes(length)] == [phase]
    assert not any(p.takes(4097) for p in phases)


def test_a_phase_without_epochs_is_passed_over() -> None:
    schedule = Schedule(make_schedule(Settings.model_validate(ALL))).with_epochs({1: 0})
    following = schedule.following(0)
    assert following is not None and following.number == 2 and schedule.at(1).number == 2


def test_difficulty_excludes_only_when_strict() -> None:
    easy = LongContextSequence([1] * 1500, [0.0] * 1500, {"curriculum_difficulty": "easy"})
    assert LongContextPhaseScheduler({}).should_include_sequence(easy, 6)
    strict = LongContextPhaseScheduler({"long_context": {"strict_difficulty": True}})
    assert not strict.should_include_sequence(easy, 6)
    assert strict.should_include_sequence(1500, 6, "medium")
    assert strict.should_include_sequence(1500, 6), "an unknown difficulty excludes nothing"
    assert not strict.should_include_sequence(500, 6, "medium"), "the length still counts"


def test_the_learning_rate_is_set_in_every_group() -> None:
    optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}, {"lr": 2.0}])
    assert LongContextPhaseScheduler(ALL).adjust_learning_rate(optimizer, 1e-4, 14) == pytest.approx(1e-5)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(1e-5)] * 2


def test_settings_come_from_a_mapping_a_file_or_settings(tmp_path: Path) -> None:
    file = tmp_path / "training_config.yaml"
    file.write_text("long_context:\n  phase1_epochs: 2\n")
    for given in (file, str(file), {"long_context": {"phase1_epochs": 2}}, load_settings(file)):
        assert LongContextPhaseScheduler(given).get_phase_at_epoch(3).number == 2
    with pytest.raises(InputError, match="phase1_epochs"):
        LongContextPhaseScheduler({"long_context": {"phase1_epochs": -1}})
    with pytest.raises(InputError, match="phase2_max_length"):
        LongContextPhaseScheduler({"long_context": {"phase2_max_length": 1000}})


def test_the_summary_names_lengths_rate_and_counts() -> None:
    lines: list[str] = []
    LongContextPhaseScheduler({}).log_phase_summary(6, {"easy": 1, "hard": 2}, log=lines.append)
    assert "phase 2 (epochs 6-13)" in lines[0] and "1025-2048" in lines[0]
    assert "2.50e-05" in lines[0] and "3 sequences" in lines[0]


FIVE: dict[str, Any] = {
    "data": {"replay_share": 0.25},
    "context": {"window": 8192},
    "long_context": {
        "phase3_enabled": True,
        "further_phases": [
            {"min_length": 6144, "max_length": 8192, "epochs": 3, "enabled": "auto", "replay_share": 0.4},
            {"min_length": 12288, "max_length": 16384, "epochs": 2, "lr_multiplier": 0.05,
             "context": {"method": "yarn", "window": "full"}},
        ],
    },
}  # fmt: skip


def test_five_phases_follow_one_another() -> None:
    scheduler = LongContextPhaseScheduler(FIVE)
    assert [scheduler.get_phase_at_epoch(e).number for e in (1, 13, 14, 21, 22, 24, 25, 26)] == [1, 2, 3, 3, 4, 4, 5, 5]
    assert scheduler.total_epochs == 26
    fourth, fifth = scheduler.phases[3:]
    assert [p.number for p in scheduler.phases if p.takes(8192)] == [4] and fourth.takes(4097) and fifth.takes(8193)
    assert (fourth.gated, fifth.gated) == (True, False)
    assert (fourth.replay_share, fifth.replay_share) == (0.4, 0.25)
    assert fourth.bands == fifth.bands == ("hard", "very_hard")
    assert fourth.context == scheduler.settings.context
    assert fifth.context == ContextSettings(method="yarn", window="full", target_length=16384)
    lines: list[str] = []
    scheduler.log_phase_summary(25, log=lines.append)
    assert "phase 5 (epochs 25-26): sequences of 8193-16384 tokens, learning rate 2.50e-06" in lines[0]
    assert "positions: yarn to 16,384 tokens, window full" in lines[0]


def test_what_is_off_leaves_its_lengths_out_and_moves_no_other() -> None:
    off = FIVE["long_context"] | {"phase3_enabled": False}
    phases = make_schedule(Settings.model_validate(FIVE | {"long_context": off}))
    assert [phase.number for phase in phases] == [1, 2, 4, 5]
    assert not any(phase.takes(3000) for phase in phases) and phases[2].takes(4097)


def test_losses_compare_among_phases_at_the_same_positions() -> None:
    schedule = Schedule(make_schedule(Settings.model_validate(FIVE)))
    numbers = {n: [phase.number for phase in schedule.same_positions(n).phases] for n in range(1, 6)}
    assert numbers == {1: [1, 2, 3, 4], 2: [1, 2, 3, 4], 3: [1, 2, 3, 4], 4: [1, 2, 3, 4], 5: [1, 2, 3, 4, 5]}


def test_the_scheduler_names_what_is_wrong_in_a_further_phase() -> None:
    short = {"min_length": 1, "max_length": 2048, "epochs": 1}
    for one, expected in (
        (short, r"long_context.further_phases\[0\].max_length: must be above phase3_max_length \(4096\)"),
        ({"max_length": 8192}, r"long_context.further_phases\[0\].min_length: Field required"),
    ):
        with pytest.raises(InputError, match=expected):
            LongContextPhaseScheduler({"long_context": {"further_phases": [one]}})
