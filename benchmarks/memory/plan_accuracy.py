"""The plan against what is measured: a real step's highest moment of tensors, over models, lengths and methods.

    python benchmarks/memory/plan_accuracy.py --work /tmp/plan-accuracy [--only 3] [--model qwen3.5]

Resumable: each configuration's figures stay in --work. The plan is made first, from the configuration alone (the dry
run of one and two layers, extrapolated); then the model is made with random weights, and two micro-batches and an
update are computed for real, twice. Both are counted by `longrepo.engines.torch.fake_model`, which a test holds to
torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from longrepo.config.loader import load_settings
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.torch.engine import TorchEngine
from longrepo.engines.torch.fake_model import PeakTracker, tensors_of
from longrepo.memory.planner import MemoryPlanner

ADDED = 20
SHORT = 32  # tokens of the steps before the measured one
SMALL = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 8192}
TRUE = {"hidden_size": 3072, "intermediate_size": 12288, "num_attention_heads": 24, "num_key_value_heads": 2}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 16384}
ATTENTION = "q_proj,k_proj,v_proj,o_proj"
GATED = "gate_proj,up_proj,down_proj"
# As Qwen3.5-2B and Granite-4.0-H-Micro have them: gated DeltaNet or Mamba-2, then attention.
DELTA = {"model_type": "qwen3_5_text", "tie_word_embeddings": True}
MAMBA = {"model_type": "granitemoehybrid", "tie_word_embeddings": True, "num_local_experts": 0, "mamba_n_groups": 1}
ONE_OF_EACH = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"], "vocab_size": 8192}
RECURRENT = ("in_proj_qkv,in_proj_z,in_proj_b,in_proj_a,out_proj", "in_proj,out_proj,input_linear,output_linear")
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "starcoder2": (
        {
            "model_type": "starcoder2",
            **SMALL,
            "intermediate_size": 2048,
            "num_hidden_layers": 6,
            "sliding_window": 1024,
        },
        f"{ATTENTION},c_fc,c_proj",
    ),
    "llama": (
        {"model_type": "llama", **SMALL, "intermediate_size": 1408, "num_hidden_layers": 5},
        f"{ATTENTION},{GATED}",
    ),
    "qwen2": (
        {
            "model_type": "qwen2",
            **SMALL,
            "intermediate_size": 1408,
            "num_hidden_layers": 4,
            "tie_word_embeddings": True,
        },
        f"{ATTENTION},{GATED}",
    ),
    "true width": (
        {"model_type": "starcoder2", **TRUE, "vocab_size": 49152, "num_hidden_layers": 2, "sliding_window": 4096},
        f"{ATTENTION},c_fc,c_proj",
    ),
    "qwen3.5": (
        {
            **DELTA,
            **SMALL,
            "intermediate_size": 1408,
            "num_hidden_layers": 12,
            "head_dim": 128,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
        },
        f"{ATTENTION},{GATED},{RECURRENT[0]}",
    ),
    "granite 4 h": (
        {
            **MAMBA,
            **SMALL,
            "shared_intermediate_size": 2048,
            "num_hidden_layers": 10,
            "layer_types": [*["linear_attention"] * 3, "full_attention", "linear_attention"] * 2,
            "mamba_n_heads": 16,
            "mamba_d_state": 128,
        },
        f"{ATTENTION},{RECURRENT[1]}",
    ),
    "qwen3.5, true width": (
        {
            **DELTA,
            **ONE_OF_EACH,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 16,
        },
        f"{ATTENTION},{GATED},{RECURRENT[0]}",
    ),
    "granite 4 h, true width": (
        {
            **MAMBA,
            **ONE_OF_EACH,
            "hidden_size": 2048,
            "shared_intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "mamba_n_heads": 64,
            "mamba_d_state": 128,
        },
        f"{ATTENTION},{RECURRENT[1]}",
    ),
}


@dataclass(frozen=True)
class Case:
    model: str
    length: int
    method: StepMethod = field(default_factory=StepMethod)
    r: int = 16
    precision: str = "float32"
    quantization: str = "nf4"
    checkpointing: bool = True

    @property
    def name(self) -> str:
        plain = " (no checkpoints)" if self.method.step == "plain" and not self.checkpointing else ""
        return f"{self.model}, {self.length}, {self.method}{plain}, r={self.r}, {self.precision}, {self.quantization}"


def chunks(chunk: int, store: Any = "memory", every: int = 1) -> StepMethod:
    return StepMethod("chunked", chunk, store, every)


CASES = (
    Case("starcoder2", 256),
    Case("starcoder2", 1000, r=64),
    Case("starcoder2", 2048, precision="bfloat16"),
    Case("starcoder2", 1024, checkpointing=False),
    Case("starcoder2", 700, checkpointing=False, precision="bfloat16", quantization="none"),
    Case("starcoder2", 1000, chunks(256)),
    Case("starcoder2", 2048, chunks(256), r=4, precision="bfloat16"),
    Case("starcoder2", 4096, chunks(512), precision="bfloat16"),
    Case("starcoder2", 3000, chunks(128, "disk"), quantization="none"),
    Case("starcoder2", 2048, chunks(256, "recompute", 2)),
    Case("starcoder2", 2048, chunks(128, "recompute", 3), precision="bfloat16", r=64),
    Case("starcoder2", 4000, chunks(256, "disk"), r=4),
    Case("llama", 512, r=4),
    Case("llama", 1024, precision="bfloat16", quantization="none"),
    Case("llama", 900, checkpointing=False, r=64),
    Case("llama", 1500, chunks(256), precision="bfloat16"),
    Case("llama", 2048, chunks(512), quantization="none"),
    Case("llama", 1024, chunks(128, "recompute", 2), r=64),
    Case("llama", 2000, chunks(256, "disk"), precision="bfloat16"),
    Case("qwen2", 600, r=32),
    Case("qwen2", 2048, precision="bfloat16", r=4),
    Case("qwen2", 1024, chunks(256), r=64),
    Case("qwen2", 3000, chunks(512, "disk"), precision="bfloat16"),
    Case("qwen2", 2048, chunks(256, "recompute", 2), quantization="none"),
    Case("true width", 256, r=32, precision="bfloat16"),
    Case("true width", 1024, chunks(256), r=32, precision="bfloat16"),
    Case("true width", 1024, chunks(256, "disk"), r=32, precision="bfloat16"),
    Case("qwen3.5", 700),
    Case("qwen3.5", 1100, chunks(256)),
    Case("qwen3.5", 1100, chunks(128, "recompute", 2), precision="bfloat16"),
    Case("qwen3.5", 1500, chunks(256, "disk"), quantization="none"),
    Case("granite 4 h", 700),
    Case("granite 4 h", 1100, chunks(256)),
    Case("granite 4 h", 1100, chunks(128, "recompute", 3), precision="bfloat16"),
    Case("granite 4 h", 1500, chunks(256, "disk"), quantization="none"),
    Case("qwen3.5, true width", 4096, chunks(256), r=32),
    Case("granite 4 h, true width", 4096, chunks(256), r=32),
)


@dataclass
class StructureTokens:
    """As the real tokenizer has them: beyond the vocabulary, begun as known tokens."""

    vocabulary_size: int
    initial_from: dict[int, int]

    @staticmethod
    def beyond(vocabulary: int) -> StructureTokens:
        return StructureTokens(vocabulary + ADDED, {vocabulary + k: k for k in range(ADDED)})


def settings_of(case: Case, folder: Path) -> Any:
    targets = MODELS[case.model][1]
    return load_settings(
        None,
        [
            f"model.name={folder}",
            f"model.quantization={case.quantization}",
            f"lora.r={case.r}",
            f"lora.target_modules=[{targets}]",
            f"training.precision={case.precision}",
            f"training.use_gradient_checkpointing={str(case.checkpointing).lower()}",
        ],
    )


def planner_of(case: Case, folder: Path) -> MemoryPlanner:
    """Of the configuration that lies in a folder."""
    return MemoryPlanner.of(settings_of(case, folder), "cpu", case.precision)


def planned(case: Case) -> int:
    """Bytes of tensors, from the configuration alone."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODELS[case.model][0] | ENDS))
        return planner_of(case, Path(folder)).planned(case.method, case.length).memory.peak


def write_model(case: Case, folder: Path) -> None:
    """With random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(MODELS[case.model][0] | ENDS)
    torch.manual_seed(0)
    made = AutoConfig.for_model(config.pop("model_type"), **config)
    AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16).save_pretrained(folder)


def ready(case: Case, folder: Path) -> tuple[TorchEngine, Batch]:
    """The engine on the model in a folder, and a micro-batch of random tokens."""
    vocabulary = MODELS[case.model][0]["vocab_size"]
    tokens = StructureTokens.beyond(vocabulary)
    engine = TorchEngine.create(settings_of(case, folder), tokens, "cpu")  # type: ignore[arg-type]
    engine.use(case.method)
    ids = np.random.default_rng(0).integers(0, vocabulary, case.length).tolist()
    return engine, Batch.of([(ids, [1.0] * case.length)], engine.pad_id)


def measured(case: Case) -> int:
    """Bytes of tensors, with weights."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(case, Path(folder))
        engine, batch = ready(case, Path(folder))
    for key in (0, 1):  # gradients and moments exist from then on, as in any later step
        engine.accumulate(Batch.dummy(SHORT), SHORT, key)
        if key == 0:
            engine.apply_update(1e-5, 1.0)
    tracker = PeakTracker()
    tracker.adopt(tensors_of(engine.model), "model")
    tracker.adopt([p.grad for p in engine.parameters.values() if p.grad is not None], "gradients")
    moments = [t for state in engine.optimizer.state.values() for t in state.values()]
    tracker.adopt(moments, "moments")
    with tracker:
        engine.accumulate(batch, 2 * batch.weight, 2)
        engine.apply_update(1e-5, 1.0)
    return tracker.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", type=int, default=len(CASES), help="the first so many configurations")
    parser.add_argument("--model", choices=MODELS, help="the configurations of one model")
    given = parser.parse_args()
    cases = [case for case in CASES[: given.only] if given.model in (None, case.model)]
    given.work.mkdir(parents=True, exist_ok=True)
    table = Table(title=f"planned and measured peak of a step's tensors, MiB; CPU, torch {torch.__version__}")
    for column in ("configuration", "planned", "measured", "error"):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    errors = []
    for case in cases:
        file = given.work / f"{case.name.replace(' ', '_').replace(',', '')}.json"
        if not file.exists():
            print(case.name, file=sys.stderr, flush=True)
            plan = planned(case)
            file.write_text(json.dumps(asdict(case) | {"planned": plan, "measured": measured(case)}))
        found = json.loads(file.read_text())
        errors.append(found["planned"] / found["measured"] - 1)
        figures = (f"{found[name] / 2**20:.1f}" for name in ("planned", "measured"))
        table.add_row(case.name, *figures, f"{errors[-1]:+.2%}")
    table.caption = (
        f"{len(errors)} configurations: median error {median(map(abs, errors)):.2%}, worst {max(map(abs, errors)):.2%}"
    )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
