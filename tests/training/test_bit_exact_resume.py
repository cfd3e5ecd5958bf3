"""Each engine under the loop: stopped in mid-epoch and resumed, it ends with the same bits on a CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import Told, run, weights_of

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from tiny import TinyTokenizer, model_folder, settings

from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.torch.engine import TorchEngine


class Stop(BaseException):
    pass


class StopAt(Told):
    def update(self, record: object) -> None:
        super().update(record)  # type: ignore[arg-type]
        if len(self.updates) == 9:
            raise Stop


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("kind", [TorchEngine, MlxEngine], ids=["torch", "mlx"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, kind: Any, quantization: str) -> None:
    of = (
        f"model.name={model_folder(tmp_path / 'model')}", f"model.quantization={quantization}", "lora.r=4",
        "lora.dropout=0.1", "training.base_learning_rate=0.01", "long_context.phase1_epochs=1",
        "long_context.phase2_epochs=1",
    )  # fmt: skip

    def engine() -> Any:
        return kind.create(settings(tmp_path / "model", *of[1:]), TinyTokenizer(), "cpu")

    whole = Told()
    outcome = run(tmp_path / "whole", *of, engine=engine(), told=whole)
    assert outcome.exit_status == 0, whole.notes
    assert whole.epochs[-1].validation.loss < whole.phases[0].validation.loss
    with pytest.raises(Stop):
        run(tmp_path / "run", *of, engine=engine(), told=StopAt())
    run(tmp_path / "run", *of, engine=engine(), resume="auto")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    one, other = (tmp_path / name / "last" / "optimizer.safetensors" for name in ("whole", "run"))
    assert one.read_bytes() == other.read_bytes()
