"""The computed size of keys and values is that of the arrays which generation makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import torch
from mlx_lm.generate import generate_step
from tiny import TinyTokenizer, model_folder, settings

from longrepo.config.schema import ContextSettings
from longrepo.engines.mlx import kv_cache as on_mlx
from longrepo.engines.model_shape import read_config
from longrepo.engines.registry import cache_library, choose_engine, create_engine
from longrepo.engines.torch import engine as torch_engine
from longrepo.engines.torch import kv_cache as on_torch

FULL = ContextSettings(method="linear", target_length=1024, window="full")
OWN = ContextSettings()
LENGTHS = (1, 10, 100, 300)
PART = 64  # tokens of a prompt that are read together


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two key-value heads of 64, a window of 16 tokens."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    return model_folder(folder, hidden_size=256, max_position_embeddings=512)


@pytest.fixture(scope="module")
def engines(model: Path) -> dict[str, Any]:
    given: Any = TinyTokenizer()
    exact = settings(model, "model.quantization=none")
    return {name: create_engine(choose_engine(name, "cpu"), exact, given, "cpu") for name in ("torch", "mlx")}


def test_each_engine_has_its_own_library() -> None:
    assert cache_library("torch") is on_torch
    assert cache_library("mlx") is on_mlx


def prompt(tokens: int) -> list[int]:
    return [1 + place % 90 for place in range(tokens)]


@pytest.mark.parametrize(("context", "bits"), [(OWN, 16), (FULL, 16), (FULL, 8)])
def test_transformers_holds_what_is_computed(
    model: Path, engines: dict[str, Any], context: ContextSettings, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, config = engines["torch"], read_config(str(model), None, context)
    assert on_torch.unsupported_bits_reason(config, bits, "cpu") is None
    engine.position(context)
    for module in (on_torch, torch_engine):
        monkeypatch.setattr(module, "PROMPT_PART", PART)
    for tokens in LENGTHS:
        cache = on_torch.make_cache(engine.base.config, bits)
        with monkeypatch.context() as patched:
            patched.setattr(on_torch, "make_cache", lambda *_, cache=cache: cache)
            engine.generate(prompt(tokens), 1)
        assert on_torch.cache_bytes(config, tokens, "float32", bits) == on_torch.held_bytes(cache)
    if bits == 8:  # a byte a value, and a scale for each layer's keys and values
        assert on_torch.cache_bytes(config, 300, "float32", 8) == 2 * 2 * (300 * 2 * 64 + 4)


@pytest.mark.parametrize(("context", "bits"), [(OWN, 16), (FULL, 16), (FULL, 8), (FULL, 4)])
def test_mlx_lm_holds_what_is_computed(
    model: Path, engines: dict[str, Any], context: ContextSettings, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_mlx, "PROMPT_PART", PART)
    engine, config = engines["mlx"], read_config(str(model), None, context)
    assert on_mlx.unsupported_bits_reason(config, bits, "cpu") is None
    engine.position(context)
    engine.model.eval()
    for tokens in LENGTHS:
        caches, held = engine.model.make_cache(), []

        def note(*_: int, caches: Any = caches, held: list[int] = held) -> None:
            held.append(sum(cache.nbytes for cache in caches))

        asked = {"prefill_step_size": PART, **on_mlx.generation_options(engine.model.published, bits)}
        ids = mx.array(prompt(tokens))
        steps = generate_step(
            ids, engine.model, max_tokens=1, prompt_cache=caches, prompt_progress_callback=note, **asked
        )
        next(steps)
        steps.close()
        # the first step of decoding is computed ahead, and may have added its token: 256 places at a time
        assert on_mlx.cache_bytes(config, tokens, "float32", bits) == max(held[1:], default=held[0])
    if bits == 4:  # half a byte a value, and of each 64 a scale and a bias in float32, 256 places at a time
        assert on_mlx.cache_bytes(config, 300, "float32", 4) == 2 * 2 * 2 * 512 * (32 + 8)


def test_why_a_cache_cannot_be_had_is_said(model: Path, tmp_path: Path) -> None:
    own, full = (read_config(str(model), None, context) for context in (OWN, FULL))
    for library in (on_torch, on_mlx):
        assert "for layers with a window" in str(library.unsupported_bits_reason(own, 8, "cpu"))
    assert "optimum-quanto or hqq" in str(on_torch.unsupported_bits_reason(full, 4, "cpu"))
    assert "Metal doesn't have" in str(on_torch.unsupported_bits_reason(full, 8, "mps"))
    narrow = read_config(str(model_folder(tmp_path / "narrow")), None, ContextSettings(window="full"))
    assert "its heads have 16" in str(on_mlx.unsupported_bits_reason(narrow, 8, "cpu"))


@pytest.mark.parametrize(("context", "bits"), [(OWN, 16), (FULL, 16), (FULL, 8)])
def test_the_torch_engine_writes_what_greedy_generation_of_transformers_writes(
    engines: dict[str, Any], context: ContextSettings, bits: int
) -> None:
    engine, new = engines["torch"], 40
    engine.position(context)
    options = {} if bits == 16 else {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    for tokens in (1, 10, 100):
        ids = torch.tensor([prompt(tokens)])
        mask = torch.ones_like(ids)
        out = engine.model.eval().generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, **options
        )
        assert engine.generate(prompt(tokens), new, bits=bits) == out[0, tokens:].tolist()


@pytest.mark.parametrize(("name", "bits"), [("torch", 8), ("mlx", 8), ("mlx", 4)])
def test_it_writes_with_a_packed_cache_and_tells_each_token(engines: dict[str, Any], name: str, bits: int) -> None:
    engine, told = engines[name], []
    engine.position(FULL)
    plain = engine.generate(prompt(60), 8)
    packed = engine.generate(prompt(60), 8, bits=bits, tick=lambda: told.append(1))
    assert len(told) in (len(packed), len(packed) + 1) and packed[:1] == plain[:1]
