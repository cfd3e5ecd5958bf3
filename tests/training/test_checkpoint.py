"""Checkpoints are whole or not there: kills at every write, damage, full disks, pointers and pruning."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from small_runs import Told, records, run, sequences, weights_of

from longrepo.errors import InputError, RunError
from longrepo.training.checkpoint import find_damage

SHORT = ("long_context.phase2_epochs=0", "training.save_every_steps=2", "long_context.phase1_epochs=2")
CALLS = ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "symlink"))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def small() -> Any:
    return sequences(per_length=4, lengths=(40, 60))


def at_call(patch: pytest.MonkeyPatch, number: int, error: BaseException) -> list[int]:
    """Let the `number`-th writing call raise; the list's only element counts the calls."""
    count = [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == number:
                raise error
            return real(*args, **kwargs)

        return call

    for module, name in CALLS:
        patch.setattr(module, name, wrapped(getattr(module, name)))
    for name in ("save_adapter", "save_optimizer"):
        patch.setattr(FakeEngine, name, wrapped(getattr(FakeEngine, name)))
    return count


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run(path, *SHORT, source=small())
    return path


def test_a_run_killed_at_any_write_resumes_to_the_same_weights(tmp_path: Path) -> None:
    one_epoch = (*SHORT, "long_context.phase1_epochs=1")  # three checkpoints and the final adapter
    whole = tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        calls = at_call(patch, 0, Killed())
        run(whole, *one_epoch, source=small())
    assert calls[0] > 40
    for number in range(1, calls[0] + 1):
        path = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            at_call(patch, number, Killed())
            with pytest.raises(Killed):
                run(path, *one_epoch, source=small())
        run(path, *one_epoch, source=small(), resume="auto")
        assert weights_of(path) == weights_of(whole), f"killed at write {number}"
        assert records(path) == records(whole), f"killed at write {number}"
        assert not list(path.rglob(".writing-*"))
        shutil.rmtree(path)


def test_the_optimizers_state_is_the_same_after_a_resume(tmp_path: Path, whole: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, 40, Killed())
        with pytest.raises(Killed):
            run(tmp_path / "run", *SHORT, source=small())
    run(tmp_path / "run", *SHORT, source=small(), resume="auto")
    one, other = (path / "last" / "optimizer.safetensors" for path in (whole, tmp_path / "run"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("file", ["adapter/adapter_model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_byte_is_found_named_and_stepped_around(tmp_path: Path, whole: Path, file: str) -> None:
    path = shutil.copytree(whole, tmp_path / "run", symlinks=True)
    shutil.rmtree(path / "adapter")
    damaged = path / "last" / file
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(InputError, match=rf"{file} is damaged.*use .*step-\d+, the newest intact one"):
        run(path, *SHORT, source=small(), resume=str((path / "last").resolve()))
    told = Told()
    run(path, *SHORT, source=small(), resume="auto", told=told)
    assert any("falling back to step-" in note for note in told.notes)
    assert weights_of(path) == weights_of(whole)
    assert (path / "last").resolve().name == "phase-1-2", "a name is never reused"


def test_a_cut_or_missing_file_is_damage(tmp_path: Path, whole: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "run", symlinks=True)
    state = path / "last" / "state.json"
    state.write_bytes(state.read_bytes()[:100])
    assert "state.json is damaged" in str(find_damage(path / "last"))
    state.unlink()
    assert find_damage(path / "last") == "state.json is missing"
    (path / "last" / "manifest.json").write_text("{")
    assert find_damage(path / "last") == "manifest.json can't be read"
    for folder in (path / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"every checkpoint of .* is damaged"):
        run(path, *SHORT, source=small(), resume="auto")


def test_a_full_disk_leaves_former_checkpoints_and_no_half(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, 32, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(RunError, match=r"the disk is full; .*step-\d+ is intact; free some space") as caught:
            run(path, *SHORT, source=small())
    assert "\n" not in str(caught.value)
    assert not list((path / "checkpoints").glob(".writing-*"))
    assert all(find_damage(folder) is None for folder in (path / "checkpoints").iterdir())
    run(path, *SHORT, source=small(), resume="auto")
    assert weights_of(path) == weights_of(whole)


def test_keep_last_bounds_the_step_checkpoints_and_spares_pointers(tmp_path: Path) -> None:
    path = tmp_path / "run"
    told = Told()
    run(path, "training.save_every_steps=1", "training.keep_last=1", told=told)
    names = sorted(folder.name for folder in (path / "checkpoints").iterdir())
    steps = [name for name in names if name.startswith("step-")]
    assert len(told.saves) > 15 and len(steps) <= 2
    assert {"phase-1", "phase-2"} <= set(names)
    for pointer in ("last", "best"):
        assert not os.path.isabs(os.readlink(path / pointer)) and find_damage(path / pointer) is None


def test_best_is_a_pointer_to_the_lowest_loss_not_a_copy(tmp_path: Path) -> None:
    path, told = tmp_path / "run", Told()
    outcome = run(path, "training.base_learning_rate=3", "training.early_stopping_patience=0", told=told)
    lowest = min(told.epochs, key=lambda record: record.validation.loss)
    state = json.loads((path / "best" / "state.json").read_text())["state"]
    assert outcome.state.best is not None and outcome.state.best.epoch == lowest.epoch
    assert state["update"] == lowest.update and (path / "best").is_symlink()
    assert weights_of(path) == (path / "best" / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_checkpoint_holds_no_pickle_and_an_honest_manifest(whole: Path) -> None:
    files = {
        file.relative_to((whole / "last").resolve()).as_posix() for file in (whole / "last").resolve().rglob("*.*")
    }
    assert files == {
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "optimizer.safetensors", "state.json",
        "manifest.json",
    }  # fmt: skip
    assert json.loads((whole / "last" / "manifest.json").read_text())["files"].keys() == files - {"manifest.json"}
