"""Read a model's rotary positions and scale them: linear, NTK-aware, dynamic, YaRN, LongRoPE, Llama 3.

Rotary parameters are as transformers and mlx-lm read them.

With s = target / native length, d the rotated size of a head and b the base frequency:

- `linear`: every frequency divided by s (position interpolation, Chen et al. 2023).
- `base`: b · s^(d / (d - 2)), which divides the lowest frequency by s and leaves the highest (NTK-aware: Peng et al.
  2023, definition 1; Xiong et al. 2023 raise the base too).
- `dynamic`: the same with s = length / native length of the text at hand (Peng et al. 2023, section 3.3).
- `yarn`: high frequencies left, low ones divided by s, a ramp between (Peng et al. 2023, sections 3.2, 3.4).
- `llama3`: the same idea with Llama 3.1's bounds, in wavelengths.
- `longrope`: a separate divisor for each frequency (Ding et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.errors import InputError

ModelConfig = Mapping[str, Any]
CONTEXT_KEY = "longrepo_context"  # a key of config.json: the changes made to it, and the former values


@dataclass(frozen=True)
class RopeConfig:
    """A model's rotary positions. `parameters`: transformers' `rope_parameters` before our scaling. `size`: rotated
    features of a head. `native`: tokens that the positions were trained to."""

    parameters: dict[str, Any]
    size: int
    native: int

    @property
    def kind(self) -> str:
        return str(self.parameters.get("rope_type", "default"))

    @property
    def theta(self) -> float:
        return float(self.parameters["rope_theta"])

    def frequencies(self) -> list[float]:
        """Return radians per token, `[size / 2]`, highest first (RoPE, Su et al. 2021, section 3.3.3)."""
        return [self.theta ** (-2 * index / self.size) for index in range(self.size // 2)]


def rope_config(config: ModelConfig) -> RopeConfig:
    """Read the rotary positions from config.json with transformers' defaults (`AutoConfig…to_dict()`).

    Raises InputError for a model without rotary positions, or with separate settings for each kind of layer.
    """
    record = config.get(CONTEXT_KEY) or {}
    parameters = record.get("native_rope_parameters") or config.get("rope_parameters") or {}
    if not parameters.get("rope_theta"):
        kind = config.get("model_type")
        if any(isinstance(one, Mapping) for one in parameters.values()):
            raise InputError(f"each kind of its layers has its own rotary parameters ({kind}): leave context out")
        raise InputError(
            f"it has no rotary positions (model type {kind}), so there is nothing to scale: leave context out, or take "
            "a model that has them, such as StarCoder2, Llama or Qwen2"
        )
    native = int(record.get("native_length") or config["max_position_embeddings"])
    return RopeConfig(dict(parameters), rotary_size(config), native)


def rotary_size(config: ModelConfig) -> int:
    """Return the number of rotated features of a head."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(head * (config["rope_parameters"].get("partial_rotary_factor") or 1.0))


def is_rotary(config: ModelConfig) -> bool:
    parameters = config.get("rope_parameters")
    return bool(parameters and parameters.get("rope_theta"))


def widest_window(config: ModelConfig) -> int | None:
    """Return the widest attention window of any layer, in tokens; None if a layer sees everything."""
    window: int | None = config.get("sliding_window")
    kinds = config.get("layer_types")
    if config.get("use_sliding_window") is False or (kinds and "full_attention" in kinds):
        return None
    return window


def check_published_config(published: ModelConfig) -> None:
    """Raises InputError if the published config.json contradicts itself: transformers would follow one key, mlx-lm the
    other."""
    new, old = published.get("rope_parameters"), published.get("rope_scaling")
    if not isinstance(new, Mapping) or any(isinstance(one, Mapping) for one in new.values()):
        return
    theta = published.get("rope_theta")
    if theta is not None and new.get("rope_theta") not in (None, theta):
        raise _contradiction("rope_theta", theta, "rope_parameters", new["rope_theta"])
    kind = str(new.get("rope_type", new.get("type", "default")))
    if isinstance(old, Mapping):
        was = str(old.get("rope_type", old.get("type", "default")))
        if was != kind:
            raise _contradiction("rope_scaling", was, "rope_parameters", kind)
        for name in sorted((old.keys() & new.keys()) - {"type", "rope_type"}):
            if old[name] != new[name]:
                raise _contradiction(f"rope_scaling's {name}", old[name], "rope_parameters", new[name])
    elif "rope_scaling" in published and kind != "default":
        raise _contradiction("rope_scaling", "null", "rope_parameters", kind)


def _contradiction(one: str, says: Any, other: str, has: Any) -> InputError:
    return InputError(
        f"config.json contradicts itself: {one} says {says}, {other} {has}; make them agree, or delete the wrong one"
    )


RopeParameters = dict[str, Any]
YARN_BETA_FAST, YARN_BETA_SLOW = (
    32,
    1,
)  # turns within the native length: YaRN keeps frequencies with more turns, and scales those with fewer
LLAMA3_LOW_FACTOR, LLAMA3_HIGH_FACTOR = 1.0, 4.0  # Llama 3.1's bounds


def scale_parameters(rotary: RopeConfig, context: ContextSettings) -> RopeParameters:
    """Return `rope_parameters` for a target beyond the native length. Raises InputError if a method can't reach it."""
    assert context.target_length is not None
    reached = context.target_length / rotary.native
    factor = reached if context.factor is None else context.factor
    if context.method == "dynamic":
        factor = context.factor or 1.0
    elif factor < reached:
        raise InputError(
            f"context.factor: {factor:g} reaches {int(factor * rotary.native):,} tokens, context.target_length is "
            f"{context.target_length:,}: {context.method} needs at least {reached:g}, or leave it out"
        )
    kept = {name: rotary.parameters[name] for name in ("partial_rotary_factor",) if name in rotary.parameters}
    return kept | {"rope_theta": rotary.theta} | SCALING_METHODS[context.method](rotary, float(factor), context)


def _linear(rotary: RopeConfig, factor: float, context: ContextSettings) -> RopeParameters:
    return {"rope_type": "linear", "factor": factor}


def _base(rotary: RopeConfig, factor: float, context: ContextSettings) -> RopeParameters:
    return {"rope_type": "default", "rope_theta": scaled_base(rotary, factor)}


def _dynamic(rotary: RopeConfig, factor: float, context: ContextSettings) -> RopeParameters:
    return {"rope_type": "dynamic", "factor": factor}


def _yarn(rotary: RopeConfig, factor: float, context: ContextSettings) -> RopeParameters:
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": rotary.native,
        "beta_fast": float(YARN_BETA_FAST),
        "beta_slow": float(YARN_BETA_SLOW),
    }


def _llama3(rotary: RopeConfig, factor: float, context: ContextSettings) -> RopeParameters:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": rotary.native,
        "low_freq_factor": LLAMA3_LOW_FACTOR,
        "high_freq_factor": LLAMA3_HIGH_FACTOR,
    }


def _longrope(rotary: RopeConfig, factor: float, context: ContextSettings) -> RopeParameters:
    count = rotary.size // 2
    factors = yarn_factors(rotary, factor) if context.long_factors is None else list(context.long_factors)
    if len(factors) != count:
        raise InputError(f"context.long_factors: has {len(factors)}, and longrope takes one per frequency: {count}")
    return {
        "rope_type": "longrope",
        "factor": factor,
        "original_max_position_embeddings": rotary.native,
        "short_factor": [1.0] * count,
        "long_factor": factors,
    }


SCALING_METHODS: dict[str, Callable[[RopeConfig, float, ContextSettings], RopeParameters]] = {
    "linear": _linear,
    "base": _base,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}


def scaled_base(rotary: RopeConfig, factor: float) -> float:
    """Return the base frequency that makes the lowest frequency `factor` times lower and keeps the highest."""
    return float(rotary.theta * factor ** (rotary.size / (rotary.size - 2)))


def yarn_factors(rotary: RopeConfig, factor: float) -> list[float]:
    """Return YaRN's divisor of each frequency, `[size / 2]`, highest first: LongRoPE's search starts from them."""
    first, last = (_dimension(rotary, turns) for turns in (YARN_BETA_FAST, YARN_BETA_SLOW))
    low, high = max(math.floor(first), 0), min(math.ceil(last), rotary.size - 1)
    ramp = [min(max((index - low) / ((high - low) or 0.001), 0.0), 1.0) for index in range(rotary.size // 2)]
    return [1.0 / (part / factor + 1 - part) for part in ramp]


def base_factors(rotary: RopeConfig, factor: float) -> list[float]:
    """Return the divisor of each frequency by the method `base`, `[size / 2]`."""
    return [factor ** (2 * index / (rotary.size - 2)) for index in range(rotary.size // 2)]


def _dimension(rotary: RopeConfig, turns: float) -> float:
    """Return the index of the frequency, highest first, that makes `turns` turns within the native length."""
    return rotary.size * math.log(rotary.native / (turns * 2 * math.pi)) / (2 * math.log(rotary.theta))
