"""Read a LoRA adapter in PEFT's format for conversion, and collect what a merge needs: base, positions, adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.data.tokenizer import RepoTokenizer, load_tokenizer
from longrepo.engines.adapter_io import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TOKEN_ROWS_PATH,
    lora_path,
    tensor_name,
    unreadable_adapter,
)
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT
from longrepo.training.artifact import TrainedArtifact, read_adapter_config

_UNSUPPORTED_PEFT_KEYS = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "use_qalora",
    "fan_in_fan_out",
)
Quantization = Literal["none", "4bit", "8bit"]
Precision = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class ExportOptions:
    """Export options of every format. None means: as in the run's settings."""

    quantization: Quantization | None = None
    precision: Precision | None = None
    with_base: bool = False  # even if the published base would do
    model_file: bool = True  # add a model file if mlx-lm's own model computes something else
    adapter_only: bool = False  # gguf: write the adapter to its own file
    llama_cpp: Path | None = None  # folder of its converters; None: look on PATH


@dataclass(frozen=True)
class PeftAdapter:
    """A LoRA adapter in memory, as arrays of the framework that read it (transposed ones are views).

    `lora`: float32 `lora_a` `[in, r]` and `lora_b` `[r, out]` by path. `rows`: float32 `[k, hidden]`, the trained
    embedding rows of the token ids `row_ids`."""

    r: int
    scale: float
    dropout: float
    lora: dict[str, Any]
    row_ids: tuple[int, ...]
    rows: Any


def read_peft_adapter(folder: Path, load: Callable[[Path], Mapping[str, Any]]) -> PeftAdapter:
    """Read an adapter; `load` reads a file's tensors in float32.

    Raises InputError if it can't be read, or is anything but LoRA with trained embedding rows."""
    config, file = read_adapter_config(folder), folder / ADAPTER_WEIGHTS
    if config.get("peft_type") != "LORA" or any(config.get(name) for name in _UNSUPPORTED_PEFT_KEYS):
        also = next(
            (name for name in _UNSUPPORTED_PEFT_KEYS if config.get(name)), f"peft_type {config.get('peft_type')}"
        )
        raise InputError(f"{folder / ADAPTER_CONFIG}: only plain LoRA can be converted, and this has {also}")
    try:
        tensors = dict(load(file))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise unreadable_adapter(file, error) from None
    rows = tensors.pop(tensor_name(TOKEN_ROWS_PATH), None)
    lora = {}
    for name, tensor in tensors.items():
        if (path := lora_path(name)) is None:
            raise InputError(f"{file}: only plain LoRA can be converted, and this has {name}")
        lora[path] = tensor.T
    ids = config.get("trainable_token_indices") or []
    ids = [id for some in ids.values() for id in some] if isinstance(ids, dict) else ids
    if len(ids) != (0 if rows is None else len(rows)):
        raise InputError(
            f"{folder}: {ADAPTER_CONFIG} names {len(ids)} trained tokens, but {ADAPTER_WEIGHTS} has "
            f"{0 if rows is None else len(rows)} rows for them"
        )
    r = int(config["r"])
    scale = config["lora_alpha"] / (r**0.5 if config.get("use_rslora") else r)
    return PeftAdapter(r, scale, float(config.get("lora_dropout", 0.0)), lora, tuple(ids), rows)


_NO_ADAPTER = PeftAdapter(r=1, scale=0.0, dropout=0.0, lora={}, row_ids=(), rows=None)


@dataclass(frozen=True)
class MergeInputs:
    """What a merge needs: the weights of `model`, the positions in `context`, and the `adapter` to merge.

    A fully trained model has its positions and token rows already, and nothing to merge."""

    model: ModelSettings
    tokenizer: RepoTokenizer
    context: ContextSettings
    adapter: PeftAdapter

    @staticmethod
    def of(source: TrainedArtifact, load: Callable[[Path], Mapping[str, Any]]) -> MergeInputs:
        """`load` as in `read_peft_adapter`. Raises InputError if the adapter or the tokenizer can't be read."""
        settings = source.settings
        tokenizer = load_tokenizer(source.tokenizer, settings.model.revision, settings.data.structure_tokens)
        if not source.whole:
            return MergeInputs(settings.model, tokenizer, settings.context, read_peft_adapter(source.adapter, load))
        tokenizer.initial_from = {}
        model = settings.model.model_copy(update={"name": str(source.adapter), "revision": None})
        return MergeInputs(model, tokenizer, NATIVE_CONTEXT, _NO_ADAPTER)
