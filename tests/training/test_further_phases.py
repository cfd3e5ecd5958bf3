"""Phases after the third: each at its own positions, gated, compared only with its like, and resumed as the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from small_runs import Told, records, run, sequences, weights_of

from longrepo.config.schema import ContextSettings
from longrepo.errors import InputError, RunError
from longrepo.training.state import TrainingState

LONG = sequences(lengths=(40, 60, 90, 120, 150, 180))
FOURTH = "{min_length: 140, max_length: 160, epochs: 2, lr_multiplier: 0.2, context: {method: linear, window: full}}"
FIFTH = "{min_length: 170, max_length: 192, epochs: 2, lr_multiplier: 0.1, context: {method: yarn, window: full}}"
THREE = "long_context.phase3_enabled=true"


def further(*phases: str) -> str:
    return f"long_context.further_phases=[{', '.join(phases)}]"


FIVE = (THREE, further(FOURTH, FIFTH))
OWN, LINEAR, YARN = "the base's own", "linear to 160 tokens, window full", "yarn to 192 tokens, window full"


def positions_of(folder: Path) -> dict[str, Any]:
    file = folder / "adapter" / "positions.json"
    return json.loads(file.read_text()) if file.exists() else {}


class StopAt(Told):
    """Ends the process, as far as it can, after so many updates."""

    def __init__(self, update: int) -> None:
        super().__init__()
        self.at = update

    def update(self, record: Any) -> None:
        super().update(record)
        if record.update == self.at:
            raise RunError("stopped")


def test_each_phase_trains_and_is_saved_at_its_own_positions(tmp_path: Path) -> None:
    told, engine = Told(), FakeEngine()
    outcome = run(tmp_path / "run", *FIVE, source=LONG, engine=engine, told=told)
    assert [one.phase for one in told.epochs] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert engine.positions == [OWN, LINEAR, YARN]
    assert [one.max_length for one in told.phases] == [64, 96, 128, 160, 192]
    assert told.phases[4].learning_rate == pytest.approx(0.05 * 0.1) and told.phases[3].replayed > 0
    checkpoints = tmp_path / "run" / "checkpoints"
    assert positions_of(checkpoints / "phase-3") == {}
    assert positions_of(checkpoints / "phase-4")["method"] == "linear"
    assert positions_of(checkpoints / "phase-5") | {"method": "yarn", "target_length": 192} == positions_of(
        tmp_path / "run"
    )
    assert outcome.state.best and outcome.state.best.context["method"] == "yarn"


def test_losses_at_other_positions_do_not_compare_and_the_best_is_chosen_again(tmp_path: Path) -> None:
    told, engine = Told(), FakeEngine()
    engine.offset = lambda context: 0.0 if context == ContextSettings() else 5.0  # scaling costs more than it learns
    outcome = run(tmp_path / "run", *FIVE, source=LONG, engine=engine, told=told)
    assert set(told.phases[0].validation.by_length) == {"≤64", "≤96", "≤128"}
    assert set(told.phases[4].validation.by_length) == {"≤64", "≤96", "≤128", "≤160", "≤192"}
    state = outcome.state
    assert state.best and state.best.loss > 5 and len(state.former_bests) == 2
    assert (
        state.former_bests[0].loss < 2.5
        and (tmp_path / "run" / "checkpoints" / state.former_bests[0].checkpoint).is_dir()
    )
    assert sum("the best is chosen again" in note for note in told.notes) == 2
    assert (tmp_path / "run" / "best").resolve().name == state.best.checkpoint


def test_phases_at_the_runs_positions_are_compared_on_all_lengths(tmp_path: Path) -> None:
    told = Told()
    own = FOURTH.replace(", context: {method: linear, window: full}", "")
    outcome = run(tmp_path / "run", THREE, further(own), source=LONG, told=told)
    assert all(set(one.validation.by_length) == {"≤64", "≤96", "≤128", "≤160"} for one in told.epochs)
    assert not outcome.state.former_bests


@pytest.mark.parametrize(("phase", "place"), [(4, 0), (4, 5), (4, -1), (5, 3)])
def test_a_run_stopped_in_a_further_phase_ends_as_if_it_had_not_been(tmp_path: Path, phase: int, place: int) -> None:
    whole = Told()
    run(tmp_path / "whole", *FIVE, source=LONG, told=whole)
    update = [one.update for one in whole.updates if one.phase == phase][place]
    with pytest.raises(RunError):
        run(tmp_path / "run", *FIVE, source=LONG, told=StopAt(update))
    engine = FakeEngine()
    run(tmp_path / "run", *FIVE, source=LONG, resume="auto", engine=engine)
    assert engine.positions == [LINEAR, YARN][phase - 4 :], "never at the run's own"
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_a_gate_judges_the_phase_before_and_leaves_the_next_a_say(tmp_path: Path) -> None:
    """No phase gains what is asked for: phase 3 and the gated fourth are left out, the fifth is trained."""
    auto = FOURTH.replace("epochs: 2", "epochs: 2, enabled: auto")
    told, engine = Told(), FakeEngine()
    of = ("long_context.phase3_enabled=auto", further(auto, FIFTH), "training.early_stopping_min_delta=0.9",
          "training.early_stopping_patience=0")  # fmt: skip
    outcome = run(tmp_path / "run", *of, source=LONG, told=told, engine=engine)
    assert [one.phase for one in told.phases] == [1, 2, 5] and engine.positions == [OWN, YARN]
    assert outcome.state.verdicts["3"].startswith("phase 3 is left out: phase 2 brought")
    assert outcome.state.verdicts["4"].startswith("phase 4 is left out: phase 3 wasn't trained")
    told = Told()
    run(tmp_path / "go", THREE, further(auto), source=LONG, told=told)
    assert any(note.startswith("phase 4 follows: phase 3 brought") for note in told.notes)
    assert [one.phase for one in told.phases] == [1, 2, 3, 4]


def test_a_finished_run_goes_on_with_a_phase_that_is_added(tmp_path: Path) -> None:
    run(tmp_path / "run", THREE, source=LONG)
    told, engine = Told(), FakeEngine()
    outcome = run(tmp_path / "run", *FIVE, source=LONG, resume="auto", told=told, engine=engine)
    assert [one.phase for one in told.phases] == [4, 5] and engine.positions == [LINEAR, YARN]
    assert any("long_context.further_phases[0]: {'min_length': 140" in note for note in told.notes)
    assert outcome.state.best and outcome.state.best.context["method"] == "yarn"


def test_lengths_and_positions_of_a_further_phase_stay_what_they_were(tmp_path: Path) -> None:
    four = (THREE, further(FOURTH))
    told = Told()
    run(tmp_path / "whole", *four, source=LONG, told=told)
    with pytest.raises(RunError):
        run(tmp_path / "run", *four, source=LONG, told=StopAt(told.updates[-3].update))
    told, engine = Told(), FakeEngine()
    other = FOURTH.replace("linear", "base").replace("max_length: 160", "max_length: 155").replace("0.2", "0.3")
    between = "{min_length: 156, max_length: 158, epochs: 1}"
    with pytest.raises(InputError, match=r"further_phases\[1\]\.max_length: .*the checkpoint's 160 holds"):
        run(tmp_path / "run", THREE, further(other, between), source=LONG, resume="auto")
    run(tmp_path / "run", THREE, further(other), source=LONG, resume="auto", told=told, engine=engine)
    said = "\n".join(told.notes)
    assert "further_phases[0].max_length: the checkpoint's 160 holds, not 155" in said
    assert "further_phases[0].context: the checkpoint's {'method': 'linear'" in said
    assert "further_phases[0].lr_multiplier: 0.3 holds, was 0.2" in said
    assert engine.positions == [LINEAR]


def test_a_further_phase_without_data_stops_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"phase 4 .*129-160 tokens.* set long_context.further_phases\[0\].enabled=false"
    ):
        run(tmp_path / "run", *FIVE, source=sequences(), engine=FakeEngine())


def test_the_first_checkpoint_of_a_run_that_begins_in_a_further_phase_says_its_positions(tmp_path: Path) -> None:
    run(tmp_path / "three", THREE, source=LONG)
    told = Told()
    run(tmp_path / "more", *FIVE, source=LONG, checkpoint=tmp_path / "three" / "best", told=told)
    assert [one.phase for one in told.phases] == [4, 5]
    first = min((tmp_path / "more" / "checkpoints").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    assert positions_of(first)["method"] == "linear"


def test_a_time_budget_times_every_phase_at_its_positions_and_begins_at_the_firsts(tmp_path: Path) -> None:
    engine = FakeEngine()
    run(tmp_path / "run", *FIVE, "training.time_budget_hours=10", source=LONG, engine=engine)
    assert engine.positions == [OWN, LINEAR, YARN, OWN, LINEAR, YARN]


def test_the_state_of_an_earlier_version_is_read() -> None:
    tree = TrainingState({"1": 1}).as_json()
    for key in ("verdicts", "former_bests"):
        del tree[key]
    tree |= {"phase3_verdict": "phase 3 follows: …", "best": {"loss": 1.0, "epoch": 1, "checkpoint": "phase-1"}}
    state = TrainingState.from_json(tree)
    assert state.verdicts == {"3": "phase 3 follows: …"} and state.best and state.best.lengths == []
