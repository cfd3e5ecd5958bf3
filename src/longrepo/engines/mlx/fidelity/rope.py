"""Rotary embeddings as transformers reads their parameters, computed by mlx-lm's modules."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.rope_utils import initialize_rope

from longrepo.errors import InputError

ENGINE = "use --engine torch"
KINDS = ("default", "linear", "llama3", "yarn", "longrope")


def rope(parameters: dict[str, Any], head_size: int, positions: int) -> nn.Module:
    """For `[rows, heads, tokens, head_size]`, from transformers' `rope_parameters` at one length for all texts
    (`longrepo.context.change.at_length`).

    Raises InputError for what mlx-lm computes otherwise: a part of the head left unrotated, YaRN's `truncate: false`.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in KINDS:
        raise InputError(f"the MLX engine has no rope_type {kind}; {ENGINE}")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"the MLX engine rotates whole heads, its config.json a part of them; {ENGINE}")
    if kind == "yarn" and not parameters.get("truncate", True):
        raise InputError(f"the MLX engine has no rope_type yarn with truncate: false; {ENGINE}")
    if kind == "longrope" and parameters.get("factor"):  # mlx-lm takes it from the positions, transformers from this
        positions = round(parameters["factor"] * parameters["original_max_position_embeddings"])
    module: Any = initialize_rope(head_size, parameters["rope_theta"], False, _scaling(parameters), positions)
    module._freqs = _reciprocals(_frequencies(parameters, head_size))
    if parameters.get("attention_factor") is not None:
        setattr(module, "mscale" if kind == "yarn" else "_scale", float(parameters["attention_factor"]))
    return module


def _scaling(parameters: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm's `rope_scaling`. It uses one of YaRN's mscales alone; transformers only both of them. Of its modules for
    unscaled and linear positions it is `proportional` that takes frequencies."""
    mscales = {"mscale", "mscale_all_dim"}
    dropped = set() if all(parameters.get(name) for name in mscales) else mscales
    given = {name: value for name, value in parameters.items() if value is not None and name not in dropped}
    plain = given.get("rope_type", "default") in ("default", "linear")
    return given | {"type": "proportional" if plain else given["rope_type"]}


def _frequencies(parameters: dict[str, Any], size: int) -> Any:
    """Radians a token, float32 `[size / 2]`, rounded at each step where transformers rounds: at token 10,000 the last
    bit of a frequency is an angle of 0.001."""
    one, kind = np.float32(1), parameters.get("rope_type", "default")
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    wide = (float(np.float32(parameters["rope_theta"])) ** exponents.astype(np.float64)).astype(np.float32)
    if kind == "longrope":
        return one / (np.array(parameters["long_factor"], np.float32) * wide)
    plain = one / wide
    if kind == "default":
        return plain
    factor = np.float32(parameters["factor"])
    if kind == "linear":
        return plain / factor
    native = parameters["original_max_position_embeddings"]
    if kind == "llama3":
        slow, fast = np.float32(parameters["low_freq_factor"]), np.float32(parameters["high_freq_factor"])
        waves = np.float32(2 * math.pi) / plain
        smooth = np.clip((np.float32(native) / waves - slow) / (fast - slow), 0, 1)
        between = (one - smooth) * plain / factor + smooth * plain
        return np.where(smooth == 1, plain, np.where(smooth == 0, plain / factor, between))
    return _by_parts(parameters, plain, one / (factor * wide), size)


def _by_parts(parameters: dict[str, Any], plain: Any, scaled: Any, size: int) -> Any:
    """YaRN's, between `plain` and `scaled` frequencies."""
    turns = (parameters.get("beta_fast") or 32, parameters.get("beta_slow") or 1)
    native, theta = parameters["original_max_position_embeddings"], parameters["rope_theta"]
    low, high = (size * math.log(native / (turn * 2 * math.pi)) / (2 * math.log(theta)) for turn in turns)
    first, last = max(math.floor(low), 0), min(math.ceil(high), size - 1)
    ramp = (np.arange(size // 2, dtype=np.float32) - np.float32(first)) / np.float32((last - first) or 0.001)
    kept = np.float32(1) - np.clip(ramp, 0, 1)
    return scaled * (np.float32(1) - kept) + plain * kept


def _reciprocals(frequencies: Any) -> mx.array:
    """Whose reciprocals, which MLX takes, are nearest to the frequencies: a rounded reciprocal's isn't always."""
    middle = np.float32(1) / frequencies
    near = np.stack([middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))])
    best = np.abs(np.float32(1) / near - frequencies).argmin(axis=0)
    return mx.array(near[best, np.arange(len(middle))])
