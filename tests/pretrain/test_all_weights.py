"""Training all weights by the one engine: exact in chunks, resumable to the bit, planned as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.registry import choose_engine
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker, tensors_of
from longrepo.errors import InputError
from longrepo.memory.planner import MemoryPlanner

VOCABULARY = 4096


@pytest.fixture(scope="module")
def tokenizer() -> RepoTokenizer:
    return load_tokenizer("embedded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    config = Starcoder2Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, sliding_window=4096, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    Starcoder2ForCausalLM(config).save_pretrained(path)
    return path


def settings(folder: Path, *overrides: str) -> Settings:
    whole = ("training.weights=all", "model.quantization=none", "training.precision=float32")
    return load_settings(None, [f"model.name={folder}", *whole, *overrides])


def batch(seed: int = 0, tokens: int = 90) -> Batch:
    draw = np.random.default_rng(seed)
    rows = [(draw.integers(0, VOCABULARY, n), np.ones(n, np.float32)) for n in (tokens, tokens - 17)]
    return Batch.of(rows, 0)


def engine_of(folder: Path, tokenizer: RepoTokenizer, *overrides: str) -> TorchEngine:
    return TorchEngine.create(settings(folder, *overrides), tokenizer, "cpu")


def gradients(engine: TorchEngine) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in engine.parameters.items() if p.grad is not None}


@pytest.mark.parametrize(
    "method", [StepMethod(), StepMethod("chunked", 32), StepMethod("chunked", 40, "recompute", 2)], ids=str
)
def test_loss_and_every_gradient_are_those_of_the_plain_computation(
    folder: Path, tokenizer: RepoTokenizer, method: StepMethod
) -> None:
    engine, one = engine_of(folder, tokenizer), batch()
    engine.use(method)
    loss = engine.accumulate(one, one.weight, 0)
    found = gradients(engine)
    model = engine.model
    model.zero_grad()
    ids, weights = torch.from_numpy(one.input_ids), torch.from_numpy(one.loss_weights)[:, 1:]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    (each * weights).sum().div(one.weight).backward()
    assert loss == pytest.approx(float((each * weights).sum().detach()), rel=1e-5)
    assert found.keys() == engine.parameters.keys() == dict(model.named_parameters()).keys()
    for name, parameter in engine.parameters.items():
        assert parameter.grad is not None
        assert (found[name] - parameter.grad).norm() <= 2e-5 * parameter.grad.norm() + 1e-9, name


def test_weights_and_moments_read_back_go_on_to_the_same_bits(
    folder: Path, tokenizer: RepoTokenizer, tmp_path: Path
) -> None:
    def step(engine: TorchEngine, seed: int) -> None:
        engine.accumulate(batch(seed), 100.0, seed)
        engine.apply_update(1e-3, 1.0)

    one = engine_of(folder, tokenizer, "training.weight_decay=0.1")
    step(one, 1)
    one.save_adapter(tmp_path)
    one.save_optimizer(tmp_path / "optimizer.safetensors")
    step(one, 2)
    other = engine_of(folder, tokenizer, "training.weight_decay=0.1")
    other.load_adapter(tmp_path)
    other.load_optimizer(tmp_path / "optimizer.safetensors")
    step(other, 2)
    for name, parameter in one.parameters.items():
        assert torch.equal(parameter, other.parameters[name]), name
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert plain.config.max_position_embeddings == 256 and plain.config.tie_word_embeddings


def test_only_matrices_decay(folder: Path, tokenizer: RepoTokenizer) -> None:
    engine = engine_of(folder, tokenizer, "training.weight_decay=0.5")
    before = {name: p.detach().clone() for name, p in engine.parameters.items()}
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    engine.apply_update(1e-1, 1.0)
    for name, parameter in engine.parameters.items():
        assert torch.equal(parameter, before[name]) == (parameter.ndim == 1), name


@pytest.mark.parametrize(
    ("method", "precision"),
    [(StepMethod(), "float32"), (StepMethod("chunked", 32), "float32"), (StepMethod(), "bfloat16")],
    ids=str,
)
def test_a_step_needs_what_was_planned(
    folder: Path, tokenizer: RepoTokenizer, method: StepMethod, precision: str
) -> None:
    engine = engine_of(folder, tokenizer, f"training.precision={precision}")
    engine.use(method)
    one = Batch.of([(np.arange(200) % 50, np.ones(200))], 0)
    engine.accumulate(one, 400.0, 0)
    engine.apply_update(1e-5, 1.0)
    engine.accumulate(one, 400.0, 1)
    tracker = PeakTracker()
    tracker.adopt(tensors_of(engine.model), "model")
    tracker.adopt([p.grad for p in engine.parameters.values() if p.grad is not None], "gradients")
    tracker.adopt([t for state in engine.optimizer.state.values() for t in state.values()], "moments")
    with tracker:
        engine.accumulate(one, 400.0, 2)
        engine.apply_update(1e-5, 1.0)
    of = settings(folder, f"training.precision={precision}")
    planned = MemoryPlanner.of(of, "cpu", precision).planned(method, 200).memory
    parameters = sum(p.numel() for p in engine.parameters.values())
    assert planned.gradients == 4 * parameters and planned.adapter == 0
    assert planned.peak == pytest.approx(tracker.peak, rel=0.02)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_base_is_what_training_began_with_and_every_trained_bit_is_back(
    folder: Path, tokenizer: RepoTokenizer, tmp_path: Path, stored: torch.dtype
) -> None:
    Starcoder2ForCausalLM.from_pretrained(folder, dtype=stored).save_pretrained(tmp_path)
    fresh = engine_of(tmp_path, tokenizer).score(batch())
    engine = engine_of(tmp_path, tokenizer)
    engine.accumulate(batch(1), 100.0, 1)
    engine.apply_update(1e-2, 1.0)
    engine.accumulate(batch(2), 100.0, 2)
    held, moments = gradients(engine), [*_moments(engine)]
    trained, weights = engine.score(batch()), {name: p.detach().clone() for name, p in engine.parameters.items()}
    for _ in range(2):
        with engine.base_only():
            np.testing.assert_array_equal(engine.score(batch()), fresh)
    with pytest.raises(KeyboardInterrupt), engine.base_only():
        raise KeyboardInterrupt
    np.testing.assert_array_equal(engine.score(batch()), trained)
    assert (trained != fresh).any()
    assert all(torch.equal(p, weights[name]) for name, p in engine.parameters.items())
    assert gradients(engine).keys() == held.keys() and all(
        torch.equal(g, held[n]) for n, g in gradients(engine).items()
    )
    assert all(torch.equal(one, other) for one, other in zip(_moments(engine), moments, strict=True))
    kept = engine._start._weights.values() if engine._start else ()
    assert {one.dtype for one in kept if one.ndim > 1} == {stored}, "as it is stored"


def _moments(engine: TorchEngine) -> Iterator[torch.Tensor]:
    return (tensor.clone() for state in engine.optimizer.state.values() for tensor in state.values())


def test_a_start_that_is_another_model_by_now_is_refused(
    folder: Path, tokenizer: RepoTokenizer, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "start")
    engine = engine_of(tmp_path / "start", tokenizer)
    config = Starcoder2Config.from_pretrained(folder, intermediate_size=64)
    Starcoder2ForCausalLM(config).save_pretrained(tmp_path / "start")
    with (
        pytest.raises(InputError, match=r"isn't the model that training began with \(.*mlp.*differs\)"),
        engine.base_only(),
    ):
        pass


def test_what_cannot_be_is_refused(folder: Path, tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training\.weights: all needs model\.quantization=none"):
        load_settings(None, ["training.weights=all"])
    with pytest.raises(InputError, match=r"--engine mlx: with .*=all it trains LoRA alone; use --engine torch"):
        choose_engine("mlx", "cpu", "all")
    engine = engine_of(folder, tokenizer)
    with pytest.raises(InputError, match="can't be read as a model's weights"):
        engine.load_adapter(tmp_path)
