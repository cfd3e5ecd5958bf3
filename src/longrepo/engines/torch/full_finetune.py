"""Training a model's own weights, all of them: float32 weights and moments, the folder that they are written to, and
the weights that they began as.
"""

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
    """Where weights that are trained lie: in float32, whatever is computed in, or small updates would be lost."""
    return placement._replace(dtype_name="float32")


def train_all_weights(base: Any, settings: Settings) -> Any:
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
    file = folder / MODEL_WEIGHTS
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: can't be read as a model's weights ({str(error).splitlines()[0]})") from None
    ours = dict(model.named_parameters())  # what is tied has one name
    if differs := _first_difference(ours, saved):
        raise InputError(f"{file}: holds another model's weights ({differs} differs); give its own folder")
    for name, parameter in ours.items():
        parameter.copy_(saved[name])


class InitialWeights:
    """The weights that a model began as: read when they are first asked for, then kept on the CPU, in 16 bits where
    that loses nothing."""

    def __init__(self, settings: ModelSettings, tokenizer: RepoTokenizer) -> None:
        self._settings, self._tokenizer = settings, tokenizer

    @contextmanager
    def swap_in(self, model: Any) -> Iterator[None]:
        """While entered, the model has these weights; its own lie beside, untouched, so its device holds both.

        Raises InputError where they can't be had, or are another model's.
        """
        parameters = dict(model.named_parameters())
        if differs := _first_difference(parameters, self._weights):
            name = self._settings.name
            raise InputError(f"model {name}: isn't what training began with ({differs} differs); put that back there")
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
    """The same numbers in 16 bits where one of the two types holds them, else the tensor itself."""
    rounded = (tensor.to(dtype) for dtype in (torch.bfloat16, torch.float16))
    return next((one for one in rounded if torch.equal(one.to(tensor.dtype), tensor)), tensor)


def _first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first name that is lacking in one of them, or of another shape; None where there is none."""
    differ = (name for name in ours.keys() | theirs.keys() if _shape(ours, name) != _shape(theirs, name))
    return min(differ, default=None)


def _shape(tensors: Any, name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def write_random_model(folder: Path, seed: int) -> None:
    """Fill a folder that holds a `config.json` with random weights, as the architecture draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.AutoConfig.from_pretrained(folder)
        write_model(folder, transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
