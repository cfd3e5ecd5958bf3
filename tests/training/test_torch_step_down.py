"""Step-down under the torch engine: another store in mid-update ends with the same bits; frozen modules stay so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import Told, run, weights_of
from test_step_down import DISK, MEMORY, MIB, Shrinking, planned

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from safetensors.torch import load_file
from tiny import TinyTokenizer, model_folder, settings

from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.torch.engine import TorchEngine
from longrepo.errors import OutOfMemory


class RunsOut(TorchEngine):
    """Out of memory at the micro-batch `at`, half its gradient accumulated."""

    at = 0
    calls = 0

    def accumulate(self, batch: Batch, normalizer: float, key: int) -> float:
        self.calls += 1
        loss = super().accumulate(batch, normalizer, key)
        if self.calls == self.at:
            raise OutOfMemory("cpu: out of memory in a step; and so on")
        return loss


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("base") / "model")


def of(base: Path) -> tuple[str, ...]:
    return (
        f"model.name={base}", "model.quantization=none", "lora.r=4", "lora.dropout=0.1",
        "training.base_learning_rate=0.01", "long_context.phase1_epochs=2", "long_context.phase2_epochs=0",
        "training.gradient_accumulation_steps=4",
    )  # fmt: skip


def engine(base: Path, at: int = 0) -> Any:
    made: Any = RunsOut.create(settings(base, *of(base)[1:]), TinyTokenizer(), "cpu")  # type: ignore[arg-type]
    made.at = at
    return made


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    run(path, *of(base), engine=engine(base), memory=planned(MEMORY))
    return path


@pytest.mark.parametrize("store", [DISK, StepMethod("chunked", 32, "recompute", 2)], ids=lambda method: method.store)
def test_out_of_memory_at_micro_batch_3_of_update_2(
    base: Path, undisturbed: Path, tmp_path: Path, store: StepMethod
) -> None:
    told, tried = Told(), engine(base, at=7)
    run(tmp_path / "run", *of(base), engine=tried, told=told, memory=planned(MEMORY, store))
    assert tried.method == store and any("from update 2 on" in note for note in told.notes)
    assert weights_of(tmp_path / "run") == weights_of(undisturbed)
    one, other = (path / "last" / "optimizer.safetensors" for path in (undisturbed, tmp_path / "run"))
    assert one.read_bytes() == other.read_bytes()


def test_a_limit_that_shrinks_between_two_updates(base: Path, undisturbed: Path, tmp_path: Path) -> None:
    tried, guard = engine(base), Shrinking(at=2, room=7 * MIB)
    run(tmp_path / "run", *of(base), engine=tried, memory=planned(MEMORY, DISK), make_guard=lambda *_: guard)
    assert tried.method == DISK and weights_of(tmp_path / "run") == weights_of(undisturbed)


def test_frozen_modules_keep_their_value_and_have_no_moments_also_after_a_resume(base: Path, tmp_path: Path) -> None:
    lossy = (*of(base), "memory.allow_lossy=true", "training.keep_last=9")
    memory = planned(MEMORY, largest=("c_fc", "c_proj"))
    told = Told()
    run(tmp_path / "run", *lossy, engine=engine(base, at=7), told=told, memory=memory, epochs=1)
    frozen = frozen_tensors(tmp_path / "run" / "last")
    moments = load_file(tmp_path / "run" / "last" / "optimizer.safetensors")
    assert moments and not [name for name in moments if ".c_fc." in name or ".c_proj." in name]
    assert frozen_tensors(tmp_path / "run" / "checkpoints" / "step-00000000") != frozen, "one update came before"
    run(tmp_path / "run", *lossy, resume="auto", epochs=1, engine=engine(base), memory=memory)
    assert frozen_tensors(tmp_path / "run" / "last") == frozen
    assert json.loads((tmp_path / "run" / "last" / "state.json").read_text())["state"]["memory"]["frozen"]


def frozen_tensors(checkpoint: Path) -> dict[str, list[float]]:
    tensors = load_file(checkpoint / "adapter" / "adapter_model.safetensors")
    found = {name: t.flatten().tolist() for name, t in tensors.items() if ".c_fc." in name or ".c_proj." in name}
    assert found
    return found
