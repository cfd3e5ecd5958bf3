"""`lora.target_modules: auto`: what it comes to by architecture, in both engines, and what isn't trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engines.tiny import TinyTokenizer, settings
from transformers import AutoConfig, AutoModelForCausalLM

from longrepo.config.loader import load_settings
from longrepo.engines.adapter_io import read_adapter_config
from longrepo.engines.lora_targets import with_lora_targets
from longrepo.engines.mlx.models import FAMILIES
from longrepo.engines.model_shape import read_shape
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.lora import attach_lora
from longrepo.errors import InputError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
DELTA_NET = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
KNOWN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "starcoder2": ({}, (*ATTENTION, "c_fc", "c_proj")),
    "qwen2": ({}, GATED),
    "phi3": ({"pad_token_id": 0}, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "gpt_bigcode": ({}, ("c_attn", "c_proj", "c_fc")),
    "qwen3_5_text": ({"layer_types": ["linear_attention", "full_attention"]}, (*DELTA_NET, *GATED)),
    "mixtral": (EXPERTS, ATTENTION),
    "phimoe": (EXPERTS, ATTENTION),  # its router is a linear layer
    "qwen2_moe": (EXPERTS, GATED),  # those of the shared expert, but not its gate
    "granitemoehybrid": (
        EXPERTS
        | {"layer_types": ["mamba", "attention"], "num_local_experts": 0, "mamba_n_heads": 4, "mamba_d_head": 32},
        ("in_proj", "out_proj", "input_linear", "output_linear", *ATTENTION),
    ),
}


def tiny_config(kind: str, **changes: Any) -> Any:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return AutoConfig.for_model(kind, **shape | ids | {"intermediate_size": 96, "vocab_size": 96} | changes)


@pytest.mark.parametrize("kind", KNOWN)
def test_auto_is_every_linear_layer_of_a_block(kind: str) -> None:
    changes, modules = KNOWN[kind]
    shape = read_shape(tiny_config(kind, **changes))
    assert set(shape.targets) == set(modules) and len(shape.targets) == len(modules)
    assert bool(shape.experts) == (kind in ("mixtral", "phimoe", "qwen2_moe"))


def test_the_default_base_keeps_its_six_modules_in_their_order() -> None:
    assert read_shape(tiny_config("starcoder2")).targets == KNOWN["starcoder2"][1]


IN_MLX: dict[str, dict[str, Any]] = {
    "phi3": {"pad_token_id": 0},
    "smollm3": {"pad_token_id": 0},
    "mellum": EXPERTS,
    "granitemoehybrid": {"layer_types": ["attention"] * 2, "num_local_experts": 0},
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_both_engines_find_the_same(kind: str) -> None:
    config = tiny_config(kind, **IN_MLX.get(kind, {}))
    torch_, mlx = read_shape(config), read_shape(config, "mlx")
    assert (set(mlx.targets), mlx.lora) == (set(torch_.targets), torch_.lora)


def test_experts_that_no_lora_reaches_are_counted() -> None:
    """Of each: four experts with 16 inner features of 64, gate and up in one."""
    assert read_shape(tiny_config("qwen2_moe", **EXPERTS)).experts == 2 * 4 * (2 * 16 * 64 + 64 * 16)


def test_fused_projections_are_trained_and_named_in_the_adapter(tmp_path: Path) -> None:
    base, saved = tmp_path / "base", tmp_path / "adapter"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config("phi3", pad_token_id=0)).save_pretrained(base)
    engine = TorchEngine.create(settings(base), TinyTokenizer(), "cpu")  # type: ignore[arg-type]
    trained = {name.split(".")[-4] for name in engine.parameters if "lora_" in name}
    assert trained == set(KNOWN["phi3"][1])
    saved.mkdir()
    engine.save_adapter(saved)
    assert set(read_adapter_config(saved)["target_modules"]) == trained
    assert engine.freeze(["gate_up_proj"]) == 2 * 4 * (64 + 2 * 96)


def test_a_base_without_linear_layers_is_refused() -> None:
    shape = read_shape(tiny_config("gpt2"))
    with pytest.raises(InputError, match=r"lora\.target_modules: the blocks of gpt2 have no linear layers"):
        with_lora_targets(load_settings(None, ["model.name=gpt2"]), shape.targets)


def test_what_peft_refuses_is_said_in_a_line() -> None:
    """Mamba's output layer: its fused kernel would compute past LoRA."""
    config = tiny_config("falcon_h1", mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match=r"^lora\.target_modules: PEFT can't train those of base: .*out_proj"):
        attach_lora(base, load_settings(None, ["model.name=base"]))


def test_a_list_overrides_it() -> None:
    asked = load_settings(None, ["lora.target_modules=[v_proj, q_proj]"])
    assert with_lora_targets(asked, GATED) is asked and asked.lora.module_names == ("v_proj", "q_proj")
    with pytest.raises(InputError, match=r"lora\.target_modules: expected 'auto' or a list, got 'q_proj'"):
        load_settings(None, ["lora.target_modules=q_proj"])
