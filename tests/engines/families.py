"""Small random models of every family that the MLX engine computes, as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VOCABULARY, WINDOW = 200, 16
MILLION = {"rope_type": "default", "rope_theta": 1e6}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
BY_LAYER = {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
TWO_ROPES = {"sliding_attention": MILLION, "full_attention": YARN}
PART = {"partial_rotary_factor": 0.5}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 32,
}
PHI3 = {"original_max_position_embeddings": 32, "pad_token_id": 0}
GEMMA3 = {
    "head_dim": 16,
    "sliding_window": WINDOW,
    "layer_types": MIXED,
    "query_pre_attn_scalar": 16,
    "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": LINEAR},
}
GRANITE = {
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.1,
    "logits_scaling": 0.5,
}
GRANITE4 = GRANITE | {
    "layer_types": ["attention"] * 3,
    "num_local_experts": 0,
    "shared_intermediate_size": 96,
    "position_embedding_type": "rope",
}
DELTA = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rms_norm_eps": 0.1,  # a norm of what is nearly zero (a query that meets no key) would make rounding large
    "rope_parameters": MILLION | {"partial_rotary_factor": 0.5},
}
MAMBA = GRANITE4 | {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 12,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "rms_norm_eps": 1e-2,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "starcoder2": ("Starcoder2", {"sliding_window": WINDOW, "rope_parameters": MILLION}),
    "starcoder2, no window or bias, untied": (
        "Starcoder2",
        {"use_bias": False, "tie_word_embeddings": False, "hidden_act": "gelu", "rope_parameters": LINEAR},
    ),
    "llama": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, biases, wide heads, gelu": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 32, "hidden_act": "gelu", "rope_parameters": YARN},
    ),
    "llama, tied, one mscale": ("Llama", {"tie_word_embeddings": True, "rope_parameters": YARN | {"mscale": 0.7}}),
    "llama, both mscales": ("Llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.5}}),
    "llama, attention factor": ("Llama", {"rope_parameters": YARN | {"attention_factor": 1.3}}),
    "mistral": ("Mistral", {"sliding_window": WINDOW, "rope_parameters": MILLION}),
    "mistral, no window": ("Mistral", {"sliding_window": None, "rope_parameters": LINEAR}),
    "qwen2": ("Qwen2", BY_LAYER | {"rope_parameters": MILLION}),
    "qwen2, window not used": ("Qwen2", {"sliding_window": WINDOW, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", BY_LAYER | {"head_dim": 16, "attention_bias": True, "rope_parameters": MILLION}),
    "gemma": ("Gemma", {"head_dim": 16, "attention_bias": True, "rope_parameters": LINEAR}),
    "gemma, gelu meant as tanh": ("Gemma", {"head_dim": 32, "hidden_act": "gelu"}),
    "gemma3_text": ("Gemma3Text", GEMMA3),
    "gemma3_text, untied": (
        "Gemma3Text",
        GEMMA3 | {"tie_word_embeddings": False, "attention_bias": True, "query_pre_attn_scalar": 24},
    ),
    "granite": ("Granite", GRANITE | {"attention_bias": True, "mlp_bias": True, "rope_parameters": YARN}),
    "granite, tied": ("Granite", GRANITE | {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    "granitemoehybrid": ("GraniteMoeHybrid", GRANITE4 | {"tie_word_embeddings": True, "rope_parameters": MILLION}),
    "granitemoehybrid, no positions": (
        "GraniteMoeHybrid",
        GRANITE4 | {"position_embedding_type": None, "attention_bias": True, "hidden_act": "gelu"},
    ),
    "granitemoehybrid, mamba": ("GraniteMoeHybrid", MAMBA | {"tie_word_embeddings": True, "rope_parameters": MILLION}),
    "granitemoehybrid, mamba, groups": (
        "GraniteMoeHybrid",
        MAMBA
        | {"mamba_n_groups": 2, "mamba_proj_bias": True, "mamba_conv_bias": False}
        | {"position_embedding_type": None, "hidden_act": "gelu", "mamba_d_conv": 3},
    ),
    "olmo2": ("Olmo2", {"rope_parameters": LLAMA3, "attention_bias": True}),
    "olmo2, wide heads": ("Olmo2", {"head_dim": 32, "tie_word_embeddings": True}),
    "olmo3": ("Olmo3", {"sliding_window": WINDOW, "layer_types": MIXED, "rope_parameters": TWO_ROPES}),
    "phi3": ("Phi3", {"sliding_window": WINDOW, "rope_parameters": MILLION | PART, "pad_token_id": 0}),
    "phi3, longrope": (
        "Phi3",
        {"rope_parameters": LONGROPE | PART, "max_position_embeddings": 128, "tie_word_embeddings": True, **PHI3},
    ),
    "phi3, longrope with a factor": (
        "Phi3",
        {"rope_parameters": LONGROPE | PART | {"factor": 2.0}, "max_position_embeddings": 128, **PHI3},
    ),
    "qwen3_5_text": ("Qwen3_5Text", DELTA),
    "qwen3_5_text, tied, gelu": (
        "Qwen3_5Text",
        DELTA
        | {"tie_word_embeddings": True, "hidden_act": "gelu", "attention_bias": True, "linear_num_key_heads": 4}
        | {"linear_conv_kernel_dim": 3},
    ),
    "seed_oss": ("SeedOss", {"head_dim": 32, "attention_out_bias": True, "mlp_bias": True}),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 1, 0], "rope_parameters": MILLION, "pad_token_id": 0}),
    "smollm3, windowed": (
        "SmolLM3",
        {"no_rope_layers": [0, 1, 1], "sliding_window": WINDOW, "use_sliding_window": True, "pad_token_id": 0}
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    ),
    "stablelm": ("StableLm", {"rope_parameters": LINEAR | PART, "use_qkv_bias": True}),
    "stablelm, parallel": (
        "StableLm",
        {
            "use_parallel_residual": True,
            "qk_layernorm": True,
            "tie_word_embeddings": True,
            "rope_parameters": YARN | PART,
        },
    ),
}
FAMILIES = sorted({case.split(",")[0] for case in CASES})


def published(folder: Path, name: str, changes: dict[str, Any]) -> Any:
    """A small random model of transformers, every bias and norm its own, saved in `folder`."""
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "initializer_range": 0.2,
    }
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**shape | changes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model
