"""A dry run against the real step, and extrapolations against dry runs of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ADDED, TinyTokenizer, model_folder, settings
from transformers import AutoConfig

from longrepo.engines.base import Batch, StepBytes, StepMethod, probe_depths
from longrepo.engines.torch.chunked import TorchChunkCache
from longrepo.engines.torch.dry_run import TorchDryRun
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker, tensors_of

SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 1000, "sliding_window": 64}
METHODS = (
    StepMethod(),
    StepMethod("chunked", 32),
    StepMethod("chunked", 32, "recompute", 2),
    StepMethod("chunked", 32, "disk"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"), num_hidden_layers=5, **SHAPE)


def dry_run(folder: Path, method: StepMethod, *overrides: str, device: str = "cpu") -> TorchDryRun:
    config = AutoConfig.from_pretrained(folder)
    return TorchDryRun(config, settings(folder, *overrides), method, device, torch.float32, ADDED)


def highest(measured: StepBytes) -> int:
    return max(value for name, value in measured.items() if name.startswith("peak "))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_whole_model_is_planned_as_it_is_measured(folder: Path, method: StepMethod) -> None:
    overrides = ("model.quantization=none",) if method.store == "disk" else ()
    tokenizer = TinyTokenizer(1000 + ADDED, {1000 + k: k for k in range(ADDED)})
    engine = TorchEngine.create(settings(folder, *overrides), tokenizer, "cpu")
    engine.use(method)
    batch = Batch.of([([1] * 120, [1.0] * 120)], 0)
    engine.accumulate(batch, 1.0, 0)
    engine.apply_update(1e-4, 1.0)
    engine.accumulate(batch, 1.0, 1)
    tracker = PeakTracker()
    tracker.adopt(tensors_of(engine.model), "model")
    tracker.adopt([p.grad for p in engine.parameters.values() if p.grad is not None], "gradients")
    tracker.adopt([t for state in engine.optimizer.state.values() for t in state.values()], "moments")
    with tracker:
        engine.accumulate(batch, 1.0, 2)
        engine.apply_update(1e-4, 1.0)
    planned = dry_run(folder, method, *overrides).whole(120)
    assert highest(planned) == pytest.approx(tracker.peak, rel=0.01)
    if method.store == "disk":
        assert planned["disk_written"] == engine._store.written // 3  # type: ignore[attr-defined]
        assert planned["disk_held"] > 0


@pytest.mark.parametrize("method", METHODS[:2], ids=str)
def test_every_phase_grows_by_the_same_for_each_layer(folder: Path, method: StepMethod) -> None:
    run = dry_run(folder, method)
    run.config.num_hidden_layers = 4
    direct, extrapolated = run.at(4, 70), run.whole(70)
    for name, value in direct.items():
        assert extrapolated[name] == pytest.approx(value, rel=0.002), name


def test_chunks_that_are_left_out_would_not_be_the_highest(folder: Path) -> None:
    run = dry_run(folder, METHODS[1])
    full, sampled = run.at(1, 200, every_chunk=True), run.at(1, 200)
    assert highest(sampled) == pytest.approx(highest(full), rel=0.0002)
    assert sampled["kept"] == pytest.approx(full["kept"], rel=0.002)


def test_an_architecture_that_cannot_be_walked_in_chunks_is_found_without_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dry_run(folder, METHODS[1]).chunked_unsupported_reason() is None
    monkeypatch.setattr(TorchChunkCache, "update", lambda self, keys, values, *_, **__: (keys, values))
    assert "did not ask its cache" in str(dry_run(folder, METHODS[1]).chunked_unsupported_reason())


def test_unlike_layers_are_run_in_whole_periods(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    run = dry_run(model_folder(tmp_path, **SHAPE), StepMethod())
    run.config.num_hidden_layers, run.config.layer_types = 11, (kinds * 4)[:11]
    assert probe_depths(run.config, run.method) == (5, 8)  # two would hold no layer of full attention
    run.config.num_hidden_layers, run.config.layer_types = 12, kinds * 4
    assert probe_depths(run.config, run.method) == (3, 6)


def test_metal_is_planned_with_the_scores_materialised(folder: Path) -> None:
    def peak(device: str) -> int:
        return highest(dry_run(folder, StepMethod(), device=device).at(1, 600))

    assert peak("mps") > peak("cpu") + 4 * 4 * 600 * 600  # a score matrix of 4 heads in float32
