"""Further phases under the loop with both engines: real scaling and windows, stopped in the middle and resumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import Told, run, sequences, settings_with, weights_of

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from tiny import TinyTokenizer, model_folder

from longrepo.engines.base import Batch
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.torch.engine import TorchEngine
from longrepo.errors import RunError
from longrepo.rope.apply import NATIVE_CONTEXT

NATIVE = 128  # the tiny model's positions; its window is 16
LONG = sequences(4, lengths=(40, 150, 180))
FURTHER = (
    "long_context.further_phases=["
    "{min_length: 140, max_length: 160, epochs: 1, lr_multiplier: 0.5, context: {method: linear, window: full}}, "
    "{min_length: 170, max_length: 192, epochs: 1, lr_multiplier: 0.5, context: {method: yarn, window: 256}}]"
)


class StopIn(Told):
    """Ends the process, as far as it can, at a phase's first update."""

    def __init__(self, phase: int) -> None:
        super().__init__()
        self.stop = phase

    def update(self, record: Any) -> None:
        super().update(record)
        if record.phase == self.stop:
            raise RunError("stopped")


def overrides(folder: Path, *more: str) -> tuple[str, ...]:
    return (
        f"model.name={folder}", "model.quantization=none", "lora.r=4", "lora.dropout=0.1",
        "training.base_learning_rate=0.01", "training.precision=float32", "training.save_every_steps=2",
        "long_context.phase1_epochs=1", "long_context.phase2_epochs=0", FURTHER, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("tiny") / "model", max_position_embeddings=NATIVE)


@pytest.mark.parametrize(("kind", "phase"), [(TorchEngine, 4), (MlxEngine, 5)])
def test_stopped_in_a_further_phase_and_resumed_it_ends_with_the_same_bits(
    tmp_path: Path, model: Path, kind: Any, phase: int
) -> None:
    of = overrides(model)

    def engine() -> Any:
        return kind.create(settings_with(*of), TinyTokenizer(), "cpu")

    whole = Told()
    run(tmp_path / "whole", *of, engine=engine(), told=whole, source=LONG)
    assert [one.phase for one in whole.phases] == [1, 4, 5]
    assert whole.epochs[2].validation.loss < whole.phases[2].validation.loss
    with pytest.raises(RunError):
        run(tmp_path / "run", *of, engine=engine(), told=StopIn(phase), source=LONG)
    run(tmp_path / "run", *of, engine=engine(), resume="auto", source=LONG)
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    one, other = (tmp_path / name / "last" / "optimizer.safetensors" for name in ("whole", "run"))
    assert one.read_bytes() == other.read_bytes()
    positions = json.loads((tmp_path / "run" / "adapter" / "positions.json").read_text())
    assert (positions["method"], positions["target_length"], positions["window"]) == ("yarn", 192, 256)


def test_all_weights_go_on_in_a_further_phase_and_the_model_says_its_positions(tmp_path: Path, model: Path) -> None:
    """Continual pre-training is the same loop: what it leaves is a model that scores alike without our settings."""
    of = overrides(model, "training.weights=all", "data.structure_tokens=false")
    plain = TinyTokenizer(vocabulary_size=96, initial_from={})
    engine = TorchEngine.create(settings_with(*of), plain, "cpu")
    told = Told()
    run(tmp_path / "run", *of, engine=engine, told=told, source=LONG)
    assert [one.phase for one in told.phases] == [1, 4, 5]
    assert told.epochs[2].validation.loss < told.phases[2].validation.loss
    folder = tmp_path / "run" / "model"
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "yarn" and config["max_position_embeddings"] == 192
    assert config["sliding_window"] == 256
    alone = TorchEngine.create(settings_with(*of, f"model.name={folder}"), plain, "cpu")
    assert alone.base.config.rope_parameters["rope_type"] == "yarn"
    ids = np.arange(180) % 12
    batch = Batch.of([(ids, np.ones(180))], 0)
    engine.load_adapter(folder)
    np.testing.assert_allclose(alone.score(batch), engine.score(batch), atol=1e-5)
    engine.position(NATIVE_CONTEXT)
    assert np.abs(alone.score(batch) - engine.score(batch)).max() > 1e-3
