"""mlx-lm's own model classes: what they compute otherwise than config.json says, and what they read of it."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Mapping
from typing import Any

from mlx_lm.utils import MODEL_REMAPPING

from longrepo.engines.mlx import models

_ACTIVATIONS = {
    "starcoder2": "gelu",
    "gemma": "gelu",
    "gemma3_text": "gelu_pytorch_tanh",
}  # mlx-lm's; the others': silu


def config_differences(config: Mapping[str, Any], read: Mapping[str, Any]) -> list[str]:
    """List what mlx-lm's own class computes differently from `config` (with transformers' defaults) when it reads the
    config.json `read`."""
    kind, family = config["model_type"], models.family_of(dict(config))
    activation, own = config[family.activation], _ACTIVATIONS.get(kind, "silu")
    asked = _CLASSES.get(kind, kind)
    if read["model_type"] != asked:
        return [f"it takes this config.json for a {read['model_type']}, not for a {asked}"]
    arch = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(asked, asked)}")
    arguments = getattr(arch, family.classes[1])
    try:
        theirs: Any = arguments.from_dict(copy.deepcopy(dict(read.get("text_config", read))))
    except (TypeError, ValueError) as error:
        return [f"it can't read this config.json ({error})"]
    found = []
    if activation.replace("swish", "silu") != own:
        found.append(f"its activation is {own}, not {activation}")
    windows, own_windows = family.windows(dict(config)), _own_windows(theirs, config["num_hidden_layers"])
    if missed := {window for window, seen in zip(windows, own_windows, strict=True) if window and seen is None}:
        found.append(f"beyond {min(missed)} tokens it attends to all, not to the last {min(missed)}")
    elif windows != own_windows:
        found.append("other layers have its windows")
    found += _rotary_differences(config, theirs)
    biases = family.biases is not None and kind != "starcoder2" and config[family.biases]
    if biases or (kind == "starcoder2" and not config["use_bias"]):
        found.append("it has other biases, and can't load this model")
    if kind == "stablelm" and config["tie_word_embeddings"]:
        found.append("it has a head of its own, and can't load this model")
    if kind == "gemma3_text" and read.get("dtype") != "bfloat16":
        found.append("it rounds the factor of its embeddings to bfloat16")
    if unknown := set(getattr(theirs, "layer_types", ())) - _LAYER_TYPES.get(kind, _ATTENTION_TYPES):
        found.append(f"it can't load layers of type {min(unknown)}")
    found += _recurrent_differences(config, theirs)
    if kind == "granitemoehybrid" and theirs.intermediate_size != (width := config["shared_intermediate_size"]):
        found.append(f"its MLPs are {theirs.intermediate_size} wide, not {width}, and it can't load this model")
    return found


_ATTENTION_TYPES = {"full_attention", "sliding_attention"}
_LAYER_TYPES = {"granitemoehybrid": {"attention", "mamba"}}  # mlx-lm's names; transformers 5 writes its own
_CLASSES = {"qwen3_5_text": "qwen3_5"}  # mlx-lm's model type for ours, if it is another


def _recurrent_differences(config: Mapping[str, Any], theirs: Any) -> list[str]:
    found = []
    if interval := getattr(theirs, "full_attention_interval", None):
        own = ["linear_attention" if (number + 1) % interval else "full_attention" for number in range(_layers(config))]
        if own != list(config["layer_types"]):
            found.append(f"it has layers of attention at every {interval}th place alone, and can't load this model")
    if config["model_type"] == "granitemoehybrid" and set(config["layer_types"]) & set(models.RECURRENT):
        limits = [float(limit) for limit in config.get("time_step_limit") or (0.0, math.inf)]
        if list(theirs.time_step_limit) != limits:
            found.append(f"it keeps time steps within {theirs.time_step_limit}, not within {limits}")
        if config["mamba_n_groups"] > 1:
            found.append("it norms the groups of a recurrent layer together")
    return found


def _layers(config: Mapping[str, Any]) -> int:
    return int(config["num_hidden_layers"])


def _own_windows(theirs: Any, layers: int) -> list[int | None]:
    """Return the windows of the layers of mlx-lm's own class."""
    if pattern := getattr(theirs, "sliding_window_pattern", None):
        return [theirs.sliding_window if (number + 1) % pattern else None for number in range(layers)]
    kinds = getattr(theirs, "layer_types", None) or ["full_attention"] * layers
    return [theirs.sliding_window if kind == "sliding_attention" else None for kind in kinds]


def _rotary_differences(config: Mapping[str, Any], theirs: Any) -> list[str]:
    rotary = config["rope_parameters"]
    near = None if "rope_theta" in rotary else rotary.get("sliding_attention")  # of layers with a window
    full = rotary if "rope_theta" in rotary else rotary["full_attention"]
    found = []
    if theirs.rope_theta != full["rope_theta"]:
        found.append(f"its rotary base is {theirs.rope_theta:g}, not {full['rope_theta']:g}")
    if full.get("rope_type", "default") != "default" and not getattr(theirs, "rope_scaling", None):
        found.append(f"its rotary angles are unscaled, not {full['rope_type']}")
    if full.get("attention_factor") is not None:
        found.append("it computes attention_factor itself")
    if full.get("rope_type") == "yarn" and bool(full.get("mscale")) != bool(full.get("mscale_all_dim")):
        found.append("it applies one of mscale and mscale_all_dim alone")
    if full.get("rope_type") == "longrope" and full.get("factor"):
        reach = config["max_position_embeddings"] / full["original_max_position_embeddings"]
        if reach != full["factor"]:
            found.append(f"its longrope reaches {reach:g} times as far, not {full['factor']:g}")
    if near is not None:
        base = getattr(theirs, "rope_local_base_freq", theirs.rope_theta)
        if base != near["rope_theta"]:
            found.append(f"the rotary base of layers with a window is {base:g}, not {near['rope_theta']:g}")
        if near.get("rope_type", "default") != "default":
            found.append(f"layers with a window have unscaled rotary angles, not {near['rope_type']}")
    part = getattr(theirs, "partial_rotary_factor", 1.0)
    if part != (wanted := full.get("partial_rotary_factor") or 1.0):
        found.append(f"it rotates {part:g} of a head, not {wanted:g}")
    rotates = getattr(theirs, "position_embedding_type", "nope") != "nope"
    if config["model_type"] == "granitemoehybrid" and config["position_embedding_type"] != "rope" and rotates:
        found.append("it rotates its heads, which have no positions")
    return found


def own_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return config.json for mlx-lm's own class, which takes Qwen3.5 for a model that sees images too."""
    if (kind := config["model_type"]) not in _CLASSES:
        return config
    outside = {name: one for name, one in config.items() if name.startswith("quantization")}
    around = ("eos_token_id", "bos_token_id", "pad_token_id", "dtype", "tie_word_embeddings")
    inside = {name: one for name, one in config.items() if name not in outside}
    named = {name: config[name] for name in around if name in config}
    return {"model_type": _CLASSES[kind], "text_config": inside, **named, **outside}


def own_path(path: str, config: Mapping[str, Any]) -> str:
    """Return the path of a module in mlx-lm's own class of the model whose config.json is given."""
    return f"language_model.{path}" if "text_config" in config or config["model_type"] in _CLASSES.values() else path


def own_positions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json says of positions and layers by the names that mlx-lm's own classes read."""
    parameters = config["rope_parameters"]
    full = parameters if "rope_theta" in parameters else parameters["full_attention"]
    named: dict[str, Any] = {"rope_theta": full["rope_theta"]}
    if near := parameters.get("sliding_attention"):
        named["rope_local_base_freq"] = near["rope_theta"]
    if full.get("partial_rotary_factor"):
        named["partial_rotary_factor"] = full["partial_rotary_factor"]
    if (kind := full.get("rope_type", "default")) != "default":
        named["rope_scaling"] = {"type": kind} | {name: value for name, value in full.items() if name != "rope_theta"}
    if config["model_type"] == "granitemoehybrid":
        kinds = config["layer_types"]  # transformers reads these names, too
        named["layer_types"] = ["mamba" if kind in models.RECURRENT else "attention" for kind in kinds]
        named["position_embedding_type"] = config["position_embedding_type"] or "nope"  # as published; null is rotated
        named["time_step_limit"] = list(config.get("time_step_limit") or (0.0, math.inf))
        named["intermediate_size"] = config["shared_intermediate_size"]  # transformers reads it for experts alone
    if config["model_type"] == "qwen3_5_text" and "full_attention" in config["layer_types"]:
        named["full_attention_interval"] = config["layer_types"].index("full_attention") + 1
    if config["model_type"] == "gemma3_text" and "full_attention" in config["layer_types"]:
        named["sliding_window_pattern"] = config["layer_types"].index("full_attention") + 1
    return named
