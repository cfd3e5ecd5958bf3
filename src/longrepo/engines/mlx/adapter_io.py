"""The adapter of an MLX model in PEFT's own format, as the torch engine writes it: each reads the other's.

The adapter of an MLX model in PEFT's own format, as the torch engine writes it: each reads the other's.

AdamW's moments in the torch engine's file: names, shapes and parts as there, so that either goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.tuner.lora import LoRALinear
from safetensors.numpy import save_file

from longrepo.config.schema import Settings
from longrepo.engines.adapter_io import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TOKEN_ROWS_PATH,
    adapter_config,
    check_adapter,
    parameter_name,
    tensor_name,
    unknown_parameter,
    unreadable_adapter,
    unreadable_optimizer,
)
from longrepo.engines.mlx.lora import MlxTokenEmbeddings
from longrepo.errors import InputError


def write_mlx_adapter(folder: Path, model: Any, rows: MlxTokenEmbeddings | None, settings: Settings) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into an existing folder."""
    tensors = {
        tensor_name(path): np.ascontiguousarray(np.array(tensor).T) for path, tensor in lora_tensors(model).items()
    }
    if rows is not None:
        tensors[tensor_name(TOKEN_ROWS_PATH)] = np.array(rows.weight)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    ids: Any = rows.ids.tolist() if rows is not None else None
    text = json.dumps(adapter_config(settings, ids), indent=2, sort_keys=True)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


def read_mlx_adapter(folder: Path, model: Any, rows: MlxTokenEmbeddings | None) -> None:
    """Set the model's adapter from a folder. Raises InputError where it was made for another model or other LoRA."""
    file = folder / ADAPTER_WEIGHTS
    try:
        saved = load_float32(file)
    except RuntimeError as error:
        raise unreadable_adapter(file, error) from None
    layers = lora_tensors(model)
    ours = {tensor_name(path): tensor.shape[::-1] for path, tensor in layers.items()}
    if rows is not None:
        ours[tensor_name(TOKEN_ROWS_PATH)] = rows.weight.shape
    check_adapter(file, ours, {name: tensor.shape for name, tensor in saved.items()})
    read = {path: mx.contiguous(saved[tensor_name(path)].T) for path in layers}
    mx.eval(read)
    model.load_weights(list(read.items()), strict=False)
    if rows is not None:
        rows.weight = saved[tensor_name(TOKEN_ROWS_PATH)]


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


NamedMoments = dict[str, tuple[mx.array, mx.array]]
_MOMENT_NAMES = ("exp_avg", "exp_avg_sq")


def write_mlx_optimizer(file: Path, state: Mapping[str, tuple[mx.array, mx.array]], step: int) -> None:
    """Write the first and second moments (float32, by path: `<module>.lora_a`, `<module>.lora_b`, `rows`) after
    `step` updates. An empty `state` is one before the first update."""
    tensors = {}
    for path, moments in state.items():
        name = parameter_name(path)
        for part, moment in zip(_MOMENT_NAMES, moments, strict=True):
            tensors[f"{name}/{part}"] = np.ascontiguousarray(_transpose_lora(path, np.array(moment)))
        tensors[f"{name}/step"] = np.array(step, np.float32)
    save_file(tensors, file)


def read_mlx_optimizer(file: Path, parameters: Mapping[str, tuple[int, ...]]) -> tuple[NamedMoments, int]:
    """The moments by path and the number of updates they have seen; `parameters` are the shapes of what is trained.

    A path that had no state yet, or was frozen, is left out. Raises InputError where the parameters differ.
    """
    try:
        saved = mx.load(str(file), format="safetensors")
        assert isinstance(saved, dict)
        mx.eval(saved)
    except RuntimeError as error:
        raise unreadable_optimizer(file, error) from None
    paths = {parameter_name(path): path for path in parameters}
    names = sorted({key.rpartition("/")[0] for key in saved})
    state: NamedMoments = {}
    steps = set()
    for name in names:
        if (path := paths.get(name)) is None:
            raise unknown_parameter(file, name)
        try:
            first, second = (mx.contiguous(_transpose_lora(path, saved[f"{name}/{part}"])) for part in _MOMENT_NAMES)
            steps.add(int(np.array(saved[f"{name}/step"])))
        except KeyError as missing:
            raise unreadable_optimizer(file, KeyError(f"no {missing.args[0]}")) from None
        if first.shape != parameters[path] or second.shape != parameters[path]:
            raise InputError(f"{file}: moments of another shape ({name}); the LoRA settings differ")
        state[path] = first, second
    if len(steps) > 1:
        raise InputError(f"{file}: its parameters were updated {sorted(steps)} times; use another checkpoint")
    mx.eval(state)
    return state, steps.pop() if steps else 0


def _transpose_lora(path: str, tensor: Any) -> Any:
    """PEFT's matrices are the transposed of ours; the rows are the same."""
    return tensor if path == TOKEN_ROWS_PATH else tensor.T
