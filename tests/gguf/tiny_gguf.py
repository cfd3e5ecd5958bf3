"""Tiny models in GGUF files, written as llama.cpp's converter writes them, named by the gguf library's own map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longrepo import embedded

VOCABULARY = 96
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
# llama.cpp's name, transformers' model type, settings other than the defaults, and keys of the file that say so.
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
QUARTER = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
GRANITE = {
    "attention_multiplier": 0.02,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}
YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SETTINGS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", "llama", {"rope_theta": 1e5, "tie_word_embeddings": True}, {}),
    "llama, biases and wide heads": ("llama", "llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}, {}),
    "llama, linear": (
        "llama",
        "llama",
        {"rope_parameters": LINEAR},
        {},
    ),
    "llama, llama3": (
        "llama",
        "llama",
        {"rope_parameters": LLAMA3 | {"rope_type": "llama3", "factor": 32.0, "rope_theta": 5e5}},
        {},
    ),
    "qwen2": ("qwen2", "qwen2", {"rope_theta": 1e6}, {}),
    "qwen2, yarn": ("qwen2", "qwen2", {"rope_parameters": YARN}, {}),
    "qwen3": ("qwen3", "qwen3", {"head_dim": 32, "rope_theta": 1e6, "tie_word_embeddings": True}, {}),
    "starcoder2": ("starcoder2", "starcoder2", {"rope_theta": 999_999.0, "sliding_window": 4096}, {}),
    "granite": (
        "granite",
        "granite",
        GRANITE,
        {"attention.scale": 0.02, "embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 8.0},
    ),
    "smollm3": ("smollm3", "smollm3", {"num_hidden_layers": 5, "rope_theta": 5e6}, {}),
    "olmo2": ("olmo2", "olmo2", {"rope_theta": 5e5}, {}),
    "gemma": ("gemma", "gemma", {"head_dim": 32}, {}),
    "gemma3": (
        "gemma3",
        "gemma3_text",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "num_hidden_layers": 7, "sliding_window": 8},
        {"attention.sliding_window": 8, "rope.freq_base": 1e6},
    ),
    "phi3": ("phi3", "phi3", {"sliding_window": 24, "rope_theta": 2e4}, {"attention.sliding_window": 24}),
    "phi3, longrope": (
        "phi3",
        "phi3",
        {
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "factor": 4.0,
                "rope_theta": 1e4,
                "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            },
        },
        {"rope.scaling.original_context_length": 64},
    ),
    "stablelm": (
        "stablelm",
        "stablelm",
        {
            "use_qkv_bias": True,
            "rope_parameters": QUARTER,
        },
        {"use_parallel_residual": False, "rope.dimension_count": 4},
    ),
    "seed_oss": (
        "seed_oss",
        "seed_oss",
        {"head_dim": 32, "attention_bias": True, "attention_dropout": 0.0, "residual_dropout": 0.0},
        {},
    ),
}
_PERMUTED = ("llama", "granite", "smollm3")


def tiny_model(case: str, **changes: Any) -> Any:
    _, model_type, settings, _ = SETTINGS[case]
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **SHAPE | settings | changes), dtype=torch.float32
    )
    with torch.no_grad():
        for weight in model.parameters():  # norms of one and biases of zero would hide a wrong place
            if weight.ndim == 1:
                weight += torch.randn_like(weight) * 0.1
    return model.eval()


def write_gguf(
    file: Path, case: str, model: Any = None, kind: str = "F32", tokenizer: bool = True, **changes: Any
) -> Path:
    """Write a model; `kind`: how its matrices are quantised; `changes`: keys that replace those of the file."""
    architecture, _, _, more = SETTINGS[case]
    model = model or tiny_model(case)
    config = model.config
    writer = gguf.GGUFWriter(str(file), architecture)
    keys = {f"{architecture}.{key}": value for key, value in (_keys(config) | more).items()}
    keys |= _tokenizer_keys(config.vocab_size) if tokenizer else {}
    for key, value in (keys | {name.replace("__", "."): value for name, value in changes.items()}).items():
        _add(writer, key, value)
    for name, tensor in _tensors(model, architecture):
        if kind == "F32" or tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        else:
            quantised = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, _quantise(tensor, quantised), raw_dtype=quantised)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return file


def _keys(config: Any) -> dict[str, Any]:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    eps = getattr(config, "rms_norm_eps", None)
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.dimension_count": head,
        "attention.layer_norm_rms_epsilon" if eps else "attention.layer_norm_epsilon": float(
            eps or getattr(config, "norm_epsilon", None) or config.layer_norm_eps
        ),
    }
    if head * config.num_attention_heads != config.hidden_size:
        keys |= {"attention.key_length": head, "attention.value_length": head}
    if "rope_theta" in rope:
        keys["rope.freq_base"] = float(rope["rope_theta"])
    if rope.get("rope_type") in ("linear", "yarn"):
        keys |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    if rope.get("rope_type") == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return keys


def _tensors(model: Any, architecture: str) -> list[tuple[str, np.ndarray]]:
    config = model.config
    number = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    found = []
    for ours, weight in model.state_dict().items():
        if ours == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensor = weight.numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in ours and architecture in _PERMUTED:
                halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
                tensor = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
        if architecture.startswith("gemma") and ours.endswith("norm.weight"):
            tensor = tensor + 1
        found.append((names.get_name(ours, try_suffixes=(".weight", ".bias")), tensor))
    rope = config.rope_parameters
    if rope.get("rope_type") == "llama3":
        frequencies = rope["rope_theta"] ** (-np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim)
        found.append(("rope_freqs.weight", frequencies / model.model.rotary_emb.inv_freq.numpy()))
    if rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            factors = np.array(rope[f"{length}_factor"], np.float32)
            found.append((f"rope_factors_{length}.weight", factors))
    return found


def _quantise(tensor: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """K-quants and others that the library can't write get random bytes, with small scales where it finds some."""
    try:
        return gguf.quantize(tensor, kind)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        shape = (tensor.shape[0], tensor.shape[1] // block * size)
        return np.random.default_rng(5).integers(0, 48, shape).astype(np.uint8)


def _tokenizer_keys(rows: int) -> dict[str, Any]:
    """The first tokens of the embedded model's vocabulary, and the merges that make them."""
    state = json.loads((embedded.path() / "tokenizer.json").read_text(encoding="utf-8"))
    special = {one["content"] for one in state["added_tokens"]}
    tokens = [token for token, _ in sorted(state["model"]["vocab"].items(), key=lambda item: item[1])][:rows]
    merges = [merge for merge in state["model"]["merges"] if {*merge, "".join(merge)} <= set(tokens)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "starcoder",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges] or ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds.get(type(value), writer.add_array)(key, value)
