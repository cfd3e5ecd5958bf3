"""The adapter of an MLX model in PEFT's own format, as the torch engine writes it: each reads the other's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.tuner.lora import LoRALinear
from safetensors.numpy import save_file

from longrepo.config.schema import Settings
from longrepo.engines.mlx.rows import TokenRows
from longrepo.engines.peft_names import (
    CONFIG,
    ROWS,
    WEIGHTS,
    check_adapter,
    config_of,
    tensor_name,
    unreadable_adapter,
)


def write_adapter(folder: Path, model: Any, rows: TokenRows | None, settings: Settings) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into an existing folder."""
    tensors = {
        tensor_name(path): np.ascontiguousarray(np.array(tensor).T) for path, tensor in lora_tensors(model).items()
    }
    if rows is not None:
        tensors[tensor_name(ROWS)] = np.array(rows.weight)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    ids: Any = rows.ids.tolist() if rows is not None else None
    text = json.dumps(config_of(settings, ids), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_adapter(folder: Path, model: Any, rows: TokenRows | None) -> None:
    """Set the model's adapter from a folder. Raises InputError where it was made for another model or other LoRA."""
    file = folder / WEIGHTS
    try:
        saved = load_float32(file)
    except RuntimeError as error:
        raise unreadable_adapter(file, error) from None
    layers = lora_tensors(model)
    ours = {tensor_name(path): tensor.shape[::-1] for path, tensor in layers.items()}
    if rows is not None:
        ours[tensor_name(ROWS)] = rows.weight.shape
    check_adapter(file, ours, {name: tensor.shape for name, tensor in saved.items()})
    read = {path: mx.contiguous(saved[tensor_name(path)].T) for path in layers}
    mx.eval(read)
    model.load_weights(list(read.items()), strict=False)
    if rows is not None:
        rows.weight = saved[tensor_name(ROWS)]


def lora_tensors(model: Any) -> dict[str, mx.array]:
    """`lora_a` `[in, r]` and `lora_b` `[r, out]` of each LoRA layer, by path."""
    return {
        f"{name}.{matrix}": module[matrix]
        for name, module in sorted(model.named_modules())
        if isinstance(module, LoRALinear)
        for matrix in ("lora_a", "lora_b")
    }


def load_float32(file: Path) -> dict[str, mx.array]:
    """The tensors of a safetensors file in float32, in memory. Raises RuntimeError where it can't be read."""
    loaded: Any = mx.load(str(file), format="safetensors")
    tensors = {name: tensor.astype(mx.float32) for name, tensor in loaded.items()}
    mx.eval(tensors)
    return tensors
