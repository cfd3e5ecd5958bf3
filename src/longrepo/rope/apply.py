"""Apply the `context` settings to a model's configuration, and record and describe the positions used.

Configurations are dictionaries: config.json with transformers' defaults (`AutoConfig.from_pretrained(…).to_dict()`).
An adapter that was trained with other positions than its base's has a file that says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.errors import InputError
from longrepo.rope.scaling import (
    CONTEXT_KEY,
    ModelConfig,
    RopeConfig,
    is_rotary,
    rope_config,
    rotary_size,
    scale_parameters,
    widest_window,
)

ConfigChanges = dict[str, Any]
NATIVE_CONTEXT = ContextSettings()  # the published positions


def config_changes(config: ModelConfig, context: ContextSettings) -> ConfigChanges:
    """Return the keys of config.json that `context` changes; none for the native context.

    With `dynamic`, `max_position_embeddings` stays the native length: both libraries scale from there on. Raises
    InputError, naming the setting, for a model without rotary positions, a target below the native length, scaling
    that the attention window would make useless, positions that are scaled already, or an impossible factor.
    """
    if context == NATIVE_CONTEXT:
        return {}
    rotary = rope_config(config)
    found = _window_changes(config, context)
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
        parameters = scale_parameters(rotary, context)
        reach = rotary.native if context.method == "dynamic" else target
    record = {
        "method": context.method,
        "target_length": target,
        "native_length": rotary.native,
        "native_rope_parameters": rotary.parameters,
    }
    return found | {"max_position_embeddings": reach, "rope_parameters": parameters, CONTEXT_KEY: record}


def fixed_length_changes(config: ModelConfig, length: int | None = None) -> ConfigChanges:
    """Return the keys to change so that no frequency depends on a text's length: all are those of `length` tokens
    (None: the configuration's reach).

    Engines compute `dynamic` and `longrope` so: all chunks of a text, and all texts, at one scale.
    """
    if not is_rotary(config):
        return {}
    parameters, native = dict(config["rope_parameters"]), int(config["max_position_embeddings"])
    length = length or context_reach(config)
    if parameters.get("rope_type") == "dynamic":
        factor = float(parameters.pop("factor"))
        stretch = max(1.0, factor * length / native - (factor - 1))  # Peng et al. 2023, section 3.3, with factor 1
        size = rotary_size(config)
        theta = parameters["rope_theta"] * stretch ** (size / (size - 2))
        fixed = parameters | {"rope_type": "default", "rope_theta": theta}
        return {"rope_parameters": fixed, "max_position_embeddings": max(length, native)}
    if parameters.get("rope_type") == "longrope":
        long = length > parameters["original_max_position_embeddings"]
        factors = parameters["long_factor" if long else "short_factor"]
        return {"rope_parameters": parameters | {"long_factor": factors, "short_factor": factors}}
    return {}


def engine_config_changes(config: ModelConfig, context: ContextSettings, length: int | None = None) -> ConfigChanges:
    """Return the changes that engines and the planner use: `config_changes` at one length for all texts."""
    found = config_changes(config, context)
    return found | fixed_length_changes({**config, **found}, length or context.target_length)


def context_reach(config: ModelConfig) -> int:
    """Return how many tokens a configuration's positions reach."""
    record, parameters = config.get(CONTEXT_KEY), config.get("rope_parameters") or {}
    if record:
        return int(record["target_length"])
    factor = parameters["factor"] if parameters.get("rope_type") == "dynamic" else 1
    return int(config["max_position_embeddings"] * factor)


def _window_changes(config: ModelConfig, context: ContextSettings) -> ConfigChanges:
    """Raises InputError for a window narrower than the model's own, or if the model has none."""
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
    full: ConfigChanges = {"sliding_window": None}
    full |= {"layer_types": ["full_attention"] * len(kinds)} if kinds else {}
    return full | ({"use_sliding_window": False} if "use_sliding_window" in config else {})


def _check_scaling(rotary: RopeConfig, context: ContextSettings, window: int | None) -> None:
    target = context.target_length or 0
    if rotary.kind != "default":
        raise InputError(
            f"context.method: its positions are scaled already (rope_type {rotary.kind}), and {context.method} can't "
            "be combined with that; use none, or the model that it was made from"
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


CONTEXT_FILE = "positions.json"


def write_context(folder: Path, context: ContextSettings) -> None:
    """Write the setting into an existing adapter's folder; nothing for the base's own positions."""
    if context != NATIVE_CONTEXT:
        text = json.dumps(context.model_dump(mode="json"), indent=2)
        (folder / CONTEXT_FILE).write_text(text + "\n", encoding="utf-8")


def read_context(folder: Path) -> ContextSettings:
    """Return the setting an adapter was trained with. Raises InputError if its record can't be read."""
    file = folder / CONTEXT_FILE
    try:
        return ContextSettings.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return NATIVE_CONTEXT
    except (OSError, ValueError):
        raise InputError(f"{file}: can't be read as a position setting; copy the adapter's folder again") from None


def describe_context(context: ContextSettings) -> str:
    """Describe the setting in a few words."""
    if context == NATIVE_CONTEXT:
        return "the base's own"
    reach = f" to {context.target_length:,} tokens" if context.target_length else ""
    window = "" if context.window == "keep" else f", window {context.window}"
    return f"{context.method}{reach}{window}"


def context_options(context: ContextSettings) -> str:
    """Return the settings as options of a command."""
    own = NATIVE_CONTEXT.model_dump()
    changed = {name: value for name, value in context.model_dump().items() if value != own[name]}
    if "long_factors" in changed:
        changed["long_factors"] = "[…]"
    return " ".join(f"--set context.{name}={value}" for name, value in changed.items()) or "no context settings"


def context_messages(config: ModelConfig, context: ContextSettings) -> Iterator[str]:
    """Yield messages on how `context` changes a configuration; none if its positions stay as they are."""
    if not is_rotary(config):
        return
    after = {**config, **config_changes(config, context)}
    kind, window = (after["rope_parameters"] or {}).get("rope_type"), widest_window(after)
    if context.target_length is not None:
        native = rope_config(config).native
        yield f"positions: {native:,} to {context_reach(after):,} tokens, {_scaling_note(context, native, window)}"
    if context.window != "keep":
        yield (
            f"attention window: {_window_text(config.get('sliding_window'))} to "
            f"{_window_text(after.get('sliding_window'))}"
        )
    if kind in ("dynamic", "longrope"):
        yield f"{kind}: every text uses the frequencies of {context_reach(after):,} tokens, however short it is"


def _scaling_note(context: ContextSettings, native: int, window: int | None) -> str:
    if context.method != "none":
        return f"context.method={context.method}"
    if window is not None and window <= native:
        return f"not scaled: no token sees another that is {window:,} or more away"
    return "not scaled: distances beyond the native length are extrapolated"


def _window_text(tokens: int | None) -> str:
    return "none" if tokens is None else f"{tokens:,} tokens"
