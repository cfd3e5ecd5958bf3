"""Tiny random models of each architecture people tune, each with a tokenizer of its dialect: folders as on the hub."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longrepo.data.dialects import DIALECTS, NO_DIALECT

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dialect_tokenizers import write_in_dialect

WIDTH = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
FOUR_LAYERS = {"num_hidden_layers": 4}
NO_EXPERTS = {
    "num_local_experts": 0,
    "shared_intermediate_size": 128,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 32,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@dataclass(frozen=True)
class TinyBase:
    """A base by the name of the real one that it stands for. `model_type` and `shape`: of its config.json; `dialect`: a
    row of `longrepo.data.dialects`; `special`: whether its tokens are special ones, as its publisher has them."""

    name: str
    model_type: str
    dialect: str = "none"
    shape: dict[str, Any] = field(default_factory=dict)
    special: bool = True


# Qwen3.5's linear attention with random weights makes much of rounding: its plain float32 step is 5e-5 away from
# float64's. A larger `rms_norm_eps`, and decays and convolutions as trained models have them, keep that in bounds.
BASES = (
    TinyBase("StarCoder2-3B", "starcoder2", "StarCoder2", {"sliding_window": 64}),
    TinyBase("Qwen2.5-Coder-1.5B", "qwen2", "Qwen", special=False),
    TinyBase("Qwen3-1.7B-Base", "qwen3", "Qwen", {"head_dim": 32}, special=False),
    TinyBase("Qwen3.5-2B-Base", "qwen3_5_text", "Qwen", FOUR_LAYERS | {
        "head_dim": 32, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "rms_norm_eps": 1e-2, "initializer_range": 0.1}, special=False),
    TinyBase("DeepSeek-Coder-1.3B", "llama", "DeepSeek", special=False),
    TinyBase("CodeLlama-7B", "llama", "Code Llama"),
    TinyBase("CodeGemma-2B", "gemma", "CodeGemma", {"head_dim": 32}),
    TinyBase("Gemma-3-1B", "gemma3_text", "none", FOUR_LAYERS | {"head_dim": 32, "sliding_window": 64}),
    TinyBase("Codestral-22B", "mistral", "Codestral"),
    TinyBase("Granite-4.1-3B-Base", "granite", "Granite 4", {
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.0625,
        "logits_scaling": 8.0}),
    TinyBase("Granite-4.0-1B", "granitemoehybrid", "Granite 4", NO_EXPERTS | {"layer_types": ["attention"] * 2}),
    TinyBase("Granite-4.0-H-1B", "granitemoehybrid", "Granite 4", FOUR_LAYERS | NO_EXPERTS | {
        "layer_types": ["mamba", "mamba", "mamba", "attention"], "initializer_range": 0.1}),
    TinyBase("Mellum-4b-base", "llama", "Mellum"),
    TinyBase("Mellum2-12B", "mellum", "Mellum", EXPERTS | {"head_dim": 16}),
    TinyBase("Seed-Coder-8B-Base", "llama", "Seed-Coder"),
    TinyBase("StableCode-3B", "stablelm", "Stable Code", {"partial_rotary_factor": 0.25}),
    TinyBase("Granite-3B-Code", "llama", "StarCoder"),
    TinyBase("CodeGeeX4-9B", "glm4", "CodeGeeX4", {"head_dim": 16}),
    TinyBase("SmolLM2-135M", "llama", "SmolLM"),
    TinyBase("SmolLM3-3B", "smollm3", "none", FOUR_LAYERS | {"no_rope_layers": [1, 1, 1, 0]}),
    TinyBase("OpenCoder-1.5B", "llama"),
    TinyBase("OLMo-2-1B", "olmo2", "names of Qwen"),
    TinyBase("Phi-3-mini", "phi3"),
)  # fmt: skip


def write(base: TinyBase, folder: Path) -> None:
    """Write a base's folder: config.json, random weights, tokenizer.json and tokenizer_config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dialect = next(one for one in (*DIALECTS, NO_DIALECT) if one.name == base.dialect)
    write_in_dialect(dialect, folder, special=base.special)
    known = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = known["model"]["vocab"] | {token["content"]: token["id"] for token in known["added_tokens"]}
    ends = {
        "bos_token_id": ids.get(dialect.begin), "eos_token_id": ids[dialect.end],
        "pad_token_id": ids[dialect.pad or dialect.end],
    }  # fmt: skip
    config = AutoConfig.for_model(base.model_type, **WIDTH | {"vocab_size": len(ids)} | ends | base.shape)
    torch.manual_seed(7)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # transformers begins with zeros there, and norms of zeros have gradients beyond all measure
        model.get_input_embeddings().weight[ends["pad_token_id"]].normal_(0, WIDTH["initializer_range"])
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):  # steps of 0.001 to 0.1, with which these layers begin their training
                step = 0.001 + 0.1 * torch.rand_like(parameter)
                parameter.copy_(step + torch.log(-torch.expm1(-step)))
            elif name.endswith("conv1d.weight"):
                parameter.uniform_(-0.5, 0.5)
    model.save_pretrained(folder)
