"""The estimate of a step's memory against what is known, and the budget it is held to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longrepo.config.load import load_settings
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, find_budget
from longrepo.memory.estimate import estimate_step
from longrepo.memory.shape import ModelShape, read_shape


@pytest.fixture(scope="module")
def starcoder2_3b(tmp_path_factory: pytest.TempPathFactory) -> ModelShape:
    folder = tmp_path_factory.mktemp("shape")
    config = {
        "model_type": "starcoder2",
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "vocab_size": 49152,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return read_shape(str(folder))


def test_the_shape_is_counted_on_the_architecture(starcoder2_3b: ModelShape) -> None:
    assert starcoder2_3b.linear + starcoder2_3b.other == 3_030_371_328  # as published
    assert starcoder2_3b.max_positions == 16384
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")
    assert starcoder2_3b.lora_parameters(32, modules) == 32 * 30 * 49664


def test_four_bit_weights_of_starcoder2_3b_take_1_67_gib(starcoder2_3b: ModelShape) -> None:
    """NF4 with double quantisation and a bfloat16 embedding, as counted on a loaded model."""
    step = estimate_step(starcoder2_3b, load_settings(None), 1024, "cuda", 2)
    assert step.weights / GIB == pytest.approx(1.67, abs=0.01)


@pytest.mark.parametrize(("length", "dry_run"), [(1024, 3.21), (2048, 3.84), (4096, 7.73)])
def test_on_metal_it_is_within_a_sixth_of_a_dry_run(starcoder2_3b: ModelShape, length: int, dry_run: float) -> None:
    step = estimate_step(starcoder2_3b, load_settings(None), length, "mps", 2)
    assert dry_run <= step.total / GIB <= dry_run * 7 / 6


def test_each_saving_shows(starcoder2_3b: ModelShape) -> None:
    def total(*overrides: str, device: str = "cuda", length: int = 2048) -> int:
        return estimate_step(starcoder2_3b, load_settings(None, overrides), length, device, 2).total

    plain = total()
    assert total("training.use_gradient_checkpointing=false") > plain
    assert total("model.quantization=none") > plain
    assert total("lora.r=64") > plain
    assert total("training.batch_size_reference=2") > plain
    assert total(device="mps") > plain
    assert total(length=1024) < plain


def test_a_set_budget_is_a_limit_and_never_above_what_the_machine_has() -> None:
    free = find_budget("cpu", None)
    assert not free.limit and free.bytes > 0
    assert find_budget("cpu", 0.001).bytes == int(0.001 * GIB)
    beyond = find_budget("cpu", 1e6)
    assert beyond.limit and beyond.bytes < 1e6 * GIB and "less than memory.budget_gb" in beyond.reason


def test_no_configuration_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        read_shape(str(tmp_path))
