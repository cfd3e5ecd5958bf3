"""Rotary embeddings with transformers' frequencies, as modules that mlx-lm's attention calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.rope_utils import initialize_rope

from longrepo.errors import InputError

ENGINE = "use --engine torch"
KINDS = ("default", "linear", "llama3", "yarn", "longrope")


class NoRotation(nn.Module):
    """Takes the place of a rotary embedding in layers without positions (NoPE, Kazemnejad et al. 2023)."""

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        return x


def rope_by_layer(config: dict[str, Any], rotated: Sequence[bool]) -> list[nn.Module]:
    """Return the rotary embedding of each layer of config.json (with transformers' defaults); `rotated` says which
    layers have positions. `rope_parameters` may differ by layer type. Raises InputError as `rope` does."""
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    parameters, positions = config["rope_parameters"], config["max_position_embeddings"]
    if "rope_theta" in parameters:
        kinds = ["all"] * len(rotated)
        modules = {"all": rope(parameters, head_size, positions)}
    else:
        kinds = config["layer_types"]
        if any(parameters[kind].get("rope_type") == "longrope" for kind in kinds):
            raise InputError(f"the MLX engine has no rope_type longrope for one of several layer types; {ENGINE}")
        modules = {kind: rope(parameters[kind], head_size, positions) for kind in set(kinds)}
    none = NoRotation()
    return [modules[kind] if turns else none for kind, turns in zip(kinds, rotated, strict=False)]


def rope(parameters: dict[str, Any], head_size: int, positions: int) -> nn.Module:
    """Return the rotary embedding of `[rows, heads, tokens, head_size]` for transformers' `rope_parameters`, at one
    length for all texts (`longrepo.rope.apply.fixed_length_changes`).

    `partial_rotary_factor` is the part of a head, from its start, that is rotated. Raises InputError for what mlx-lm
    computes differently: YaRN's `truncate: false`.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in KINDS:
        raise InputError(f"the MLX engine has no rope_type {kind}; {ENGINE}")
    size = int(head_size * (parameters.get("partial_rotary_factor") or 1.0))
    if kind == "yarn" and not parameters.get("truncate", True):
        raise InputError(f"the MLX engine has no rope_type yarn with truncate: false; {ENGINE}")
    if kind == "longrope" and parameters.get("factor"):  # mlx-lm takes it from the positions, transformers from this
        positions = round(parameters["factor"] * parameters["original_max_position_embeddings"])
    module: Any = initialize_rope(size, parameters["rope_theta"], False, _scaling(parameters), positions)
    module._freqs = _reciprocals(_frequencies(parameters, size))
    if parameters.get("attention_factor") is not None:
        setattr(module, "mscale" if kind == "yarn" else "_scale", float(parameters["attention_factor"]))
    return module


def _scaling(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return mlx-lm's `rope_scaling`. It applies one of YaRN's mscales alone, transformers only both together. For
    unscaled and linear positions its `proportional` module is used because that one accepts frequencies."""
    mscales = {"mscale", "mscale_all_dim"}
    dropped = set() if all(parameters.get(name) for name in mscales) else mscales
    dropped = dropped | {"partial_rotary_factor"}  # the module gets the rotated features alone
    given = {name: value for name, value in parameters.items() if value is not None and name not in dropped}
    plain = given.get("rope_type", "default") in ("default", "linear")
    return given | {"type": "proportional" if plain else given["rope_type"]}


def _frequencies(parameters: dict[str, Any], size: int) -> Any:
    """Return radians per token, float32 `[size / 2]`, rounded wherever transformers rounds: at token 10,000 the last
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
    """Interpolate between `plain` and `scaled` frequencies as YaRN does."""
    turns = (parameters.get("beta_fast") or 32, parameters.get("beta_slow") or 1)
    native, theta = parameters["original_max_position_embeddings"], parameters["rope_theta"]
    low, high = (size * math.log(native / (turn * 2 * math.pi)) / (2 * math.log(theta)) for turn in turns)
    first, last = max(math.floor(low), 0), min(math.ceil(high), size - 1)
    ramp = (np.arange(size // 2, dtype=np.float32) - np.float32(first)) / np.float32((last - first) or 0.001)
    kept = np.float32(1) - np.clip(ramp, 0, 1)
    return scaled * (np.float32(1) - kept) + plain * kept


def _reciprocals(frequencies: Any) -> mx.array:
    """Return the numbers whose reciprocals, which MLX uses, are nearest to the frequencies; rounded reciprocals of the
    frequencies aren't always."""
    middle = np.float32(1) / frequencies
    near = np.stack([middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))])
    best = np.abs(np.float32(1) / near - frequencies).argmin(axis=0)
    return mx.array(near[best, np.arange(len(middle))])
