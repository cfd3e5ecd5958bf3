"""StarCoder2-3B's true shape with random weights: load it in 4-bit, take optimizer steps, print time and peak memory.

    python benchmarks/full_shape.py --work /tmp/full-shape [--length 512] [--steps 2] [--precision bfloat16]

The weights can't tell what is learned, but memory and time do not depend on their values. The folder that is made
(6 GB) stays in --work and is used again. `memory` is the process's resident peak: libraries, loading, everything.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from longrepo.config.load import load_settings
from longrepo.engines.base import Batch
from longrepo.engines.method import Method
from longrepo.engines.process import peak_resident, reset_peak_resident
from longrepo.engines.torch.engine import TorchEngine
from longrepo.memory.planner import Planner

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
GIB = 2**30


@dataclass
class StructureTokens:
    """Twenty added tokens beyond the vocabulary, as the real tokenizer has them."""

    vocabulary_size: int = CONFIG["vocab_size"] + 20  # type: ignore[operator]
    initial_from: dict[int, int] = field(default_factory=lambda: {49152 + k: k for k in range(20)})


def make_model(folder: Path) -> None:
    """Write the configuration and one shard a layer, so that making it takes a gigabyte and not twelve."""
    from transformers import AutoConfig, AutoModelForCausalLM

    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / "config.json").write_text(json.dumps(CONFIG, indent=2))
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
    beside.rename(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    folder = given.work / "starcoder2-3b-shape"
    if not folder.exists():
        print(f"making {folder} (6 GB of random weights) …", file=sys.stderr)
        make_model(folder)
    settings = load_settings(None, [f"model.name={folder}", f"training.precision={given.precision}"])
    rows: list[tuple[str, float, int]] = []

    def measure(what: str, began: float) -> None:
        rows.append((what, time.perf_counter() - began, peak_resident()))
        print(f"{what}: {rows[-1][1]:.1f} s, {rows[-1][2] / GIB:.2f} GiB", file=sys.stderr, flush=True)
        reset_peak_resident()

    began = time.perf_counter()
    engine = TorchEngine.create(settings, StructureTokens(), given.device)  # type: ignore[arg-type]
    measure("load in 4-bit, attach LoRA r=32", began)
    rng = np.random.default_rng(0)
    for step in range(given.steps):
        ids = rng.integers(0, StructureTokens().vocabulary_size, given.length).tolist()
        batch = Batch.of([(ids, [1.0] * given.length)], engine.pad_id)
        began = time.perf_counter()
        loss = engine.accumulate(batch, batch.weight, key=step) / batch.weight
        norm = engine.apply_update(5e-5, 1.0)
        measure(f"step {step + 1}: loss {loss:.3f}, gradient norm {norm:.3f}", began)
    planned = Planner.of(settings, given.device, given.precision).planned(Method(), given.length)
    table = Table(
        title=f"StarCoder2-3B's shape, {given.length} tokens, {given.precision}, {engine.facts()['versions']}"
    )
    for column in ("what", "seconds", "peak resident, GiB"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, seconds, peak in rows:
        table.add_row(what, f"{seconds:.1f}", f"{peak / GIB:.2f}")
    table.add_row("planned: a step's tensors (longrepo plan)", "", f"{planned.memory.peak / GIB:.2f}")
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
