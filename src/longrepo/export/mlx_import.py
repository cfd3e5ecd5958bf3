"""An adapter that mlx-lm trained, in PEFT's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from longrepo.config.model_source import model_location
from longrepo.engines.mlx.adapter_files import load_float32
from longrepo.engines.mlx.weights import read_config, read_weights
from longrepo.engines.peft_names import CONFIG, WEIGHTS, lora_config, tensor_name
from longrepo.errors import InputError
from longrepo.export.mlx_adapters import LAYER, MLX_WEIGHTS, module_key
from longrepo.export.source import read_adapter_config

_PARTS = ("lora_a", "lora_b")


def write_imported(source: Path, base: str | None, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that is going to be `final` with what `mlx_lm.lora` wrote to `source`, trained on
    `base` (None: the model that it names); return lines for the terminal. Raises InputError."""
    config, tensors = read_adapter_config(source), _read(source / MLX_WEIGHTS)
    kind, parameters = config.get("fine_tune_type", "lora"), config.get("lora_parameters")
    if kind != "lora" or not isinstance(parameters, dict) or not {"rank", "scale"} <= parameters.keys():
        what = f"is a fine-tune of type {kind}" if kind != "lora" else "has no rank and scale in lora_parameters"
        raise InputError(f"{source / CONFIG}: {what}; only what mlx_lm.lora wrote with fine_tune_type lora is imported")
    base = base or config.get("model")
    if not base:
        raise InputError(f"{source / CONFIG}: names no model; give the one it was trained on with --model")
    rank, scale = int(parameters["rank"]), float(parameters["scale"])
    _check(source / MLX_WEIGHTS, tensors, rank)
    try:
        where = model_location(base)
        about = read_config(where, None)
        _check_base(source, base, tensors, about, read_weights(where, None))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model {base}: can't be had ({reason}); give the one it was trained on with --model"
        ) from None
    modules = sorted({path.rpartition(".")[0] for path in tensors})
    dropout = float(parameters.get("dropout", 0.0))
    written = lora_config(base, rank, scale * rank, dropout, {module_key(module) for module in modules}, None)
    layers = sorted({int(found[1]) for module in modules if (found := LAYER.fullmatch(module))})
    if layers != list(range(about["num_hidden_layers"])):
        written |= {"layers_to_transform": layers, "layers_pattern": "layers"}
    save_file(
        {tensor_name(path): np.ascontiguousarray(np.array(tensor).T) for path, tensor in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    (folder / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    lines = [f"adapter: {final} (base: {base}, LoRA on {len(modules)} modules of {len(layers)} layers)"]
    if about.get("quantization"):
        lines.append(f"{base} is an MLX folder: for PEFT, name the model it was made from with --model")
    return lines


def _read(file: Path) -> dict[str, mx.array]:
    try:
        return load_float32(file)
    except RuntimeError as error:
        raise InputError(f"{file}: can't be read ({error}); give the folder that mlx_lm.lora wrote") from None


def _check(file: Path, tensors: dict[str, mx.array], rank: int) -> None:
    """Raises InputError where it isn't LoRA of that rank on linear layers."""
    for path, tensor in tensors.items():
        name, _, matrix = path.rpartition(".")
        if matrix not in _PARTS or tensor.ndim != 2:
            raise InputError(f"{file}: only LoRA on linear layers is imported, and this has {path}")
        if tensor.shape[1 - _PARTS.index(matrix)] != rank:
            raise InputError(
                f"{file}: {path} is of rank {tensor.shape[1 - _PARTS.index(matrix)]}, {CONFIG} says {rank}"
            )
        if any(f"{name}.{part}" not in tensors for part in _PARTS):
            raise InputError(f"{file}: of {name} one of {' and '.join(_PARTS)} is missing; save it again")
    if not tensors:
        raise InputError(f"{file}: holds no tensors; give the folder that mlx_lm.lora wrote")


def _check_base(
    source: Path, base: str, tensors: dict[str, mx.array], config: dict[str, Any], weights: dict[str, mx.array]
) -> None:
    """Raises InputError where the base has no such linear layer."""
    packed = config.get("quantization") or {}
    for path, tensor in tensors.items():
        name, _, matrix = path.rpartition(".")
        if f"{name}.weight" not in weights or name.endswith("embed_tokens"):
            raise InputError(f"{source}: an adapter of another base: {base} has no linear layer {name}")
        out, width = weights[f"{name}.weight"].shape
        if f"{name}.scales" in weights:
            own = packed.get(name)
            width = width * 32 // (own if isinstance(own, dict) else packed)["bits"]
        asked = (width, out)[_PARTS.index(matrix)]
        given = tensor.shape[_PARTS.index(matrix)]
        if given != asked:
            raise InputError(
                f"{source}: an adapter of another base: {path} is for a width of {given}, {base}'s is {asked}"
            )
