"""Going on with a run, beginning from a checkpoint, and what holds where settings differ."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from small_runs import Told, records, run, sequences, weights_of

from longrepo.config.loader import load_settings
from longrepo.engines.base import Batch
from longrepo.errors import InputError, RunError
from longrepo.training.checkpoint import open_run_folder, read_snapshot
from longrepo.training.resume import merge_checkpoint_settings, merge_resumed_settings


class Stop(BaseException):
    pass


class StopAt(Told):
    """Dies without saving at an update."""

    def __init__(self, update: int) -> None:
        super().__init__()
        self.stop_at = update

    def update(self, record: object) -> None:
        super().update(record)  # type: ignore[arg-type]
        if len(self.updates) == self.stop_at:
            raise Stop


def stopped(path: Path, *overrides: str, at: int = 9) -> Path:
    with pytest.raises(Stop):
        run(path, *overrides, told=StopAt(at))
    return path


def test_the_guides_phase_3_from_best(tmp_path: Path) -> None:
    run(tmp_path / "long", epochs=4)
    told = Told()
    engine = FakeEngine(seed=5)
    run(
        tmp_path / "extended", "long_context.phase3_enabled=true", checkpoint=tmp_path / "long" / "best", epochs=2,
        told=told, engine=engine,
    )  # fmt: skip
    assert [(record.phase, record.epoch) for record in told.epochs] == [(3, 5), (3, 6)]
    assert told.phases[0].validation.loss < 2.1, "with the weights of the first run"
    assert engine.steps == len(told.updates), "a fresh optimizer"


def test_phase_3_follows_best_even_where_best_came_before_the_end_of_phase_2(tmp_path: Path) -> None:
    first = Told()
    run(tmp_path / "long", "long_context.phase2_lr_multiplier=200", "training.early_stopping_patience=0", told=first)
    assert min(first.epochs, key=lambda record: record.validation.loss).epoch == 2, "phase 2 only did harm"
    told = Told()
    run(tmp_path / "more", "long_context.phase3_enabled=true", checkpoint=tmp_path / "long", epochs=8, told=told)
    assert [(record.phase, record.epoch) for record in told.epochs] == [(3, 5), (3, 6)]
    assert any("complete phase 2 without a better one" in note for note in told.notes)
    assert any("--epochs 8: the schedule has 2 left" in note for note in told.notes)
    there = Told()
    run(tmp_path / "there", checkpoint=(tmp_path / "long" / "best").resolve(), told=there)
    assert [record.epoch for record in there.epochs] == [3, 4], "a checkpoint named itself keeps its own place"


def test_epochs_stops_in_mid_phase_and_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    told = Told()
    assert run(tmp_path / "run", epochs=3, told=told).exit_status == 0
    assert [record.epoch for record in told.epochs] == [1, 2, 3] and (tmp_path / "run" / "adapter").is_dir()
    assert run(tmp_path / "run", resume="auto").already_finished
    run(tmp_path / "run", resume="auto", epochs=1)
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_a_checkpoint_with_nothing_after_it_says_what_to_enable(tmp_path: Path) -> None:
    run(tmp_path / "long")
    with pytest.raises(InputError, match="phase3_enabled=true"):
        run(tmp_path / "more", checkpoint=tmp_path / "long" / "best")


def test_a_finished_run_says_so_and_phase_3_can_be_added_to_it(tmp_path: Path) -> None:
    run(tmp_path / "run")
    told = Told()
    assert run(tmp_path / "run", resume="auto", told=told).already_finished and "finished" in told.notes[-1]
    more = Told()
    run(tmp_path / "run", "long_context.phase3_enabled=true", resume="auto", told=more)
    assert [record.epoch for record in more.epochs] == [5, 6]
    assert any("phase3_enabled: True holds, was False" in note for note in more.notes)


def test_resume_from_a_checkpoint_folder_and_into_the_wrong_output(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    path = stopped(tmp_path / "run", at=14)
    with pytest.raises(InputError, match="is not the run of --resume"):
        run(tmp_path / "other", resume=str(path / "last"))
    run(path, resume=str(path / "checkpoints" / "phase-1"))
    assert weights_of(path) == weights_of(tmp_path / "whole")
    assert records(path) == records(tmp_path / "whole")


@pytest.mark.parametrize("key, value", [("training.seed", 7), ("training.gradient_accumulation_steps", 1),
                                        ("lora.r", 8), ("data.replay_share", 0.5)])  # fmt: skip
def test_what_would_break_exactness_keeps_the_checkpoints_value_and_says_why(
    tmp_path: Path, key: str, value: object
) -> None:
    run(tmp_path / "whole")
    path, told = stopped(tmp_path / "run"), Told()
    run(path, f"{key}={value}", resume="auto", told=told)
    assert any(note.startswith(f"{key}: the checkpoint's ") for note in told.notes)
    assert weights_of(path) == weights_of(tmp_path / "whole")


def test_auto_keeps_the_checkpoints_modules_and_is_no_difference(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    path, told = stopped(tmp_path / "run", "lora.target_modules=[v_proj]"), Told()
    run(path, resume="auto", told=told)
    assert not any("target_modules" in note for note in told.notes)
    kept = load_settings(path / "settings.yaml").lora
    assert kept.target_modules == ("v_proj",) and weights_of(path) == weights_of(tmp_path / "whole")


def test_new_learning_rates_hold_and_the_run_is_said_to_differ(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    path, told = stopped(tmp_path / "run"), Told()
    run(path, "training.base_learning_rate=0.01", "training.keep_last=1", resume="auto", told=told)
    assert any("base_learning_rate: 0.01 holds, was 0.05" in note for note in told.notes)
    assert any("keep_last: 1 holds, was 2; the result stays the same" in note for note in told.notes)
    assert any("differs from one that was never interrupted" in note for note in told.notes)
    assert weights_of(path) != weights_of(tmp_path / "whole")


def test_more_epochs_for_the_phase_in_progress(tmp_path: Path) -> None:
    path, told = stopped(tmp_path / "run"), Told()
    run(path, "long_context.phase1_epochs=3", resume="auto", told=told)
    assert [record.epoch for record in told.epochs] == [2, 3, 4, 5]


def test_other_sequences_are_refused(tmp_path: Path) -> None:
    path = stopped(tmp_path / "run")
    with pytest.raises(InputError, match=r"not those this run was trained on .*--checkpoint .*best"):
        run(path, resume="auto", source=sequences(seed=2))


def test_nothing_to_resume_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="doesn't exist; begin that run without --resume"):
        run(tmp_path / "none", resume="auto")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="isn't a run's folder"):
        run(tmp_path / "empty", resume="auto")
    with pytest.raises(InputError, match="no such folder"):
        run(tmp_path / "new", checkpoint=tmp_path / "none")
    with pytest.raises(InputError, match="neither a checkpoint nor a run"):
        run(tmp_path / "new", checkpoint=tmp_path / "empty")


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("")
    told = Told()
    assert run(tmp_path / "run", resume="auto", told=told).exit_status == 0
    assert "it starts over" in told.notes[0]


def test_a_damaged_best_is_chosen_again_on_resume(tmp_path: Path) -> None:
    path = stopped(tmp_path / "run")
    best = (path / "best").resolve()
    (best / "optimizer.safetensors").unlink()
    told = Told()
    run(path, resume="auto", told=told)
    assert any("the best is chosen again" in note for note in told.notes)


class OtherEngine(FakeEngine):
    """The same weights on a base that scores them at `harder` times the loss."""

    name = "other"
    harder = 3.0

    def score(self, batch: Batch) -> np.ndarray:
        return super().score(batch) * self.harder


@pytest.mark.parametrize("at", [9, 16, 22])  # in an epoch of phase 1 and of phase 2, and where phase 2 begins
def test_a_run_of_one_engine_goes_on_with_another(tmp_path: Path, at: int) -> None:
    sure = "training.early_stopping_patience=1", "long_context.phase3_enabled=auto"
    whole, told = Told(), Told()
    run(tmp_path / "whole", *sure, told=whole)
    path = stopped(tmp_path / "run", *sure, at=at)
    run(path, *sure, resume="auto", engine=OtherEngine(), told=told)
    assert any("the fake engine, this is other" in note for note in told.notes)
    assert weights_of(path) == weights_of(tmp_path / "whole"), "moments, position and dropout go on"
    assert [r.epoch for r in told.epochs] == [r.epoch for r in whole.epochs][-len(told.epochs) :], "judged alike"
    state = read_snapshot((path / "last").resolve()).state
    assert state.verdicts["3"].startswith("phase 3 follows")
    assert state.best and state.best.loss == min(record.validation.loss for record in told.epochs)


def test_the_former_losses_are_scaled_to_the_weights_scored_again(tmp_path: Path) -> None:
    run(tmp_path / "run", epochs=1)
    before = read_snapshot((tmp_path / "run" / "last").resolve())
    told = Told()
    run(tmp_path / "run", "training.keep_last=9", resume="auto", epochs=1, engine=OtherEngine(), told=told)
    assert before.state.best and any(f"it was last {before.state.best.loss:.4f}" in note for note in told.notes)
    first = read_snapshot(tmp_path / "run" / "checkpoints" / told.saves[0])
    assert first.identity.engine == "other" and first.state.update == before.state.update
    assert first.state.best is None, "a loss on the other base is no rival"
    was, now = before.state.losses["1"], first.state.losses["1"]
    assert was.start and now.start == pytest.approx(OtherEngine.harder * was.start)
    assert now.epochs == pytest.approx([OtherEngine.harder * loss for loss in was.epochs])
    assert told.epochs[0].best


def test_a_finished_run_keeps_its_best_on_another_engine(tmp_path: Path) -> None:
    run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")
    assert run(tmp_path / "run", resume="auto", engine=OtherEngine()).adapter


def test_ctrl_c_while_the_weights_are_scored_again_leaves_the_checkpoint_as_it_is(tmp_path: Path) -> None:
    class Interrupting(Told):
        def validating(self, done: int, of: int) -> None:
            if done == 1:
                os.kill(os.getpid(), signal.SIGINT)

    path = stopped(tmp_path / "run")
    last = (path / "last").resolve()
    assert run(path, resume="auto", engine=OtherEngine(), told=Interrupting()).exit_status == 130
    assert (path / "last").resolve() == last


def test_a_run_folder_is_not_mixed_locked_or_unwritable(tmp_path: Path) -> None:
    path = stopped(tmp_path / "run")
    with pytest.raises(InputError, match=r"not empty: .*--resume auto"):
        run(path)
    with open_run_folder(path, resuming=True), pytest.raises(InputError, match="another process is training there"):
        run(path, resume="auto")
    with open_run_folder(tmp_path / "typo", resuming=False):
        pass
    assert run(tmp_path / "typo").exit_status == 0, "a run that never began is in nobody's way"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        run(tmp_path / "file" / "run")


def test_a_folder_that_becomes_unwritable_is_one_line(tmp_path: Path) -> None:
    class Vanishing(Told):
        def phase(self, record: object) -> None:
            import shutil

            shutil.rmtree(tmp_path / "run" / "checkpoints")
            (tmp_path / "run" / "checkpoints").write_text("")

    with pytest.raises(RunError) as caught:
        run(tmp_path / "run", told=Vanishing())
    assert "\n" not in str(caught.value)


def test_a_phase_that_a_new_run_goes_on_in_has_its_header_and_record(tmp_path: Path) -> None:
    run(tmp_path / "first", epochs=3)
    told = Told()
    run(tmp_path / "more", checkpoint=tmp_path / "first", told=told)
    assert [(record.phase, record.first_epoch, record.last_epoch) for record in told.phases] == [(2, 4, 4)]
    assert told.phases[0].updates == len(told.updates)
    told = Told()
    run(tmp_path / "again", "long_context.phase2_epochs=3", checkpoint=tmp_path / "more", told=told)
    assert [(record.phase, record.first_epoch, record.last_epoch) for record in told.phases] == [(2, 5, 5)]
    assert records(tmp_path / "again")[0]["record"] == "phase"


def test_a_header_is_written_once_however_often_a_run_is_killed(tmp_path: Path) -> None:
    run(tmp_path / "first", epochs=2)
    with pytest.raises(Stop):
        run(tmp_path / "more", "long_context.phase1_epochs=3", checkpoint=tmp_path / "first", told=StopAt(1))
    run(tmp_path / "more", "long_context.phase1_epochs=3", resume="auto")
    run(tmp_path / "whole", "long_context.phase1_epochs=3", checkpoint=tmp_path / "first")
    assert records(tmp_path / "more") == records(tmp_path / "whole")
    assert sum(one["record"] == "phase" for one in records(tmp_path / "more")) == 2


@pytest.mark.parametrize("epochs, said", [
    (1, "--epochs 1 ends in phase 2, before phase 3 of the settings: give --epochs 2 or more"), (2, None), (8, None),
])  # fmt: skip
def test_epochs_that_end_before_an_enabled_phase_are_said(tmp_path: Path, epochs: int, said: str | None) -> None:
    run(tmp_path / "first", epochs=3)
    told = Told()
    run(tmp_path / "more", "long_context.phase3_enabled=true", checkpoint=tmp_path / "first", epochs=epochs, told=told)
    found = [note for note in told.notes if "ends in phase" in note]
    assert found == ([said] if said else [])


@pytest.mark.parametrize("overrides, done, fix", [
    (("long_context.phase3_enabled=true",), 5, "set long_context.phase3_enabled=true"),
    (("long_context.phase2_epochs=4",), 5, "set long_context.phase2_epochs=3 or more"),
    (("long_context.phase1_epochs=4",), 3, "set long_context.phase1_epochs=3 or more"),
])  # fmt: skip
def test_a_place_that_the_settings_do_not_have_is_an_error_with_the_fix(
    tmp_path: Path, overrides: tuple[str, ...], done: int, fix: str
) -> None:
    run(tmp_path / "first", *overrides, epochs=done)
    last = (tmp_path / "first" / "last").resolve()
    with pytest.raises(InputError) as caught:
        run(tmp_path / "more", checkpoint=last)
    assert fix in str(caught.value) and str(last) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "more").exists()
    run(tmp_path / "kept", *overrides, checkpoint=last)


def test_a_further_phase_that_the_settings_lack_is_named(tmp_path: Path) -> None:
    source = sequences(lengths=(40, 60, 90, 120, 140))
    more = (
        "long_context.phase3_enabled=true",
        "long_context.further_phases=[{min_length: 130, max_length: 150, epochs: 2}]",
    )
    run(tmp_path / "first", *more, epochs=7, source=source)
    with pytest.raises(
        InputError, match=r"after epoch 1 of phase 4, a phase that the settings don't have: set that lo"
    ):
        run(tmp_path / "more", checkpoint=(tmp_path / "first" / "last").resolve(), source=source)
    with pytest.raises(InputError, match="phase 4, a phase that the settings don't have"):
        run(tmp_path / "first", more[0], resume="auto", epochs=1, source=source)


@pytest.mark.parametrize("was", [True, False, "native"])
@pytest.mark.parametrize("now", ["auto", "added", "none", "native"])
def test_a_run_keeps_its_marks(was: bool | str, now: str) -> None:
    old = load_settings().model_dump(mode="json")
    old["data"]["structure_tokens"] = was
    name = {True: "added", False: "none"}.get(was, was)  # type: ignore[call-overload]
    for merge in (lambda *given: merge_resumed_settings(*given, False), merge_checkpoint_settings):
        kept, notes = merge(old, load_settings(None, [f"data.structure_tokens={now}"]))
        assert kept.data.structure_tokens == name
        said = (
            f"data.structure_tokens: the checkpoint's {name} holds, not {now}: the adapter was trained with these marks"
        )
        assert notes == ([] if now in ("auto", name) else [said])
