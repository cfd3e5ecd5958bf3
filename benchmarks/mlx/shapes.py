"""Models of StarCoder2's architecture with random weights, in Hugging Face folders: memory and time don't depend on
their values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from longrepo.engines.mlx.load import read_published_config
from longrepo.engines.mlx.models import build

COMMON = {
    "model_type": "starcoder2",
    "sliding_window": 4096,
    "hidden_act": "gelu_pytorch_tanh",
    "rope_parameters": {"rope_type": "default", "rope_theta": 999999.4420358813},
    "max_position_embeddings": 16384,
    "use_bias": True,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def shape(hidden: int, mlp: int, heads: int, kv_heads: int, vocabulary: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "num_hidden_layers": layers,
    }


@dataclass
class Tokens:
    """What a loader asks of a tokenizer; `initial_from`: structure tokens and what their rows begin as."""

    vocabulary_size: int
    initial_from: dict[int, int] = field(default_factory=dict)


def make_model(folder: Path, of: dict[str, Any], dtype: mx.Dtype) -> Path:
    """The folder, made unless it is there."""
    if folder.exists():
        return folder
    beside = folder.with_name(folder.name + ".part")
    beside.mkdir(parents=True, exist_ok=True)
    (beside / "config.json").write_text(json.dumps(COMMON | of, indent=2))
    mx.random.seed(0)
    weights = {}
    for name, array in tree_flatten(build(read_published_config(str(beside), None)).parameters()):
        values = mx.random.normal(array.shape, dtype) * 0.02
        weights[name] = values + 1 if "norm" in name and name.endswith("weight") else values
        mx.eval(weights[name])
    mx.save_safetensors(str(beside / "model.safetensors"), weights, {"format": "pt"})
    return beside.rename(folder)
