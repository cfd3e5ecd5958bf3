"""What the pipeline decides, and that it never overrules a person."""

from __future__ import annotations

from pathlib import Path

from longrepo.config.load import load_settings
from longrepo.engines.method import Method
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.estimate import StepMemory
from longrepo.memory.planned import Planned
from longrepo.pipeline.choices import Chooser, choose_amounts, choose_lengths, latest
from longrepo.pipeline.stages import Stage


def budget(gib: float) -> Budget:
    return Budget(int(gib * GIB), "what macOS recommends for the GPU", limit=False)


def needs(gib_per_1024_tokens: float):  # type: ignore[no-untyped-def]
    """A planner whose steps need so much, of which `room` GiB are there."""

    def estimate(_: Method, length: int) -> StepMemory:
        return StepMemory(0, 0, 0, 0, 0, int(gib_per_1024_tokens * length / 1024 * GIB), 0)

    def first_fit(room: float):  # type: ignore[no-untyped-def]
        def fit(length: int) -> Planned | None:
            planned = Planned(Method("chunked", 256), length, estimate)
            return planned if planned.peak <= room * GIB else None

        return fit

    return first_fit


def test_phase_3_is_taken_where_some_method_fits() -> None:
    small, large = Chooser(load_settings(None)), Chooser(load_settings(None))
    choose_lengths(small, 16384, budget(5.33), needs(1.5)(5.33))
    choose_lengths(large, 16384, budget(10.7), needs(1.5)(10.7))
    assert small.settings.long_context.phase3_enabled is False
    assert "GiB" in small.choices[-1].reason
    assert large.settings.long_context.phase3_enabled is True
    assert "6.0 GiB of 10.7 GiB" in large.choices[-1].reason and "chunks of 256" in large.choices[-1].reason


def test_a_budget_too_small_for_phase_2_leaves_phase_1() -> None:
    chooser = Chooser(load_settings(None))
    choose_lengths(chooser, 16384, budget(2.9), needs(1.5)(2.9))
    assert chooser.settings.long_context.phase2_epochs == 0


def test_a_length_that_was_asked_for_bounds_the_phases() -> None:
    chooser = Chooser(load_settings(None, ["model.max_position_embeddings=2048"]))
    choose_lengths(chooser, 16384, budget(80), needs(1.5)(80))
    assert chooser.settings.long_context.phase3_enabled is False
    assert chooser.settings.long_context.phase2_epochs == 8
    shorter = Chooser(load_settings(None, ["model.max_position_embeddings=1024"]))
    choose_lengths(shorter, 16384, budget(80), needs(1.5)(80))
    assert shorter.settings.long_context.phase2_epochs == 0


def test_what_a_person_set_stands_and_is_shown() -> None:
    chooser = Chooser(
        load_settings(None, ["long_context.phase3_enabled=true", "training.gradient_accumulation_steps=3"])
    )
    choose_lengths(chooser, 16384, budget(1), needs(1.5)(1))
    choose_amounts(chooser, {1: 100, 2: 100, 3: 100})
    assert chooser.settings.long_context.phase3_enabled is True
    assert chooser.settings.training.gradient_accumulation_steps == 3
    reasons = {key: reason for key, _, reason in latest(chooser.choices)}
    assert reasons["long_context.phase3_enabled"] == reasons["training.gradient_accumulation_steps"] == "as you set it"


def test_small_data_gets_smaller_windows_and_phases_without_data_are_left_out() -> None:
    chooser = Chooser(load_settings(None))
    choose_lengths(chooser, 16384, budget(20), needs(1.5)(20))
    choose_amounts(chooser, {1: 40, 2: 20, 3: 3})
    assert chooser.settings.training.gradient_accumulation_steps == 2  # 20 sequences / 8 updates
    assert chooser.settings.long_context.phase3_enabled is False
    assert (chooser.settings.long_context.phase1_epochs, chooser.settings.long_context.phase2_epochs) == (5, 8)


def test_large_data_gets_fewer_epochs() -> None:
    chooser = Chooser(load_settings(None))
    choose_amounts(chooser, {1: 5000, 2: 900})
    assert chooser.settings.training.gradient_accumulation_steps == 16
    assert (chooser.settings.long_context.phase1_epochs, chooser.settings.long_context.phase2_epochs) == (2, 2)


def test_nothing_at_all_leaves_every_phase_out() -> None:
    chooser = Chooser(load_settings(None))
    choose_amounts(chooser, {})
    assert chooser.settings.long_context.phase1_epochs == chooser.settings.long_context.phase2_epochs == 0


def test_a_stage_is_done_for_its_inputs_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sequences", {"commit": "a"})
    assert not stage.done
    stage.finish(rows=3)
    assert Stage(tmp_path, "sequences", {"commit": "a"}).done
    other = Stage(tmp_path, "sequences", {"commit": "b"})
    assert not other.done and other.folder != stage.folder
    (stage.folder / "stage.json").write_text('{"cut": ')
    assert not stage.done
