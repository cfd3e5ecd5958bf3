"""The model types that this engine computes as transformers does, and what of each mlx-lm has to be told."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from longrepo.engines.mlx.fidelity.model import Activation, CausalLM, Decoder, GatedMlp, Mlp
from longrepo.engines.mlx.fidelity.rope import ENGINE, rope
from longrepo.errors import InputError

Config = dict[str, Any]
ACTIVATIONS: dict[str, Activation] = {
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}


def _no_windows(config: Config) -> list[int | None]:
    return [None] * config["num_hidden_layers"]


def _one_window(config: Config) -> list[int | None]:
    return [config.get("sliding_window")] * config["num_hidden_layers"]


def _windows_by_layer(config: Config) -> list[int | None]:
    known = {"full_attention": None, "sliding_attention": config.get("sliding_window")}
    if unknown := set(config["layer_types"]) - known.keys():
        raise InputError(f"the MLX engine has no layer type {min(unknown)}; {ENGINE}")
    return [known[kind] for kind in config["layer_types"]]


@dataclass(frozen=True)
class Family:
    """`biases` names the setting that gives attention (and StarCoder2's MLP) biases where mlx-lm's model has no choice;
    `fixed` are mlx-lm's arguments that transformers doesn't read for this type."""

    module: str
    windows: Callable[[Config], list[int | None]] = _no_windows
    mlp: type[Mlp] | type[GatedMlp] = GatedMlp
    biases: str | None = None
    fixed: Config = field(default_factory=dict)
    own_head_size: bool = True


_PLAIN_LLAMA: Config = {"layer_types": None, "sliding_window": None}
FAMILIES = {
    "starcoder2": Family("starcoder2", _one_window, Mlp, biases="use_bias", own_head_size=False),
    "llama": Family("llama", fixed=_PLAIN_LLAMA),
    "mistral": Family("llama", _one_window, fixed=_PLAIN_LLAMA | {"attention_bias": False, "mlp_bias": False}),
    "qwen2": Family("qwen2", _windows_by_layer, own_head_size=False),
    "qwen3": Family("qwen3", _windows_by_layer, biases="attention_bias"),
    "gemma": Family("gemma", biases="attention_bias"),
}


def family_of(config: Config) -> Family:
    """Raises InputError where this engine has none for it."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise InputError(f"the MLX engine computes {', '.join(sorted(FAMILIES))}, not model type {kind}; {ENGINE}")
    return FAMILIES[str(kind)]


def build(config: Config) -> CausalLM:
    """The model without its weights: arrays of the right shapes that nothing has evaluated.

    `config` is config.json with transformers' defaults, its `vocab_size` the final one. Raises InputError for what
    can't be computed as it says.
    """
    family = family_of(config)
    _refuse(config, family)
    activation = ACTIVATIONS[config["hidden_act"]]
    arch = importlib.import_module(f"mlx_lm.models.{family.module}")
    known = config | family.fixed | {"rope_theta": config["rope_parameters"]["rope_theta"], "rope_scaling": None}
    theirs = arch.Model(arch.ModelArgs.from_dict(known))
    for layer in theirs.model.layers:
        layer.mlp = family.mlp(layer.mlp, activation)
        if family.biases is not None:
            _set_biases(layer, bool(config[family.biases]))
    scale = config["hidden_size"] ** 0.5 if family.module == "gemma" else None
    model = CausalLM(theirs, Decoder(theirs.model, family.windows(config), scale))
    set_positions(model, config)
    return model


def set_positions(model: CausalLM, config: Config) -> None:
    """Rotary angles and windows as `config` says."""
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    angles = rope(config["rope_parameters"], head_size, config["max_position_embeddings"])
    for layer in model.model.layers:
        layer.self_attn.rope = angles
    model.model.windows = tuple(family_of(config).windows(config))


def _refuse(config: Config, family: Family) -> None:
    kind = config["model_type"]
    if config["hidden_act"] not in ACTIVATIONS:
        raise InputError(f"the MLX engine has no hidden_act {config['hidden_act']}; {ENGINE}")
    plain = config["hidden_size"] // config["num_attention_heads"]
    if not family.own_head_size and (config.get("head_dim") or plain) != plain:
        raise InputError(f"the MLX engine computes {kind} with a head_dim of {plain} only; {ENGINE}")
    if kind == "gemma" and (not config["tie_word_embeddings"] or config.get("use_bidirectional_attention")):
        raise InputError(f"the MLX engine computes gemma with tied embeddings and causal attention only; {ENGINE}")


def _set_biases(layer: nn.Module, wanted: bool) -> None:
    """On every linear of attention, and of StarCoder2's MLP."""
    parts = [layer.self_attn, layer.mlp] if isinstance(layer.mlp, Mlp) else [layer.self_attn]
    for part in parts:
        for child in part.children().values():
            if not isinstance(child, nn.Linear):
                continue
            child.pop("bias", None)
            if wanted:
                child.bias = mx.zeros((child.weight.shape[0],))
