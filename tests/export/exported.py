"""A small random model with the real tokenizer, a run of it whose adapter is random, and what loads an export."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from tiny import model_folder

from longrepo import embedded
from longrepo.config.loader import dump_yaml, load_settings
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import base_tokenizer
from longrepo.engines.torch.engine import TorchEngine
from longrepo.training.checkpoint import trained_folder

WINDOW = 16


@dataclass(frozen=True)
class Run:
    """`prompt` begins with a structure token where there are any."""

    folder: Path
    model: Path
    engine: TorchEngine
    tokenizer: RepoTokenizer
    prompt: list[int]


def base_folder(folder: Path, **changes: Any) -> Path:
    """A random StarCoder2 with a window of 16 tokens and the embedded model's tokenizer."""
    model_folder(folder, **{"vocab_size": 4096, "sliding_window": WINDOW, **changes})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded.path() / name, folder / name)
    return folder


def spell_rope_for_mlx_lm(folder: Path) -> None:
    """As folders of transformers 4 did."""
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))


def trained_run(folder: Path, model: Path | str, *overrides: str) -> Run:
    """What a finished run leaves: settings and adapter, or model, its weights random."""
    settings = load_settings(
        None,
        [f"model.name={model}", "model.quantization=none", "lora.r=4", "training.precision=float32", *overrides],
    )
    tokenizer = base_tokenizer(settings)
    engine = TorchEngine.create(settings, tokenizer, "cpu")
    torch.manual_seed(1)
    for name, parameter in engine.parameters.items():
        parameter.data += torch.randn_like(parameter) * (0.05 if "rows" in name else 0.02)
    trained = folder / trained_folder(settings)
    trained.mkdir(parents=True)
    (folder / "settings.yaml").write_text(dump_yaml(settings))
    engine.save_adapter(trained)
    prompt = [*tokenizer.structure_ids.values()][:1] + tokenizer.encode("def main(argv):\n    parser = ")
    return Run(folder, Path(model), engine, tokenizer, prompt)


def loaded(export: Path, trust: bool = True, base: Path | None = None) -> Any:
    """The model that `mlx_lm.generate` makes of an export."""
    model, _ = mlx_lm.load(str(base or export / "base"), adapter_path=str(export / "adapters"), trust_remote_code=trust)  # type: ignore[misc]
    return model


def greedy(model: Any, tokenizer_folder: Path, prompt: list[int], count: int) -> list[int]:
    """mlx-lm's own generation, which is greedy unless told otherwise."""
    tokenizer = mlx_lm.utils.load_tokenizer(tokenizer_folder)
    return [one.token for one in mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=count)]


def mlx_logits(model: Any, ids: list[int]) -> np.ndarray:
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))


@torch.no_grad()
def torch_logits(run: Run, ids: list[int]) -> np.ndarray:
    """Of the engine that trained."""
    logits: np.ndarray = run.engine.model.eval()(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


@torch.no_grad()
def peft_logits(base: Path, adapter: Path, vocabulary: int, ids: list[int]) -> np.ndarray:
    """Of plain transformers and PEFT."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if vocabulary > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    logits: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits
