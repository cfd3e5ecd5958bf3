"""Train all of a model's weights: float32 weights and moments, the model's folder, and the initial weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from longrepo.config.schema import ModelSettings, Settings
from longrepo.engines.base import Placement
from longrepo.engines.torch.load import load_base
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer


MODEL_WEIGHTS = "model.safetensors"


def trained_placement(placement: Placement) -> Placement:
    """Return the placement of trained weights: always float32, since small updates would be lost otherwise."""
    return placement._replace(dtype_name="float32")


def train_all_weights(base: Any, settings: Settings) -> Any:
    """Make every weight of the model trainable and return it."""
    base.requires_grad_(True)
    if settings.training.use_gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    return base


def write_model(folder: Path, model: Any) -> None:
    """Write `config.json`, `generation_config.json` and all weights (in one file) into an existing folder, for
    transformers and mlx-lm."""
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
    """Copy a folder's weights into the model, bit for bit. Raises InputError if they belong to another model."""
    file = folder / MODEL_WEIGHTS
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: can't be read as a model's weights ({str(error).splitlines()[0]})") from None
    ours = dict(model.named_parameters())  # tied weights have one name
    if differs := _first_difference(ours, saved):
        raise InputError(f"{file}: contains another model's weights ({differs} differs); give this model's own folder")
    for name, parameter in ours.items():
        parameter.copy_(saved[name])


class InitialWeights:
    """A model's weights before training: read on first use, then kept on the CPU, in 16 bits if that loses nothing."""

    def __init__(self, settings: ModelSettings, tokenizer: RepoTokenizer) -> None:
        self._settings, self._tokenizer = settings, tokenizer

    @contextmanager
    def swap_in(self, model: Any) -> Iterator[None]:
        """Give the model these weights inside the context; its own stay on the device too, untouched.

        Raises InputError if they aren't available, or belong to another model.
        """
        parameters = dict(model.named_parameters())
        if differs := _first_difference(parameters, self._weights):
            name = self._settings.name
            raise InputError(
                f"model {name}: isn't the model that training began with ({differs} differs); restore that one"
            )
        trained = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self._weights[name].to(parameter.device, parameter.dtype)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = trained[name]

    @cached_property
    def _weights(self) -> dict[str, torch.Tensor]:
        placement = Placement("cpu", "float32")
        model, _ = load_base(self._settings, self._tokenizer, placement)
        for parameter in model.parameters():
            parameter.data = _to_16_bits(parameter.data)
        return {name: parameter.data for name, parameter in model.named_parameters()}


def _to_16_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same numbers in 16 bits if bfloat16 or float16 holds them exactly, else the tensor itself."""
    rounded = (tensor.to(dtype) for dtype in (torch.bfloat16, torch.float16))
    return next((one for one in rounded if torch.equal(one.to(tensor.dtype), tensor)), tensor)


def _first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return the first name that one of them lacks or has in another shape; None if there is none."""
    differ = (name for name in ours.keys() | theirs.keys() if _shape(ours, name) != _shape(theirs, name))
    return min(differ, default=None)


def _shape(tensors: Any, name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def write_random_model(folder: Path, seed: int) -> None:
    """Fill a folder that has a `config.json` with random weights, initialized as the architecture does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.AutoConfig.from_pretrained(folder)
        write_model(folder, transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
