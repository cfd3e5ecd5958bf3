"""Position scaling, a method each: rotary parameters as transformers and mlx-lm read them.

With s = target / native length, d the rotated size of a head and b the base frequency:

- `linear`: every frequency divided by s (position interpolation, Chen et al. 2023).
- `base`: b · s^(d / (d - 2)), which divides the lowest frequency by s and leaves the highest (NTK-aware: Peng et al.
  2023, definition 1; Xiong et al. 2023 raise the base too).
- `dynamic`: the same with s = length / native length of the text at hand (Peng et al. 2023, section 3.3).
- `yarn`: high frequencies left, low ones divided by s, a ramp between (Peng et al. 2023, sections 3.2, 3.4).
- `llama3`: the same thought with Llama 3.1's bounds, in wavelengths.
- `longrope`: a divisor of its own for each frequency (Ding et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.context.rotary import Rotary
from longrepo.errors import InputError

Parameters = dict[str, Any]
FAST, SLOW = 32, 1  # turns within the native length: YaRN leaves what turns more often, and scales what turns less
LOW, HIGH = 1.0, 4.0  # Llama 3.1's bounds of the same


def scaled(rotary: Rotary, context: ContextSettings) -> Parameters:
    """`rope_parameters` for a target beyond the native length. Raises InputError for what a method can't take."""
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
    return kept | {"rope_theta": rotary.theta} | METHODS[context.method](rotary, float(factor), context)


def _linear(rotary: Rotary, factor: float, context: ContextSettings) -> Parameters:
    return {"rope_type": "linear", "factor": factor}


def _base(rotary: Rotary, factor: float, context: ContextSettings) -> Parameters:
    return {"rope_type": "default", "rope_theta": raised_base(rotary, factor)}


def _dynamic(rotary: Rotary, factor: float, context: ContextSettings) -> Parameters:
    return {"rope_type": "dynamic", "factor": factor}


def _yarn(rotary: Rotary, factor: float, context: ContextSettings) -> Parameters:
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": rotary.native,
        "beta_fast": float(FAST),
        "beta_slow": float(SLOW),
    }


def _llama3(rotary: Rotary, factor: float, context: ContextSettings) -> Parameters:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": rotary.native,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
    }


def _longrope(rotary: Rotary, factor: float, context: ContextSettings) -> Parameters:
    count = rotary.size // 2
    factors = yarn_factors(rotary, factor) if context.long_factors is None else list(context.long_factors)
    if len(factors) != count:
        raise InputError(
            f"context.long_factors: {len(factors)} of them, and longrope takes one a frequency: {count} here"
        )
    return {
        "rope_type": "longrope",
        "factor": factor,
        "original_max_position_embeddings": rotary.native,
        "short_factor": [1.0] * count,
        "long_factor": factors,
    }


METHODS: dict[str, Callable[[Rotary, float, ContextSettings], Parameters]] = {
    "linear": _linear,
    "base": _base,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}


def raised_base(rotary: Rotary, factor: float) -> float:
    """The base frequency whose lowest frequency is `factor` times lower and whose highest is the same."""
    return float(rotary.theta * factor ** (rotary.size / (rotary.size - 2)))


def yarn_factors(rotary: Rotary, factor: float) -> list[float]:
    """What YaRN divides each frequency by, `[size / 2]`, from the highest frequency: where LongRoPE's search begins."""
    first, last = (_dimension(rotary, turns) for turns in (FAST, SLOW))
    low, high = max(math.floor(first), 0), min(math.ceil(last), rotary.size - 1)
    ramp = [min(max((index - low) / ((high - low) or 0.001), 0.0), 1.0) for index in range(rotary.size // 2)]
    return [1.0 / (part / factor + 1 - part) for part in ramp]


def base_factors(rotary: Rotary, factor: float) -> list[float]:
    """What `base` divides each frequency by, `[size / 2]`."""
    return [factor ** (2 * index / (rotary.size - 2)) for index in range(rotary.size // 2)]


def _dimension(rotary: Rotary, turns: float) -> float:
    """Which frequency, counted from the highest, makes so many turns within the native length."""
    return rotary.size * math.log(rotary.native / (turns * 2 * math.pi)) / (2 * math.log(rotary.theta))
