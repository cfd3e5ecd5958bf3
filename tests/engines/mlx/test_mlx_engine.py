"""The MLX engine against the torch engine: the same model, adapter and tokens give the same figures (float32)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import ADDED, VOCABULARY, TinyTokenizer, model_folder, settings

from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.torch.engine import TorchEngine
from longrepo.errors import InputError

CHUNKS = StepMethod("chunked", 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def pair(folder: Path, tmp_path: Path, *overrides: str) -> tuple[TorchEngine, MlxEngine]:
    """Both engines with one adapter, which has an effect."""
    of = settings(folder, "model.quantization=none", *overrides)
    one, other = (kind.create(of, TinyTokenizer(), "cpu") for kind in (TorchEngine, MlxEngine))  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    for name, parameter in one.parameters.items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return one, follow(one, other, tmp_path)


def follow(one: TorchEngine, other: MlxEngine, tmp_path: Path) -> MlxEngine:
    one.save_adapter(tmp_path)
    other.load_adapter(tmp_path)
    return other


def batch_of(*lengths: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        weights = rng.random(length) * (rng.random(length) > 0.3)  # a third is not scored
        weights[-1] = 1.0
        rows.append((rng.integers(0, VOCABULARY + ADDED, length), weights))
    return Batch.of(rows, 0)


def test_twenty_updates_lose_the_same(folder: Path, tmp_path: Path) -> None:
    one, other = pair(folder, tmp_path, "training.weight_decay=0.1")
    other.use(CHUNKS)
    first = one.score(batch_of(60, 33)).sum()
    for update in range(20):
        losses, norms = [], []
        for engine in (one, other):
            batches = [batch_of(60, 33, seed=update % 3), batch_of(50, seed=7)]
            weight = sum(batch.weight for batch in batches)
            losses.append(sum(engine.accumulate(batch, weight, 0) for batch in batches))
            norms.append(engine.apply_update(2e-3, 1.0))
        assert losses[1] == pytest.approx(losses[0], rel=1e-3) and norms[1] == pytest.approx(norms[0], rel=1e-2)
    assert one.score(batch_of(60, 33)).sum() < 0.98 * first


def test_scores_the_base_and_greedy_tokens_agree(folder: Path, tmp_path: Path) -> None:
    one, other = pair(folder, tmp_path)
    batch = batch_of(40, 27)
    np.testing.assert_allclose(other.score(batch), one.score(batch), atol=1e-4)
    assert not other.score(batch)[batch.loss_weights == 0].any()
    with one.base_only(), other.base_only():
        base = one.score(batch)
        np.testing.assert_allclose(other.score(batch), base, atol=1e-4)
    assert np.abs(other.score(batch) - base).max() > 1e-2
    prompt = list(range(5, 30))
    assert other.generate(prompt, 20) == one.generate(prompt, 20)


def test_tokens_may_be_chosen_otherwise_by_their_scores(folder: Path, tmp_path: Path) -> None:
    engines, prompt = pair(folder, tmp_path), list(range(5, 30))
    for engine in engines:
        assert list(engine.stream(prompt, 8, choose=lambda scores: int(scores.argmax()))) == engine.generate(prompt, 8)
    seen: list[list[np.ndarray[Any, np.dtype[np.float32]]]] = [[], []]
    for engine, scores in zip(engines, seen, strict=True):

        def second(one: np.ndarray[Any, np.dtype[np.float32]], kept: list[Any] = scores) -> int:
            kept.append(one - one.max())
            return int(one[1:].argsort()[-2]) + 1  # never the end token

        assert len(list(engine.stream(prompt, 8, choose=second))) == 8
    for one, other in zip(*seen, strict=False):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_frozen_modules_keep_their_values(folder: Path, tmp_path: Path) -> None:
    _, engine = pair(folder, tmp_path)
    engine.use(CHUNKS)
    before = {slot.name: np.array(slot.value) for slot in engine.slots}
    frozen = engine.freeze(["c_fc", "c_proj"])
    assert frozen == sum(value.size for name, value in before.items() if ".c_" in name)
    engine.accumulate(batch_of(30), 1.0, 0)
    engine.apply_update(1e-2, 1.0)
    for slot in engine.slots:
        assert (np.array(slot.value) == before[slot.name]).all() == (".c_" in slot.name), slot.name


def test_a_gradient_that_is_not_finite_changes_nothing(folder: Path, tmp_path: Path) -> None:
    _, engine = pair(folder, tmp_path)
    engine.use(CHUNKS)
    before = engine.score(batch_of(30))
    engine.accumulate(batch_of(30), 1e-45, 0)
    assert not np.isfinite(engine.apply_update(1e-2, 1.0))
    assert (engine.score(batch_of(30)) == before).all()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    if device == "mps" and mx.metal.is_available():
        pytest.skip("this machine has Metal")
    with pytest.raises(InputError, match=f"--device {device}.*usable here: .*cpu"):
        MlxEngine.create(settings(folder), TinyTokenizer(), device)  # type: ignore[arg-type]


def test_a_module_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match=r"lora\.target_modules: .* has no gate_proj; it has c_fc"):
        MlxEngine.create(settings(folder, "lora.target_modules=[gate_proj]"), TinyTokenizer(), "cpu")  # type: ignore[arg-type]
