"""What the pipeline decides, and that it never overrules a person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from longrepo.config.loader import load_settings
from longrepo.config.schema import PhaseConfig
from longrepo.engines.base import StepMethod
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.estimate import StepMemory
from longrepo.memory.planner import StepEstimate
from longrepo.pipeline import (
    PipelineStage,
    SettingChooser,
    choose_amounts,
    choose_lengths,
    default_base_line,
    latest_choices,
)

BEST = ["JetBrains/Mellum-4b-base", "ByteDance-Seed/Seed-Coder-8B-Base", "Qwen/Qwen2.5-Coder-0.5B"]


def budget(gib: float) -> Budget:
    return Budget(int(gib * GIB), "what macOS recommends for the GPU", limit=False)


@dataclass
class Needs:
    """A planner of a base of `reach` positions whose steps need so much, of which `room` GiB are there."""

    gib_per_1024_tokens: float
    room: float
    native: int = 16384

    def reach(self, phase: PhaseConfig) -> int:
        return self.native if phase.context is None else phase.max_length

    def first(self, phase: PhaseConfig) -> StepEstimate | None:
        need = int(self.gib_per_1024_tokens * phase.max_length / 1024 * GIB)
        planned = StepEstimate(
            StepMethod("chunked", 256), phase.max_length, lambda *_: StepMemory(0, 0, 0, 0, 0, need, 0)
        )
        return planned if planned.peak <= self.room * GIB else None


def test_phase_3_is_taken_where_some_method_fits() -> None:
    small, large = SettingChooser(load_settings(None)), SettingChooser(load_settings(None))
    choose_lengths(small, budget(5.33), Needs(1.5, 5.33))
    choose_lengths(large, budget(10.7), Needs(1.5, 10.7))
    assert small.settings.long_context.phase3_enabled is False
    assert "GiB" in small.choices[-1].reason
    assert large.settings.long_context.phase3_enabled is True
    assert "6.0 GiB of 10.7 GiB" in large.choices[-1].reason and "chunks of 256" in large.choices[-1].reason


def test_a_budget_too_small_for_phase_2_leaves_phase_1() -> None:
    chooser = SettingChooser(load_settings(None))
    choose_lengths(chooser, budget(2.9), Needs(1.5, 2.9))
    assert chooser.settings.long_context.phase2_epochs == 0


def test_a_length_that_was_asked_for_bounds_the_phases() -> None:
    chooser = SettingChooser(load_settings(None, ["model.max_position_embeddings=2048"]))
    choose_lengths(chooser, budget(80), Needs(1.5, 80))
    assert chooser.settings.long_context.phase3_enabled is False
    assert chooser.settings.long_context.phase2_epochs == 8
    shorter = SettingChooser(load_settings(None, ["model.max_position_embeddings=1024"]))
    choose_lengths(shorter, budget(80), Needs(1.5, 80))
    assert shorter.settings.long_context.phase2_epochs == 0


HOURS = "training.time_budget_hours"
FURTHER = "long_context.further_phases"
EIGHT = "{min_length: 6144, max_length: 8192, epochs: 2}"


def test_a_further_phase_that_does_not_fit_is_left_out_with_the_reason() -> None:
    far = "{min_length: 16384, max_length: 32768, epochs: 1, context: {method: linear, window: full}}"
    chooser = SettingChooser(load_settings(None, [f"{FURTHER}=[{EIGHT}, {far}]"]))
    choose_lengths(chooser, budget(13), Needs(1.5, 13))
    choose_amounts(chooser, {1: 100, 2: 100, 3: 100, 4: 100})
    assert [one.enabled for one in chooser.settings.long_context.further_phases] == [True, False]
    assert chooser.settings.long_context.further_phases[0].epochs == 2  # a person's, not derived
    reasons = {key: reason for key, _, reason in latest_choices(chooser.choices)}
    assert "12.0 GiB of 13.0 GiB" in reasons[f"{FURTHER}[0].enabled"]
    assert "no way to compute a step fits 13.0 GiB" in reasons[f"{FURTHER}[1].enabled"]


def test_a_further_phase_beyond_the_positions_or_without_data_is_left_out() -> None:
    chooser = SettingChooser(load_settings(None, [f"{FURTHER}=[{EIGHT}]"]))
    choose_lengths(chooser, budget(80), Needs(1.5, 80, native=4096))
    assert chooser.settings.long_context.further_phases[0].enabled is False
    assert chooser.choices[-1].reason == "the base was trained to 4,096 positions"
    chooser = SettingChooser(load_settings(None, [f"{FURTHER}=[{EIGHT}]"]))
    choose_amounts(chooser, {1: 100, 2: 100, 4: 3})
    assert chooser.settings.long_context.further_phases[0].enabled is False
    assert "3 training sequences in phase 4" in chooser.choices[-1].reason


def test_a_further_phase_that_was_turned_on_by_hand_stands() -> None:
    chooser = SettingChooser(load_settings(None, [f"{FURTHER}=[{EIGHT.replace('}', ', enabled: true}')}]"]))
    choose_lengths(chooser, budget(1), Needs(1.5, 1))
    assert chooser.settings.long_context.further_phases[0].enabled is True
    assert (chooser.choices[-1].key, chooser.choices[-1].reason) == (f"{FURTHER}[0].enabled", "as you set it")


def test_what_a_person_set_stands_and_is_shown() -> None:
    chooser = SettingChooser(
        load_settings(None, ["long_context.phase3_enabled=true", "training.gradient_accumulation_steps=3"])
    )
    choose_lengths(chooser, budget(1), Needs(1.5, 1))
    choose_amounts(chooser, {1: 100, 2: 100, 3: 100})
    assert chooser.settings.long_context.phase3_enabled is True
    assert chooser.settings.training.gradient_accumulation_steps == 3
    reasons = {key: reason for key, _, reason in latest_choices(chooser.choices)}
    assert reasons["long_context.phase3_enabled"] == reasons["training.gradient_accumulation_steps"] == "as you set it"


def test_small_data_gets_smaller_windows_and_phases_without_data_are_left_out() -> None:
    chooser = SettingChooser(load_settings(None))
    choose_lengths(chooser, budget(20), Needs(1.5, 20))
    choose_amounts(chooser, {1: 40, 2: 20, 3: 3})
    assert chooser.settings.training.gradient_accumulation_steps == 2  # 20 sequences / 8 updates
    assert chooser.settings.long_context.phase3_enabled is False
    assert (chooser.settings.long_context.phase1_epochs, chooser.settings.long_context.phase2_epochs) == (5, 8)


def test_an_evening_is_planned_unless_hours_are_given() -> None:
    evening, week = SettingChooser(load_settings(None)), SettingChooser(load_settings(None, [f"{HOURS}=50"]))
    for chooser in (evening, week):
        choose_amounts(chooser, {1: 40, 2: 20})
    assert evening.settings.training.time_budget_hours == 3.0
    assert week.settings.training.time_budget_hours == 50
    reasons = {key: reason for key, _, reason in latest_choices(week.choices)}
    assert reasons[HOURS] == "as you set it"


def test_large_data_gets_fewer_epochs() -> None:
    chooser = SettingChooser(load_settings(None))
    choose_amounts(chooser, {1: 5000, 2: 900})
    assert chooser.settings.training.gradient_accumulation_steps == 16
    assert (chooser.settings.long_context.phase1_epochs, chooser.settings.long_context.phase2_epochs) == (2, 2)


def test_nothing_at_all_leaves_every_phase_out() -> None:
    chooser = SettingChooser(load_settings(None))
    choose_amounts(chooser, {})
    assert chooser.settings.long_context.phase1_epochs == chooser.settings.long_context.phase2_epochs == 0


def test_a_stage_is_done_for_its_inputs_alone(tmp_path: Path) -> None:
    stage = PipelineStage(tmp_path, "sequences", {"commit": "a"})
    assert not stage.done
    stage.finish(rows=3)
    assert PipelineStage(tmp_path, "sequences", {"commit": "a"}).done
    other = PipelineStage(tmp_path, "sequences", {"commit": "b"})
    assert not other.done and other.folder != stage.folder
    (stage.folder / "stage.json").write_text('{"cut": ')
    assert not stage.done


def test_the_default_base_names_the_one_that_fits_best() -> None:
    """On 5.33 GiB of a Mac, on a GPU of 24 GB, and on a CPU."""
    default, lines = "bigcode/starcoder2-3b", []
    for device, gib in (("mps", 5.33), ("cuda", 22.0), ("cpu", 22.0)):
        planner: Any = SimpleNamespace(estimator=SimpleNamespace(device=device), budget=budget(gib))
        lines.append(default_base_line(default, planner))
    assert all(line.startswith(f"base: {default}, the default (BigCode OpenRAIL-M; ") for line in lines)
    assert [line.partition("--model ")[2].partition(";")[0] for line in lines] == BEST
