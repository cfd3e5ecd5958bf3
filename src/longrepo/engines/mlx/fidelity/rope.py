"""Rotary embeddings as transformers reads their parameters, computed by mlx-lm's modules."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn
from mlx_lm.models.rope_utils import initialize_rope

from longrepo.errors import InputError

ENGINE = "use --engine torch"


def rope(parameters: dict[str, Any], head_size: int, positions: int) -> nn.Module:
    """For `[rows, heads, tokens, head_size]`, from transformers' `rope_parameters`.

    Raises InputError for what mlx-lm computes otherwise: a type whose angles depend on the length of the sequence
    (`dynamic`, `longrope`), a part of the head left unrotated, YaRN's `truncate: false`.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise InputError(f"the MLX engine has no rope_type {kind}; {ENGINE}")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"the MLX engine rotates whole heads, its config.json a part of them; {ENGINE}")
    if kind == "yarn" and not parameters.get("truncate", True):
        raise InputError(f"the MLX engine has no rope_type yarn with truncate: false; {ENGINE}")
    module = initialize_rope(head_size, parameters["rope_theta"], False, _scaling(parameters), positions)
    if kind == "yarn" and parameters.get("attention_factor") is not None:
        module.mscale = float(parameters["attention_factor"])
    return module


def _scaling(parameters: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm's `rope_scaling`. It uses one of YaRN's mscales alone; transformers only both of them."""
    mscales = {"mscale", "mscale_all_dim"}
    dropped = set() if all(parameters.get(name) for name in mscales) else mscales
    return {name: value for name, value in parameters.items() if value is not None and name not in dropped}
