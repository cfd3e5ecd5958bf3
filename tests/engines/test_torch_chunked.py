"""The chunked step against the plain one: loss and every gradient, for several architectures, lengths and stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ADDED, VOCABULARY, TinyTokenizer, model_folder, settings
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.torch import attention
from longrepo.engines.torch.engine import TorchEngine
from longrepo.errors import InputError, RunError

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.1,
}
GATED = "lora.target_modules=[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"
EXACT = ("model.quantization=none",)
STORES = (StepMethod("chunked", 24), StepMethod("chunked", 24, "recompute", 2), StepMethod("chunked", 24, "disk"))


def save(model: torch.nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def folder_of(kind: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A small random model of an architecture, and the settings it needs."""
    torch.manual_seed(7)
    if kind.startswith("starcoder2"):
        window = 16 if "windowed" in kind else None
        tied = "untied" not in kind
        shape = {"num_hidden_layers": 5, "initializer_range": 0.1}
        return model_folder(folder, **shape, sliding_window=window, tie_word_embeddings=tied), EXACT
    if kind == "llama":
        return save(LlamaForCausalLM(LlamaConfig(**SHAPE)), folder), (*EXACT, GATED)
    if kind == "qwen2":
        window = {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}
        return save(Qwen2ForCausalLM(Qwen2Config(**SHAPE, **window)), folder), (*EXACT, GATED)
    if kind == "mistral":
        return save(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=16)), folder), (*EXACT, GATED)
    return save(GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=16)), folder), (*EXACT, GATED)


ARCHITECTURES = (
    "starcoder2 full",
    "starcoder2 windowed",
    "starcoder2 windowed untied",
    "llama",
    "qwen2",
    "mistral",
    "gemma",
)


def engine_of(folder: Path, *overrides: str) -> TorchEngine:
    """With an adapter that counts: LoRA's B starts at zero, which would hide A's gradient."""
    engine = TorchEngine.create(settings(folder, *overrides), TinyTokenizer(), "cpu")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in engine.parameters.items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    return engine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("starcoder2 windowed", tmp_path_factory.mktemp("tiny"))[0]


def random_batch(*lengths: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        weights = rng.random(length) * (rng.random(length) > 0.3)
        weights[-1] = 1.0
        rows.append((rng.integers(0, VOCABULARY + ADDED, length).tolist(), weights.tolist()))
    return Batch.of(rows, 0)


def gradients(engine: TorchEngine, method: StepMethod, *batches: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    engine.use(method)
    engine.drop_gradients()
    weight = sum(batch.weight for batch in batches)
    loss = sum(engine.accumulate(batch, weight, key) for key, batch in enumerate(batches)) / weight
    return loss, {name: p.grad.clone() for name, p in engine.parameters.items() if p.grad is not None}


def assert_same(ours: dict[str, torch.Tensor], plain: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Within `tolerance` of each gradient's own norm. What vanishes exactly (queries that see one key) is noise in
    the plain step: there the norm of all gradients counts, forty times finer."""
    assert ours.keys() == plain.keys()
    whole = torch.stack([gradient.norm() for gradient in plain.values()]).norm()
    for name, gradient in plain.items():
        assert (ours[name] - gradient).norm() <= tolerance * max(gradient.norm(), whole / 40), name


@pytest.mark.parametrize("kernel", ["fused", "tiled"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_loss_and_every_gradient_are_the_plain_step_s(kind: str, kernel: Any, tmp_path: Path) -> None:
    folder, overrides = folder_of(kind, tmp_path)
    engine = engine_of(folder, *overrides)
    for length in (2, 24, 25, 48, 100):
        batch = random_batch(length, seed=length)
        loss, plain = gradients(engine, StepMethod(), batch)
        with attention.force_kernel(kernel, 10):
            for method in STORES if length == 100 else STORES[:1]:
                ours, chunked = gradients(engine, method, batch)
                assert ours == pytest.approx(loss, rel=1e-5)
                assert_same(chunked, plain)


@pytest.mark.parametrize("chunk", [16, 17, 64, 100, 128])
def test_any_chunk_size_with_dropout_padding_and_accumulation(tiny: Path, chunk: int) -> None:
    engine = engine_of(tiny, *EXACT, "lora.dropout=0.3")
    batches = [random_batch(33, 100, 7), random_batch(70, seed=1)]
    loss, plain = gradients(engine, StepMethod(), *batches)
    ours, chunked = gradients(engine, StepMethod("chunked", chunk), *batches)
    assert ours == pytest.approx(loss, rel=1e-5)
    assert_same(chunked, plain)


def test_chunks_without_a_scored_token(tiny: Path) -> None:
    engine = engine_of(tiny, *EXACT)
    for scored in ([70], [1], [30, 31, 99], [20, 60]):
        ids = np.random.default_rng(3).integers(0, VOCABULARY, 100)
        weights = np.zeros(100)
        weights[scored] = 0.5
        batch = Batch.of([(ids, weights)], 0)
        loss, plain = gradients(engine, StepMethod(), batch)
        ours, chunked = gradients(engine, StepMethod("chunked", 16), batch)
        assert ours == pytest.approx(loss, rel=1e-5)
        assert_same(chunked, plain)
    nothing = Batch.of([(ids, np.zeros(100))], 0)
    engine.drop_gradients()
    assert engine.accumulate(nothing, 1.0, 0) == 0.0
    assert all(p.grad is None for p in engine.parameters.values())


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_store_never_changes_a_bit(tiny: Path, quantization: str, precision: str) -> None:
    overrides = (f"model.quantization={quantization}", f"training.precision={precision}", "lora.dropout=0.1")
    engine = engine_of(tiny, *overrides)
    batch = random_batch(100, 60)
    loss, memory = gradients(engine, STORES[0], batch)
    for method in (*STORES[1:], StepMethod("chunked", 24, "recompute", 3), StepMethod("chunked", 24, "recompute", 9)):
        again, other = gradients(engine, method, batch)
        assert again == loss
        assert all(torch.equal(other[name], gradient) for name, gradient in memory.items()), method


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_bfloat16_is_about_as_far_from_the_truth_as_the_plain_step(tiny: Path, quantization: str) -> None:
    batch = random_batch(100, 90, 80)
    # The truth has the same rounded weights: what is compared is the step's arithmetic.
    engine = engine_of(tiny, f"model.quantization={quantization}", "training.precision=bfloat16")
    exact = engine_of(tiny, f"model.quantization={quantization}", "training.precision=float32")
    with torch.no_grad():
        for (_, rounded), (_, full) in zip(
            engine.model.named_parameters(), exact.model.named_parameters(), strict=True
        ):
            if rounded.dtype == torch.bfloat16:
                full.copy_(rounded.float())
    _, truth = gradients(exact, StepMethod(), batch)
    _, plain = gradients(engine, StepMethod(), batch)
    _, chunked = gradients(engine, StepMethod("chunked", 24), batch)

    def error(of: dict[str, torch.Tensor]) -> float:
        wrong = sum(float((of[n] - g).square().sum()) for n, g in truth.items())
        return float((wrong / sum(float(g.square().sum()) for g in truth.values())) ** 0.5)

    assert error(chunked) <= 1.5 * error(plain)


def test_scores_are_the_plain_step_s(tiny: Path) -> None:
    engine = engine_of(tiny, *EXACT)
    batch = random_batch(100, 30)
    plain = engine.score(batch)
    engine.use(StepMethod("chunked", 24))
    np.testing.assert_allclose(engine.score(batch), plain, rtol=1e-4, atol=1e-5)


def test_nothing_is_left_in_the_scratch_folder(tiny: Path, tmp_path: Path) -> None:
    engine = engine_of(tiny, *EXACT)
    engine.use(StepMethod("chunked", 24, "disk"), tmp_path)
    engine.accumulate(random_batch(100), 1.0, 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="can't create a file for the step's store"):
        engine.use(StepMethod("chunked", 24, "disk"), tmp_path / "missing")


def test_an_architecture_that_does_not_ask_its_cache_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(tiny, *EXACT)
    layer: Any = engine.model.get_base_model().get_decoder().layers[0]
    forward = layer.forward

    def without_cache(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs["past_key_values"] = None
        return forward(hidden, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", without_cache)
    with pytest.raises(InputError, match="can't be trained in chunks"):
        engine.use(StepMethod("chunked", 24))
    assert engine.method == StepMethod()


def test_frozen_modules_keep_their_values_and_hold_no_gradient(tiny: Path) -> None:
    engine = engine_of(tiny, *EXACT)
    batch = random_batch(60)
    engine.use(StepMethod("chunked", 24))
    engine.accumulate(batch, batch.weight, 0)
    engine.apply_update(1e-3, 1.0)
    everything = dict(engine.parameters)
    count = engine.freeze(["c_fc", "c_proj"])
    frozen = {name: p.clone() for name, p in everything.items() if name not in engine.parameters}
    assert count == sum(p.numel() for p in frozen.values()) > 0
    assert all("c_fc" in name or "c_proj" in name for name in frozen)
    before = {name: p.clone() for name, p in engine.parameters.items()}
    engine.accumulate(batch, batch.weight, 1)
    engine.apply_update(1e-3, 1.0)
    assert all(torch.equal(everything[name], p) and everything[name].grad is None for name, p in frozen.items())
    assert not any(torch.equal(engine.parameters[name], p) for name, p in before.items())
