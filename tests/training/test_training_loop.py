"""The loop: losses fall, windows are weighted as one batch, phases follow, records are complete."""

from __future__ import annotations

import json
import os
import signal
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from safetensors.numpy import load_file, save_file
from small_runs import Told, records, run, sequences, settings_with, weights_of

from longrepo.curriculum.sampler import read_catalog
from longrepo.curriculum.schedule import Schedule, make_schedule
from longrepo.engines.base import Batch
from longrepo.errors import InputError, RunError
from longrepo.training.events import MetricsFile
from longrepo.training.validation import (
    accumulation_groups,
    make_validation_set,
    micro_batch_key,
    validate,
    with_validation_split,
)


class LoraEngine(FakeEngine):
    """Its weights are LoRA's B of one layer."""

    def save_adapter(self, folder: Path) -> None:
        super().save_adapter(folder)
        update = {"base_model.model.q.lora_A.weight": np.ones_like(self.weights)}
        save_file(update | {"base_model.model.q.lora_B.weight": self.weights}, folder / "adapter_model.safetensors")

    def load_adapter(self, folder: Path) -> None:
        self.weights = load_file(folder / "adapter_model.safetensors")["base_model.model.q.lora_B.weight"]


def test_the_finished_adapter_holds_the_share_that_is_asked_for_also_later(tmp_path: Path) -> None:
    def update(folder: str) -> dict[str, np.ndarray]:
        found = load_file(tmp_path / "run" / folder / "adapter_model.safetensors")
        return {name.split(".")[3]: tensor for name, tensor in found.items()}

    told = Told()
    run(tmp_path / "run", "lora.final_scale=0.6", engine=LoraEngine())
    best = update("best/adapter")
    for scale in (0.6, 0.5, 1.0):
        if scale != 0.6:
            outcome = run(tmp_path / "run", f"lora.final_scale={scale}", engine=LoraEngine(), resume="auto", told=told)
            assert outcome.exit_status == 0
        np.testing.assert_allclose(update("adapter")["lora_B"], np.float32(scale) * best["lora_B"], rtol=1e-6)
        np.testing.assert_array_equal(update("adapter")["lora_A"], best["lora_A"])
        said = "of the update that was trained" in (tmp_path / "run" / "adapter" / "README.md").read_text()
        assert said == (scale != 1)
    assert not told.updates, "nothing is trained again"
    np.testing.assert_array_equal(update("best/adapter")["lora_B"], best["lora_B"])
    again = run(tmp_path / "run", "lora.final_scale=1", engine=LoraEngine(), resume="auto")
    assert again.already_finished


def test_three_phases_learn_and_end_in_an_adapter(tmp_path: Path) -> None:
    told = Told()
    outcome = run(tmp_path / "run", "long_context.phase3_enabled=true", told=told)
    assert outcome.exit_status == 0 and outcome.adapter == tmp_path / "run" / "adapter"
    assert [(record.phase, record.epoch) for record in told.epochs] == [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)]
    losses = [told.phases[0].validation.loss, *(record.validation.loss for record in told.epochs)]
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert "resize_token_embeddings" in (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_every_epochs_record_holds_what_the_guide_lists(tmp_path: Path) -> None:
    run(tmp_path / "run")
    epochs = [record for record in records(tmp_path / "run") if record["record"] == "epoch"]
    one = epochs[2]  # the first of phase 2
    assert (one["phase"], one["epoch"], one["longer_than"], one["max_length"]) == (2, 3, 64, 96)
    assert one["lr_multiplier"] == 0.5 and 0 < one["learning_rate"] < 0.05 * 0.5
    assert one["perplexity"] == pytest.approx(np.exp(one["validation"]["loss"]))
    assert set(one["validation"]["by_length"]) == {"≤64", "≤96"}
    assert 0 < one["gradient_norm_min"] <= one["gradient_norm_mean"] <= one["gradient_norm_max"]
    assert one["sequences"] == sum(one["by_difficulty"].values()) == 6 + one["replayed"]
    assert one["left_out"]["length"] == 24 - one["sequences"] and one["tokens"] > 0 and one["peak_memory"] == 1 << 20
    updates = [record for record in records(tmp_path / "run") if record["record"] == "update"]
    assert [record["update"] for record in updates] == list(range(1, len(updates) + 1))


def test_a_window_of_micro_batches_gives_the_gradient_of_one_big_batch() -> None:
    chance = np.random.default_rng(0)
    rows = [(chance.integers(0, 12, n).tolist(), chance.random(n).tolist()) for n in (5, 40, 17, 2)]
    apart, together = FakeEngine(dropout=0), FakeEngine(dropout=0)
    batches = [Batch.of([row], 0) for row in rows]
    weight = sum(batch.weight for batch in batches)
    losses = [apart.accumulate(batch, weight, 1) for batch in batches]
    assert together.accumulate(Batch.of(rows, 0), weight, 1) == pytest.approx(sum(losses))
    np.testing.assert_allclose(apart.gradient, together.gradient, rtol=1e-12)


def test_runs_differ_only_by_rounding_between_micro_batch_sizes(tmp_path: Path) -> None:
    for size, steps in ((1, 4), (4, 1)):
        run(
            tmp_path / f"{size}", f"training.batch_size_reference={size}",
            f"training.gradient_accumulation_steps={steps}", engine=FakeEngine(dropout=0),
        )  # fmt: skip
    first, second = ([r["loss"] for r in records(tmp_path / n) if r["record"] == "update"] for n in ("1", "4"))
    assert first == pytest.approx(second, rel=1e-9)


def test_windows_keep_every_sequence_and_keys_never_repeat() -> None:
    training = settings_with("training.batch_size_reference=2", "training.gradient_accumulation_steps=3").training
    cut = accumulation_groups(list(range(11)), training)
    assert [len(window) for window in cut] == [3, 3] and list(chain(*chain(*cut))) == list(range(11))
    keys = {micro_batch_key(1, e, u, m) for e in range(4) for u in range(10) for m in range(4)}
    assert len(keys) == 160 and all(0 <= key < 2**63 for key in keys)


def test_an_enabled_phase_without_data_stops_before_training_with_the_fix(tmp_path: Path) -> None:
    engine = FakeEngine()
    with pytest.raises(InputError, match=r"phase 3 .*97-128 tokens.*--sequence-length 128.*phase3_enabled=false"):
        run(tmp_path / "run", "long_context.phase3_enabled=true", source=sequences(lengths=(40, 90)), engine=engine)
    assert not engine.accumulated and not (tmp_path / "run").exists()
    outcome = run(tmp_path / "run", "long_context.phase3_enabled=true", source=sequences(lengths=(40, 90)), epochs=4)
    assert outcome.exit_status == 0, "phase 3 isn't reached by 4 epochs"


def test_sequences_beyond_the_last_cap_are_left_out_and_said(tmp_path: Path) -> None:
    told = Told()
    run(tmp_path / "run", told=told)
    assert any("6 sequences are longer" in note for note in told.notes)


def test_early_stopping_ends_a_phase_and_the_next_keeps_its_epoch_numbers(tmp_path: Path) -> None:
    told = Told()
    run(
        tmp_path / "run", "long_context.phase1_epochs=6", "training.early_stopping_patience=2",
        "training.early_stopping_min_delta=0.9", told=told,
    )  # fmt: skip
    assert [record.epoch for record in told.epochs] == [1, 2, 3, 7, 8]
    assert any("phase 1 stops early after epoch 3" in note for note in told.notes)


@pytest.mark.parametrize("min_delta, phases", [(0.0001, [1, 2, 3]), (0.5, [1, 2])])
def test_auto_opens_phase_3_only_after_a_phase_2_that_converged(
    tmp_path: Path, min_delta: float, phases: list[int]
) -> None:
    told = Told()
    outcome = run(
        tmp_path / "run", "long_context.phase3_enabled=auto", f"training.early_stopping_min_delta={min_delta}",
        "training.early_stopping_patience=0", told=told,
    )  # fmt: skip
    assert [record.phase for record in told.phases] == phases and outcome.exit_status == 0
    assert outcome.state.verdicts["3"] in told.notes
    delta = f"training.early_stopping_min_delta={min_delta}"
    again = run(tmp_path / "run", "long_context.phase3_enabled=auto", delta, resume="auto")
    assert again.already_finished


@pytest.mark.parametrize("explode_at", [1, 7])
def test_a_gradient_that_is_not_finite_ends_the_run_and_names_the_whole_checkpoint(
    tmp_path: Path, explode_at: int
) -> None:
    with pytest.raises(RunError, match=rf"update {explode_at} \(phase 1, epoch .*norm is nan; .*step-\d+ is intact"):
        run(tmp_path / "run", engine=FakeEngine(explode_at=explode_at))


def test_a_loss_that_is_not_finite_ends_the_run_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "accumulate", lambda *_: float("inf"))
    engine = FakeEngine()
    with pytest.raises(RunError, match="the loss is inf"):
        run(tmp_path / "run", engine=engine)
    assert engine.steps == 0


def test_validation_is_fixed_unweighted_on_targets_and_equal_per_length() -> None:
    source, settings = sequences(per_length=20), settings_with("training.max_validation_sequences=6")
    schedule = Schedule(make_schedule(settings_with("long_context.phase3_enabled=true")))
    chosen = make_validation_set(read_catalog(source), schedule, settings)
    assert {name: len(indices) for name, indices in chosen.groups.items()} == {"≤64": 2, "≤96": 2, "≤128": 2}
    engine = FakeEngine()
    found = validate(engine, source, chosen, lambda done, of: None, lambda: False)
    total, count = 0.0, 0
    for index in chain(*chosen.groups.values()):
        nll = engine.score(Batch.of([(source.tokens(index).tolist(), source.weights(index).tolist())], 0))[0]
        target = source.weights(index) >= 1
        total, count = total + float(nll[target].sum(dtype=float)), count + int(target.sum())
    assert found is not None and found.loss == pytest.approx(total / count) and found.tokens == count


def test_without_a_validation_split_five_percent_of_each_length_are_held_out() -> None:
    source = sequences(per_length=40)
    for row in source.rows:
        row["split"] = "train"
    schedule = Schedule(make_schedule(settings_with("long_context.phase3_enabled=true")))
    catalog, note = with_validation_split(read_catalog(source), schedule)
    assert [catalog.split[at : at + 40].count("validation") for at in (80, 120)] == [2, 2]
    assert catalog.split[:80].count("validation") == 4 and note is not None and "8 of 160" in note
    assert with_validation_split(read_catalog(source), schedule)[0].split == catalog.split, "deterministic"


def _press_ctrl_c_at(update: int, times: int = 1) -> Told:
    class Pressing(Told):
        def update(self, record: object) -> None:
            super().update(record)  # type: ignore[arg-type]
            if len(self.updates) == update:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)

    return Pressing()


@pytest.mark.parametrize("update", [1, 3, 6, 7])
def test_ctrl_c_once_finishes_the_update_saves_and_resumes_to_the_same_weights(tmp_path: Path, update: int) -> None:
    run(tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    outcome = run(tmp_path / "run", told=_press_ctrl_c_at(update))
    assert outcome.exit_status == 130 and outcome.state.update == update
    assert signal.getsignal(signal.SIGINT) is before
    state = json.loads((tmp_path / "run" / "last" / "state.json").read_text())["state"]
    assert state["update"] == update
    assert run(tmp_path / "run", resume="auto").exit_status == 0
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_ctrl_c_twice_stops_now(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", told=_press_ctrl_c_at(5, times=2))
    state = json.loads((tmp_path / "run" / "last" / "state.json").read_text())["state"]
    assert state["update"] == 4, "the last regular checkpoint"


def test_sigterm_counts_like_ctrl_c_once(tmp_path: Path) -> None:
    class Terminated(Told):
        def update(self, record: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(tmp_path / "run", told=Terminated()).state.update == 1


def test_metrics_are_cut_at_the_checkpoints_count(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a"')
    metrics = MetricsFile(tmp_path, 2, 7)
    metrics.close()
    assert file.read_text() == '{"a": 1}\n{"a": 2}\n' and metrics.records == 2
