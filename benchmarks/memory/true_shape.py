"""StarCoder2-3B's true shape with random weights: memory and time do not depend on their values.

python benchmarks/memory/true_shape.py WORK [--layers 30]    (makes WORK/starcoder2-3b-shape, 6 GB)
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIG = {
    "architectures": ["Starcoder2ForCausalLM"],
    "model_type": "starcoder2",
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "vocab_size": 49152,
    "max_position_embeddings": 16384,
    "sliding_window": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 999999.4420358813},
    "hidden_act": "gelu_pytorch_tanh",
    "norm_epsilon": 1e-5,
    "use_bias": True,
    "tie_word_embeddings": True,
    "attention_dropout": 0.1,
    "residual_dropout": 0.1,
    "embedding_dropout": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "dtype": "bfloat16",
}


@dataclass
class StructureTokens:
    """Twenty added tokens beyond the vocabulary, as the real tokenizer has them."""

    vocabulary_size: int = CONFIG["vocab_size"] + 20  # type: ignore[operator]
    initial_from: dict[int, int] = field(default_factory=lambda: {49152 + k: k for k in range(20)})


def make_model(folder: Path, layers: int = 30) -> Path:
    """The folder, made unless it is there: a configuration and one shard a layer, so that making it takes a gigabyte
    of memory and not twelve."""
    if folder.exists():
        return folder
    from transformers import AutoConfig, AutoModelForCausalLM

    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}, indent=2))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(beside))
    shards: dict[str, list[tuple[str, torch.Size]]] = {}
    for name, parameter in model.named_parameters():
        shard = name.split(".")[2] if ".layers." in name else "rest"
        shards.setdefault(f"model-{shard}.safetensors", []).append((name, parameter.shape))
    generator = torch.Generator().manual_seed(0)
    for file, parameters in shards.items():
        tensors = {}
        for name, shape in parameters:
            values = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            tensors[name] = values + 1 if "norm" in name and name.endswith("weight") else values
        save_file(tensors, beside / file, metadata={"format": "pt"})
    index = {name: file for file, parameters in shards.items() for name, _ in parameters}
    (beside / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return beside.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--layers", type=int, default=30)
    given = parser.parse_args()
    print(shape_in(given.work, given.layers))


def shape_in(work: Path, layers: int = 30) -> Path:
    """The folder in `work` for so many layers, made unless it is there."""
    return make_model(work / ("starcoder2-3b-shape" if layers == 30 else f"layers-{layers}"), layers)


if __name__ == "__main__":
    main()
