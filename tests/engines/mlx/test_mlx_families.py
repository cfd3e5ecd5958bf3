"""Each family in both engines: scores, loss and every gradient agree, in chunks too, and so do generated tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from families import CASES, FAMILIES, VOCABULARY, WINDOW, published
from tiny import ADDED, TinyTokenizer, settings

from longrepo.engines.adapter_io import TOKEN_ROWS_PATH, parameter_name
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.chunked import MemoryStore, StepObserver, StepPart
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.torch.engine import TorchEngine

Named = dict[str, np.ndarray[Any, Any]]
TOKENIZER: Any = TinyTokenizer(VOCABULARY + ADDED, {VOCABULARY + k: 3 + k for k in range(ADDED)})


def batch_of(*lengths: int) -> Batch:
    rng = np.random.default_rng(5)
    rows = []
    for length in lengths:
        weights = rng.random(length) * (rng.random(length) > 0.3)  # a third is not scored
        weights[-1] = 1.0
        rows.append((rng.integers(0, VOCABULARY + ADDED, length), weights))
    return Batch.of(rows, 0)


def gradients(engine: MlxEngine, method: StepMethod, batch: Batch) -> tuple[float, Named]:
    engine.use(method)
    engine.drop_gradients()
    loss = engine.accumulate(batch, batch.weight, 0)
    found = {name: np.array(gradient) for name, gradient in engine._gradients.by_name.items()}
    return loss, {parameter_name(name): g if name == TOKEN_ROWS_PATH else g.T for name, g in found.items()}


def assert_same(ours: Named, theirs: Named, tolerance: float) -> None:
    """Within `tolerance` of each gradient's own norm; of what vanishes, of a fortieth of all gradients' norm."""
    assert ours.keys() == theirs.keys()
    whole = np.linalg.norm([np.linalg.norm(gradient) for gradient in theirs.values()])
    for name, gradient in theirs.items():
        allowed = tolerance * max(np.linalg.norm(gradient), whole / 40)
        assert np.linalg.norm(ours[name] - gradient) <= allowed, name


RECURRENT = ("granitemoehybrid, mamba", "granitemoehybrid, mamba, groups", "qwen3_5_text, tied, gelu")


@pytest.mark.parametrize("case", [*FAMILIES, *RECURRENT])
def test_loss_gradients_scores_and_tokens_are_those_of_the_torch_engine(case: str, tmp_path: Path) -> None:
    published(tmp_path / "model", *CASES[case])
    of = settings(tmp_path / "model", "model.quantization=none", "training.use_gradient_checkpointing=false")
    one, other = (kind.create(of, TOKENIZER, "cpu") for kind in (TorchEngine, MlxEngine))  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    for name, parameter in one.parameters.items():
        if "lora_A" not in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    one.save_adapter(tmp_path)
    other.load_adapter(tmp_path)
    batch = batch_of(3 * WINDOW + 5, 2 * WINDOW - 3)
    np.testing.assert_allclose(other.score(batch), one.score(batch), atol=1e-4)
    loss = one.accumulate(batch, batch.weight, 0)
    theirs = {name: parameter.grad.numpy() for name, parameter in one.parameters.items()}
    whole, plain = gradients(other, StepMethod(), batch)
    assert whole == pytest.approx(loss, rel=1e-5)
    assert_same(plain, theirs, 1e-4)
    parts, chunked = gradients(other, StepMethod("chunked", 7), batch)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert_same(chunked, plain, 1e-5)
    prompt = list(range(5, 5 + WINDOW))
    assert other.generate(prompt, WINDOW) == one.generate(prompt, WINDOW)


@pytest.mark.parametrize("case", ["gemma3_text", "granitemoehybrid", "phi3", "stablelm"])
def test_in_4_bits_chunks_are_the_plain_step(case: str, tmp_path: Path) -> None:
    published(tmp_path / "model", *CASES[case])
    of = settings(tmp_path / "model", "model.quantization=nf4", "training.use_gradient_checkpointing=false")
    engine = MlxEngine.create(of, TOKENIZER, "cpu")
    modules = engine._settings.lora.module_names
    packed = [one for one in engine.model.modules() if isinstance(one, nn.QuantizedLinear)]
    assert len(packed) >= 3 * len(modules) - 3  # SharedMlp's second matrix is too narrow here
    for slot in engine.slots:
        if slot.attribute == "lora_b":
            slot.value = 0.05 * mx.random.normal(slot.value.shape)
    batch = batch_of(3 * WINDOW + 5)
    whole, plain = gradients(engine, StepMethod(), batch)
    parts, chunked = gradients(engine, StepMethod("chunked", 16), batch)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert_same(chunked, plain, 1e-5)


class HeldAtTheHead(StepObserver):
    """Bytes that live when the head begins, and those of the store alone."""

    def __init__(self, store: MemoryStore[mx.array]) -> None:
        self.store, self.live, self.stored = store, 0, 0

    def enter(self, part: StepPart) -> None:
        if part == "head":
            self.live, self.stored = mx.get_active_memory(), self.store.nbytes


def test_the_values_of_a_fused_projection_do_not_hold_its_queries(tmp_path: Path) -> None:
    published(tmp_path / "model", *CASES["phi3"])
    engine = MlxEngine.create(settings(tmp_path / "model", "model.quantization=none"), TOKENIZER, "cpu")
    watch = HeldAtTheHead(MemoryStore())
    engine.observe(StepMethod("chunked", 64), watch, watch.store)
    for _ in range(2):  # from the second step on, gradients exist
        before = mx.get_active_memory()
        engine.accumulate(batch_of(256), 1.0, 0)
    assert watch.stored > 300_000
    assert watch.live - before <= 1.2 * watch.stored
