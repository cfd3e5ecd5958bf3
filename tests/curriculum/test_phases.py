"""Phases: touching caps, 1-based epochs, and the guide's scheduler class."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.curriculum.phases import Schedule, phases_from
from longrepo.curriculum.scheduler import LongContextPhaseScheduler
from longrepo.errors import InputError
from longrepo.sequences.sequence import LongContextSequence

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
    phases = phases_from(Settings.model_validate(ALL))
    assert [p.number for p in phases if p.takes(length)] == [phase]
    assert not any(p.takes(4097) for p in phases)


def test_a_phase_without_epochs_is_passed_over() -> None:
    schedule = Schedule(phases_from(Settings.model_validate(ALL))).with_epochs({1: 0})
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
