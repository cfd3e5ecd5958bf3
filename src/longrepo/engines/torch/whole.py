"""Training a model's own weights, all of them: float32 weights and moments, and the folder that they are written to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from longrepo.config.schema import Settings
from longrepo.engines.torch.device import Placement
from longrepo.errors import InputError

WEIGHTS = "model.safetensors"


def stored(placement: Placement) -> Placement:
    """Where weights that are trained lie: in float32, whatever is computed in, or small updates would be lost."""
    return replace(placement, dtype=torch.float32)


def train_all(base: Any, settings: Settings) -> Any:
    """The model itself, every weight of it to be trained."""
    base.requires_grad_(True)
    if settings.training.use_gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    return base


def write_model(folder: Path, model: Any) -> None:
    """Write `config.json`, `generation_config.json` and all weights in one file into an existing folder, as
    transformers and mlx-lm read them."""
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, max_shard_size="1TB")
    file = folder / "config.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    theta = (tree.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None:
        tree["rope_theta"] = theta  # the key that mlx-lm reads
    file.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@torch.no_grad()
def read_model(folder: Path, model: Any) -> None:
    """Copy a folder's weights into the model, bit for bit. Raises InputError where they are those of another one."""
    file = folder / WEIGHTS
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: can't be read as a model's weights ({str(error).splitlines()[0]})") from None
    ours = dict(model.named_parameters())  # what is tied has one name
    differ = {name for name in ours.keys() | saved.keys() if _shape(ours, name) != _shape(saved, name)}
    if differ:
        raise InputError(f"{file}: holds another model's weights ({min(differ)} differs); give its own folder")
    for name, parameter in ours.items():
        parameter.copy_(saved[name])


def _shape(tensors: Any, name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def write_new_model(folder: Path, seed: int) -> None:
    """Fill a folder that holds a `config.json` with random weights, as the architecture draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.AutoConfig.from_pretrained(folder)
        write_model(folder, transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
