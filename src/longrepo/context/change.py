"""From a model's configuration and the `context` settings to the configuration that is computed, exported and planned.

All take and give dictionaries: config.json with transformers' defaults (`AutoConfig.from_pretrained(…).to_dict()`).
"""

from __future__ import annotations

from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.context.methods import scaled
from longrepo.context.rotary import RECORD, Config, Rotary, is_rotary, rotary_of, rotated_size, widest_window
from longrepo.errors import InputError

Changes = dict[str, Any]
OWN = ContextSettings()  # positions as they were published


def changes(config: Config, context: ContextSettings) -> Changes:
    """The keys that `context` changes, as a folder for transformers and mlx-lm says it: none where it says nothing.

    With `dynamic`, `max_position_embeddings` stays the native length: both libraries scale from there on. Raises
    InputError, naming the setting, for a model without rotary positions, a target below the native length, scaling
    that the window would keep from being used, positions that are scaled already, or a factor that can't be.
    """
    if context == OWN:
        return {}
    rotary = rotary_of(config)
    found = _windows(config, context)
    if (target := context.target_length) is None:
        return found
    if target < rotary.native:
        raise InputError(
            f"context.target_length: {target:,} is below the {rotary.native:,} tokens that its positions were trained "
            "to; give more, or leave it out"
        )
    reach, parameters = target, rotary.parameters
    if context.method != "none":
        _check_scaling(rotary, context, widest_window({**config, **found}))
        parameters = scaled(rotary, context)
        reach = rotary.native if context.method == "dynamic" else target
    record = {
        "method": context.method,
        "target_length": target,
        "native_length": rotary.native,
        "native_rope_parameters": rotary.parameters,
    }
    return found | {"max_position_embeddings": reach, "rope_parameters": parameters, RECORD: record}


def at_length(config: Config, length: int | None = None) -> Changes:
    """The keys to change so that no frequency depends on a text's length any more: all are as for `length` tokens
    (None: as many as the configuration reaches).

    That is how engines compute `dynamic` and `longrope`: all chunks of a text, and all texts, at one scale.
    """
    if not is_rotary(config):
        return {}
    parameters, native = dict(config["rope_parameters"]), int(config["max_position_embeddings"])
    length = length or reach_of(config)
    if parameters.get("rope_type") == "dynamic":
        factor = float(parameters.pop("factor"))
        stretch = max(1.0, factor * length / native - (factor - 1))  # Peng et al. 2023, section 3.3, where factor is 1
        size = rotated_size(config)
        theta = parameters["rope_theta"] * stretch ** (size / (size - 2))
        fixed = parameters | {"rope_type": "default", "rope_theta": theta}
        return {"rope_parameters": fixed, "max_position_embeddings": max(length, native)}
    if parameters.get("rope_type") == "longrope":
        long = length > parameters["original_max_position_embeddings"]
        factors = parameters["long_factor" if long else "short_factor"]
        return {"rope_parameters": parameters | {"long_factor": factors, "short_factor": factors}}
    return {}


def positioned(config: Config, context: ContextSettings, length: int | None = None) -> Changes:
    """What an engine and the planner change of a model's configuration: `changes`, at one length for all texts."""
    found = changes(config, context)
    return found | at_length({**config, **found}, length or context.target_length)


def reach_of(config: Config) -> int:
    """Tokens that a configuration's positions reach."""
    record, parameters = config.get(RECORD), config.get("rope_parameters") or {}
    if record:
        return int(record["target_length"])
    factor = parameters["factor"] if parameters.get("rope_type") == "dynamic" else 1
    return int(config["max_position_embeddings"] * factor)


def _windows(config: Config, context: ContextSettings) -> Changes:
    """Raises InputError for a window that is narrower than the model's own, or where it has none."""
    own: int | None = config.get("sliding_window")
    if context.window == "keep" or (own is None and context.window == "full"):
        return {}
    if own is None:
        raise InputError(f"context.window: {context.window:,}, but its layers have no window; use full or keep")
    if context.window != "full":
        if context.window < own:
            raise InputError(
                f"context.window: {context.window:,} is narrower than the {own:,} tokens that it was trained to see; "
                "give more, or keep"
            )
        return {"sliding_window": context.window}
    kinds = config.get("layer_types")
    full: Changes = {"sliding_window": None}
    full |= {"layer_types": ["full_attention"] * len(kinds)} if kinds else {}
    return full | ({"use_sliding_window": False} if "use_sliding_window" in config else {})


def _check_scaling(rotary: Rotary, context: ContextSettings, window: int | None) -> None:
    target = context.target_length or 0
    if rotary.kind != "default":
        raise InputError(
            f"context.method: its positions are scaled already (rope_type {rotary.kind}), and {context.method} on top "
            "is no method that anybody described; use none, or the model that it was made from"
        )
    if target == rotary.native:
        raise InputError(
            f"context.target_length: its positions were trained to {target:,} tokens, and there is nothing to scale; "
            "use context.method=none"
        )
    if window is not None and window < target:
        raise InputError(
            f"context.method: {context.method} to {target:,} tokens with an attention window of {window:,} reaches no "
            f"further: no token sees another that is {window:,} or more away, so scaling would only squeeze the near "
            f"ones together. Use context.window=full (or {target}), or context.method=none to go on with the window"
        )
