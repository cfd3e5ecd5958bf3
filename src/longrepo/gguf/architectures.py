"""The architectures whose GGUF files are read: how llama.cpp names their tensors and settings, and transformers theirs.

Every setting is read from the file: transformers' own reader drops rope scaling, and StarCoder2's rope base. The
tensors' names follow llama.cpp's `gguf-py/gguf/tensor_mapping.py`, what is changed in them its `conversion` folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from longrepo.errors import InputError
from longrepo.gguf.header import GgufModel
from longrepo.gguf.tensors import read_tensor

Config = dict[str, Any]

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_POSITIONS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")  # not weights
_NORMS_AFTER = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# Settings that change what a model computes and that these architectures don't have in transformers.
_UNREADABLE = ("expert_count", "attention.clamp_kqv", "attn_logit_softcapping", "final_logit_softcapping")
_STARCODER2_WINDOW = 4096  # all StarCoder2 were published with it; llama.cpp's converter doesn't write it
_GEMMA3_PERIOD, _GEMMA3_LOCAL_THETA = 6, 10_000.0  # neither is in the file: every sixth layer sees everything
_GEMMA3_27B_LAYERS = 62  # the one of them whose attention is scaled by hidden size / heads
_LLAMA3_BOUNDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class Architecture:
    """How one architecture goes from a GGUF file to transformers.

    `names`: tensors of a block named otherwise than usual. `permuted`: whether the rows of queries and keys were put in
    pairs (i, i + half) side by side. `norm_shift`: what was added to the norms' weights. `extra`: its own settings.
    """

    model_type: str
    class_name: str
    names: Mapping[str, str] = field(default_factory=dict)
    permuted: bool = False
    norm_shift: float = 0.0
    eps: str = "rms_norm_eps"
    extra: Callable[[GgufModel], Config] = lambda model: {}


def tensor_name(architecture: Architecture, name: str) -> str | None:
    """Return transformers' name of a tensor; None for one that holds positions. Raises InputError if it is unknown."""
    if name in _POSITIONS:
        return None
    part, _, leaf = name.rpartition(".")
    if part in _TOP_NAMES:
        return f"{_TOP_NAMES[part]}.{leaf}"
    if found := re.fullmatch(r"blk\.(\d+)\.(\w+)", part):
        known = _BLOCK_NAMES | dict(architecture.names)
        if found[2] in known:
            return f"model.layers.{found[1]}.{known[found[2]]}.{leaf}"
    raise InputError(f"its tensor {name} is none that {architecture.model_type} models have; this kind isn't read")


def find_architecture(model: GgufModel) -> Architecture:
    """Raises InputError for an architecture that isn't read, and for settings of a known one that aren't."""
    name = model.architecture
    if name not in ARCHITECTURES:
        raise InputError(f"its architecture {name} isn't read from GGUF; these are: {', '.join(sorted(ARCHITECTURES))}")
    for key in _UNREADABLE:
        if model.get(key):
            raise InputError(f"it sets {name}.{key}, and models with that aren't read from GGUF")
    return ARCHITECTURES[name]


def make_config(model: GgufModel, dtype: str) -> tuple[Config, list[str]]:
    """Return config.json and notes for the terminal. Raises InputError if a setting is missing or can't be kept."""
    architecture = find_architecture(model)
    try:
        config = _common_config(model, architecture)
        config |= {"dtype": dtype, "rope_parameters": _rope_parameters(model)} | architecture.extra(model)
    except KeyError as error:
        raise InputError(f"it lacks {error.args[0]}, which its architecture needs; download it again") from None
    config |= _token_ids(model)
    notes = []
    if model.architecture == "starcoder2" and not model.get("attention.sliding_window"):
        notes.append(f"attention window {_STARCODER2_WINDOW:,}, as StarCoder2 was published: the file doesn't say")
    return config, notes


def head_size(model: GgufModel) -> int:
    """Return the features of an attention head."""
    return int(model.get("attention.key_length") or _need(model, "embedding_length") // _heads(model))


def _common_config(model: GgufModel, architecture: Architecture) -> Config:
    config: Config = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": _tensor_shape(model, "token_embd.weight")[0],
        "hidden_size": _need(model, "embedding_length"),
        "intermediate_size": _one(model, "feed_forward_length"),
        "num_hidden_layers": _need(model, "block_count"),
        "num_attention_heads": _heads(model),
        "num_key_value_heads": _one(model, "attention.head_count_kv", _heads(model)),
        "max_position_embeddings": _need(model, "context_length"),
        "tie_word_embeddings": "output.weight" not in model.tensors,
    }
    eps = "attention.layer_norm_rms_epsilon" if architecture.eps == "rms_norm_eps" else "attention.layer_norm_epsilon"
    config[architecture.eps] = _need(model, eps)
    if head_size(model) * _heads(model) != config["hidden_size"] or model.get("attention.key_length"):
        config["head_dim"] = head_size(model)
    return config


def _token_ids(model: GgufModel) -> Config:
    ids = {
        name: model.metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"))
    }
    return ids | {"pad_token_id": ids["eos_token_id"] if ids["pad_token_id"] is None else ids["pad_token_id"]}


def _need(model: GgufModel, key: str) -> Any:
    if (value := model.get(key)) is None:
        raise KeyError(f"{model.architecture}.{key}")
    return value


def _one(model: GgufModel, key: str, default: int | None = None) -> int:
    """Return a setting that a file may give for each layer. Raises InputError if the layers differ."""
    value = model.get(key, default) if default is not None else _need(model, key)
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise InputError(f"its layers differ in {model.architecture}.{key}; such models aren't read from GGUF")
        value = value[0]
    return int(value)


def _heads(model: GgufModel) -> int:
    return _one(model, "attention.head_count")


def _tensor_shape(model: GgufModel, name: str) -> tuple[int, ...]:
    if name not in model.tensors:
        raise KeyError(name)
    return model.tensors[name].shape


def _has(model: GgufModel, part: str) -> bool:
    return f"blk.0.{part}" in model.tensors


def _rope_parameters(model: GgufModel) -> Config:
    """Return transformers' `rope_parameters`: base, scaling, and how much of a head is rotated."""
    found: Config = {"rope_type": "default", "rope_theta": float(model.get("rope.freq_base", 10_000.0))}
    rotated = model.get("rope.dimension_count")
    if rotated and rotated != head_size(model):
        found["partial_rotary_factor"] = rotated / head_size(model)
    kind = model.get("rope.scaling.type", "none")
    factor = model.get("rope.scaling.factor") or model.get("rope.scale_linear") or 1.0
    if "rope_factors_long.weight" in model.tensors:
        return found | _longrope(model)
    if "rope_freqs.weight" in model.tensors:
        return found | _llama3(model, found["rope_theta"])
    if kind in ("linear", "none") and factor != 1.0:
        return found | {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn":
        return found | _yarn(model, float(factor))
    if kind not in ("none", "linear"):
        raise InputError(f"its positions are scaled by {kind}, which isn't read from GGUF")
    return found


def _yarn(model: GgufModel, factor: float) -> Config:
    found: Config = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": _need(model, "rope.scaling.original_context_length"),
    }
    for ours, key in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if (value := model.get(f"rope.scaling.{key}")) is not None:
            found[ours] = float(value)
    # llama.cpp's factor stands beside the usual 0.1 ln(factor) + 1; transformers' replaces it.
    own = model.get("rope.scaling.yarn_attn_factor") or model.get("rope.scaling.attn_factor")
    if own and own != 1.0:
        found["attention_factor"] = float(own) * (0.1 * math.log(factor) + 1.0)
    return found


def _longrope(model: GgufModel) -> Config:
    original = _need(model, "rope.scaling.original_context_length")
    found: Config = {
        "rope_type": "longrope",
        "factor": _need(model, "context_length") / original,
        "original_max_position_embeddings": original,
        "long_factor": _numbers(model, "rope_factors_long.weight"),
        "short_factor": _numbers(model, "rope_factors_short.weight"),
    }
    if own := model.get("rope.scaling.attn_factor"):
        found["attention_factor"] = float(own)
    return found


def _llama3(model: GgufModel, theta: float) -> Config:
    """Return Llama 3's scaling, of which the file has the divisor of each frequency only. Raises InputError if they
    aren't its own."""
    divisors = _numbers(model, "rope_freqs.weight")
    found = _LLAMA3_BOUNDS | {"rope_type": "llama3", "factor": float(f"{max(divisors):.5g}")}
    low, high, native = _LLAMA3_BOUNDS.values()
    for index, divisor in enumerate(divisors):
        turns = native * theta ** (-index / len(divisors)) / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        if abs(divisor * ((1 - smooth) / found["factor"] + smooth) - 1) > 1e-3:
            raise InputError("its rope_freqs aren't Llama 3's, and other scalings of that kind aren't read from GGUF")
    return found


def _numbers(model: GgufModel, name: str) -> list[float]:
    """Return a vector of float32, each by its shortest decimal."""
    return [float(str(value)) for value in read_tensor(model.tensors[name])]


def _llama(model: GgufModel) -> Config:
    return {"attention_bias": _has(model, "attn_q.bias"), "mlp_bias": _has(model, "ffn_up.bias")}


def _starcoder2(model: GgufModel) -> Config:
    window = model.get("attention.sliding_window") or _STARCODER2_WINDOW
    return {"use_bias": _has(model, "attn_q.bias"), "sliding_window": window, "hidden_act": "gelu_pytorch_tanh"}


def _granite(model: GgufModel) -> Config:
    return _llama(model) | {
        "attention_multiplier": model.get("attention.scale") or head_size(model) ** -0.5,
        "embedding_multiplier": model.get("embedding_scale", 1.0),
        "residual_multiplier": model.get("residual_scale", 1.0),
        "logits_scaling": model.get("logit_scale", 1.0),
    }


def _gemma3(model: GgufModel) -> Config:
    layers, window = _need(model, "block_count"), model.get("attention.sliding_window")
    kinds = [
        "full_attention" if not window or (layer + 1) % _GEMMA3_PERIOD == 0 else "sliding_attention"
        for layer in range(layers)
    ]
    local = {"rope_type": "default", "rope_theta": float(model.get("rope.freq_base_swa", _GEMMA3_LOCAL_THETA))}
    scale = head_size(model)
    if layers == _GEMMA3_27B_LAYERS:
        scale = _need(model, "embedding_length") // _heads(model)
    return {
        "head_dim": head_size(model),
        "layer_types": kinds,
        "sliding_window": window or _need(model, "context_length"),
        "query_pre_attn_scalar": scale,
        "rope_parameters": {"full_attention": _rope_parameters(model), "sliding_attention": local},
    }


def _phi3(model: GgufModel) -> Config:
    original = model.get("rope.scaling.original_context_length") or _need(model, "context_length")
    return {
        "sliding_window": model.get("attention.sliding_window") or None,
        "original_max_position_embeddings": original,
    }


def _stablelm(model: GgufModel) -> Config:
    if _has(model, "attn_q_norm.weight"):
        raise InputError("it norms queries and keys head by head (StableLM 2 12B); that isn't read from GGUF")
    return {
        "use_qkv_bias": _has(model, "attn_q.bias"),
        "use_parallel_residual": bool(model.get("use_parallel_residual", not _has(model, "ffn_norm.weight"))),
    }


def _olmo2(model: GgufModel) -> Config:
    if model.get("attention.sliding_window"):
        raise InputError("it has an attention window (OLMo 3); only OLMo 2 is read from GGUF")
    return {}


def _smollm3(model: GgufModel) -> Config:
    return _llama(model) | {"no_rope_layer_interval": 4, "use_sliding_window": False}  # llama.cpp's own constant


def _qwen3(model: GgufModel) -> Config:
    return {"head_dim": head_size(model), "attention_bias": _has(model, "attn_q.bias"), "use_sliding_window": False}


def _seed_oss(model: GgufModel) -> Config:
    out = _has(model, "attn_output.bias")
    return _llama(model) | {"attention_out_bias": out, "attention_dropout": 0.0, "residual_dropout": 0.0}


_STARCODER2_NAMES = {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
_PHI3_NAMES = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_AFTER_NAMES = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", permuted=True, extra=_llama),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", extra=lambda model: {"use_sliding_window": False}),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", extra=_qwen3),
    "starcoder2": Architecture(
        "starcoder2", "Starcoder2ForCausalLM", _STARCODER2_NAMES, eps="norm_epsilon", extra=_starcoder2
    ),
    "granite": Architecture("granite", "GraniteForCausalLM", permuted=True, extra=_granite),
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", permuted=True, extra=_smollm3),
    "olmo2": Architecture("olmo2", "Olmo2ForCausalLM", _AFTER_NAMES, extra=_olmo2),
    "gemma": Architecture("gemma", "GemmaForCausalLM", norm_shift=1.0),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", _NORMS_AFTER, norm_shift=1.0, extra=_gemma3),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", _PHI3_NAMES, extra=_phi3),
    "stablelm": Architecture("stablelm", "StableLmForCausalLM", eps="layer_norm_eps", extra=_stablelm),
    "seed_oss": Architecture(
        "seed_oss", "SeedOssForCausalLM", {"post_attention_norm": "post_attention_layernorm"}, extra=_seed_oss
    ),
}
