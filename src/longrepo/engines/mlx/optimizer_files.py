"""AdamW's moments in the torch engine's file: names, shapes and parts as there, so that either goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from longrepo.engines.peft_names import ROWS, parameter_name, unknown_parameter, unreadable_optimizer
from longrepo.errors import InputError

Moments = dict[str, tuple[mx.array, mx.array]]
_PARTS = ("exp_avg", "exp_avg_sq")


def write_optimizer(file: Path, state: Mapping[str, tuple[mx.array, mx.array]], step: int) -> None:
    """Write the first and second moments (float32, by path: `<module>.lora_a`, `<module>.lora_b`, `rows`) after
    `step` updates. An empty `state` is one before the first update."""
    tensors = {}
    for path, moments in state.items():
        name = parameter_name(path)
        for part, moment in zip(_PARTS, moments, strict=True):
            tensors[f"{name}/{part}"] = np.ascontiguousarray(_turned(path, np.array(moment)))
        tensors[f"{name}/step"] = np.array(step, np.float32)
    save_file(tensors, file)


def read_optimizer(file: Path, parameters: Mapping[str, tuple[int, ...]]) -> tuple[Moments, int]:
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
    state: Moments = {}
    steps = set()
    for name in names:
        if (path := paths.get(name)) is None:
            raise unknown_parameter(file, name)
        try:
            first, second = (mx.contiguous(_turned(path, saved[f"{name}/{part}"])) for part in _PARTS)
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


def _turned(path: str, tensor: Any) -> Any:
    """PEFT's matrices are the transposed of ours; the rows are the same."""
    return tensor if path == ROWS else tensor.T
