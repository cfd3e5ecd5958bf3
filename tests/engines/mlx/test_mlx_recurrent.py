"""Recurrent layers of the MLX engine: gated DeltaNet and Mamba-2 in chunks against the plain step, and generation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from families import CASES, MAMBA, VOCABULARY, published
from test_mlx_families import TOKENIZER, assert_same, batch_of, gradients
from tiny import settings

from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.mlx import kv_cache
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.recurrent import gated_linear_attention, inverse_of_unit_lower
from longrepo.engines.model_shape import read_config
from longrepo.engines.prompt_cache import PromptCache
from longrepo.errors import InputError

KINDS = ("qwen3_5_text", "granitemoehybrid, mamba")
STORES = (StepMethod("chunked", 16), StepMethod("chunked", 16, "recompute", 2), StepMethod("chunked", 16, "disk"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: folder_of(tmp_path_factory.mktemp("model"), kind) for kind in KINDS}


def folder_of(folder: Path, kind: str, **changes: Any) -> Path:
    name, shape = CASES[kind]
    published(folder, name, shape | changes)
    return folder


def engine_on(folder: Path, *overrides: str) -> MlxEngine:
    """With LoRA that counts."""
    plain = ("model.quantization=none", "training.use_gradient_checkpointing=false")
    engine = MlxEngine.create(settings(folder, *plain, *overrides), TOKENIZER, "cpu")
    mx.random.seed(2)
    for slot in engine.slots:
        if slot.attribute == "lora_b":
            slot.value = 0.05 * mx.random.normal(slot.value.shape)
    return engine


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_every_gradient_are_the_plain_step_s_at_ragged_lengths(folders: dict[str, Path], kind: str) -> None:
    engine = engine_on(folders[kind], "lora.dropout=0.2")
    for lengths, chunks in (((2,), (1, 24)), ((73,), (24, 72)), ((90, 61), (17, 64, 89))):
        batch = batch_of(*lengths)
        loss, plain = gradients(engine, StepMethod(), batch)
        for chunk in chunks:
            ours, chunked = gradients(engine, StepMethod("chunked", chunk), batch)
            assert ours == pytest.approx(loss, rel=1e-5)
            assert_same(chunked, plain, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_state_hands_on_counts(folders: dict[str, Path], kind: str) -> None:
    """Only the last token is scored, chunks away from the first: without the states' gradients theirs would vanish."""
    engine = engine_on(folders[kind])
    batch = batch_of(70)
    batch.loss_weights[:, :-1] = 0
    _, plain = gradients(engine, StepMethod(), batch)
    _, chunked = gradients(engine, StepMethod("chunked", 16), batch)
    assert_same(chunked, plain, 1e-5)
    batch.input_ids[:, :16] = batch.input_ids[:, 16:17]
    _, other = gradients(engine, StepMethod("chunked", 16), batch)
    assert any(np.linalg.norm(other[name] - g) > 0.01 * np.linalg.norm(g) for name, g in chunked.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_store_never_changes_a_bit(folders: dict[str, Path], kind: str) -> None:
    engine = engine_on(folders[kind], "model.quantization=nf4", "training.precision=bfloat16", "lora.dropout=0.1")
    batch = batch_of(40)
    loss, memory = gradients(engine, STORES[0], batch)
    assert np.isfinite(loss)
    for method in STORES[1:]:
        again, other = gradients(engine, method, batch)
        assert again == loss
        assert all(np.array_equal(other[name], gradient) for name, gradient in memory.items()), method


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_a_cache_is_that_of_the_whole_forward(folders: dict[str, Path], kind: str) -> None:
    """With a prompt of more than one part, and one of which a cache keeps the beginning."""
    engine = engine_on(folders[kind])
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, 270).tolist()
    expected = list(prompt)
    for _ in range(6):
        expected.append(int(mx.argmax(engine.model(mx.array([expected]))[0, -1])))
    assert engine.generate(prompt, 6) == expected[270:]
    kept = PromptCache(1 << 30, 2)
    list(engine.stream(prompt[:200], 0, kept=kept))
    read: list[tuple[int, int]] = []
    again = list(engine.stream(prompt, 6, kept=kept, progress=lambda *at: read.append(at)))
    assert again == expected[270:]
    assert read[0] == (200, 270)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_holds_what_is_planned(folders: dict[str, Path], kind: str) -> None:
    engine, config = engine_on(folders[kind]), read_config(str(folders[kind]))
    for tokens in (2, 300):
        cache = engine.model.make_cache()
        for start in range(0, tokens, 256):
            mx.eval(engine.model(mx.array([[5] * min(256, tokens - start)]), cache=cache))
        assert kv_cache.cache_bytes(config, tokens, "float32") == sum(one.nbytes for one in cache)
    growing, fixed = kv_cache.kept_bytes(engine.model, "float32")
    assert engine.kept_bytes(300) == 2 * growing + fixed == sum(one.nbytes for one in cache)


def test_layers_of_attention_have_a_quantized_cache(tmp_path: Path) -> None:
    engine = engine_on(folder_of(tmp_path, "qwen3_5_text", head_dim=32))
    config = read_config(str(tmp_path))
    assert kv_cache.unsupported_bits_reason(config, 8, "cpu") is None
    assert engine.generate(list(range(40)), 6, bits=8) == engine.generate(list(range(40)), 6)
    packed, whole = (kv_cache.cache_bytes(config, 300, "float32", bits) for bits in (8, 16))
    assert kv_cache.state_bytes(engine.model, "float32") < packed < whole


def test_time_steps_are_limited(tmp_path: Path) -> None:
    """Against transformers; its way of computing a single token has no limits, so tokens aren't compared."""
    model = published(tmp_path, "GraniteMoeHybrid", MAMBA | {"time_step_limit": (0.5, 1.0)})
    ids = batch_of(40).input_ids % VOCABULARY
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    engine = engine_on(tmp_path)
    with engine.base_only():
        ours = np.array(engine.model(mx.array(ids)))[..., :VOCABULARY]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    free = published(tmp_path / "free", "GraniteMoeHybrid", MAMBA)
    with torch.no_grad():
        assert np.abs(free(torch.tensor(ids)).logits.numpy() - expected).max() > 0.1


@pytest.mark.parametrize("size", [1, 2, 32])
def test_keys_that_are_alike_keep_their_digits(size: int) -> None:
    """The powers of this matrix reach 1e17."""
    strict = mx.tril(mx.ones((3, size, size)), -1)
    inverse = np.array(inverse_of_unit_lower(strict))
    expected = np.linalg.inv(np.eye(size) + np.array(strict, np.float64))
    np.testing.assert_allclose(inverse, expected, atol=1e-6)


@pytest.mark.parametrize("beta", [False, True])
def test_blocks_compute_what_a_token_at_a_time_does(beta: bool) -> None:
    mx.random.seed(4)
    rows, heads, tokens = 2, 3, 70
    queries, keys = (mx.random.normal((rows, heads, tokens, 5)) * 0.4 for _ in range(2))
    values = mx.random.normal((rows, heads, tokens, 4))
    decay = -mx.random.uniform(0, 0.3, (rows, heads, tokens))
    share = mx.random.uniform(0, 1, (rows, heads, tokens)) if beta else None
    first = mx.random.normal((rows, heads, 5, 4))
    together, last = gated_linear_attention(queries, keys, values, decay, first, share)
    state = first
    for at in range(tokens):
        state = mx.exp(decay[:, :, at])[..., None, None] * state
        new = values[:, :, at]
        if share is not None:
            new = share[:, :, at, None] * (new - (keys[:, :, at, None] @ state).squeeze(-2))
        state = state + keys[:, :, at, :, None] * new[..., None, :]
        one = (queries[:, :, at, None] @ state).squeeze(-2)
        np.testing.assert_allclose(np.array(together[:, :, at]), np.array(one), atol=1e-5)
    np.testing.assert_allclose(np.array(last), np.array(state), atol=1e-5)


def test_experts_are_refused_in_a_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "granitemoehybrid, mamba", num_local_experts=2, num_experts_per_tok=1)
    with pytest.raises(InputError, match="num_local_experts: 0 only; use --engine torch"):
        engine_on(folder)


def test_a_last_token_alone_joins_the_chunk_before(folders: dict[str, Path]) -> None:
    engine = engine_on(folders["qwen3_5_text"])
    rng = np.random.default_rng(0)
    batch = Batch.of([(rng.integers(0, VOCABULARY, 49), np.ones(49))], 0)
    _, plain = gradients(engine, StepMethod(), batch)
    _, chunked = gradients(engine, StepMethod("chunked", 24), batch)
    assert_same(chunked, plain, 1e-5)
