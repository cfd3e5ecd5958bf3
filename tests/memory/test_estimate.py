"""The shape of a model, and what a step of it needs: dry runs at the lengths that extrapolate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longrepo.config.loader import load_settings
from longrepo.engines.base import StepMethod
from longrepo.engines.model_shape import read_config, read_shape
from longrepo.errors import InputError
from longrepo.memory.estimate import Estimator

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")


def config_of(folder: Path, **changes: Any) -> Any:
    config = {
        "model_type": "starcoder2",
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "vocab_size": 49152,
        "max_position_embeddings": 16384,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    return read_config(str(folder))


def estimator(config: Any, *overrides: str) -> Estimator:
    return Estimator(config, load_settings(None, overrides), "cpu", "bfloat16", 20)


def test_the_shape_is_counted_on_the_architecture(tmp_path: Path) -> None:
    shape = read_shape(config_of(tmp_path))
    assert shape.linear + shape.other == 3_030_371_328  # as published
    assert shape.max_positions == 16384
    assert shape.lora_parameters(32, MODULES) == 32 * 30 * 49664


def test_no_configuration_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        read_config(str(tmp_path))


def test_starcoder2_3b_at_1024_tokens_is_what_its_tensors_add_up_to(tmp_path: Path) -> None:
    """Weights as counted on a loaded model; LoRA in float32, its gradient, its two moments."""
    step = estimator(config_of(tmp_path)).step(StepMethod(), 1024)
    assert step.weights / 2**30 == pytest.approx(1.67, abs=0.01)
    lora = 4 * (32 * 30 * 49664 + 20 * 3072)
    assert step.adapter == lora
    assert step.gradients == pytest.approx(lora, rel=0.001)
    assert step.moments == pytest.approx(2 * lora, rel=0.001)
    assert step.kept >= 30 * 1024 * 3072 * 2, "each layer's input"
    assert step.peak == sum((step.weights, step.adapter, step.gradients, step.moments, step.kept, step.working))


@pytest.mark.parametrize("method", [StepMethod("chunked", 32), StepMethod("chunked", 32, "disk")], ids=str)
def test_long_sequences_are_extrapolated_to_what_a_direct_dry_run_finds(tmp_path: Path, method: StepMethod) -> None:
    small = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "vocab_size": 500}
    one = estimator(config_of(tmp_path, **small, num_hidden_layers=1, sliding_window=64), "lora.r=4")
    tokens = 7 * 32 + 5
    assert one._lengths(method, tokens) == (101, 133)
    direct = one.dry_run(method).at(1, tokens, every_chunk=True)
    highest = max(value for name, value in direct.items() if name.startswith("peak "))
    found = one.step(method, tokens)
    assert found.peak == pytest.approx(highest, rel=0.001)
    assert (found.disk_written, found.disk_held) == (direct["disk_written"], direct["disk_held"])


def test_what_was_dry_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGREPO_CACHE", str(tmp_path / "cache"))
    small = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 1}
    config = config_of(tmp_path, **small)
    first = estimator(config, "lora.r=4").step(StepMethod(), 40)

    def refuse(*_: object) -> None:
        raise AssertionError("a dry run")

    monkeypatch.setattr(Estimator, "dry_run", refuse)
    assert estimator(config, "lora.r=4").step(StepMethod(), 40) == first
    with pytest.raises(AssertionError):
        estimator(config, "lora.r=8").step(StepMethod(), 40)
    (tmp_path / "cache" / "dry_runs.json").write_text("{")
    with pytest.raises(AssertionError):
        estimator(config, "lora.r=4").step(StepMethod(), 40)
