"""Causal language models made of mlx-lm's layers that compute what transformers computes for the same config.json.

Each layer sees as far back as its configuration says, and rotary frequencies are those of transformers. `FAMILIES`
lists the supported model types and how each differs from mlx-lm's own model.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.activations import swiglu
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

from longrepo.engines.mlx.recurrent import GatedDeltaNet, Mamba2
from longrepo.engines.mlx.rotary import ENGINE, rope_by_layer
from longrepo.errors import InputError

Activation = Callable[[mx.array], mx.array]
Config = dict[str, Any]


def is_recurrent(layer: Any) -> bool:
    """Return whether a layer hands on states of a fixed size in the place of keys and values."""
    return bool(getattr(layer, "recurrent", False))


class Decoder(nn.Module):
    """Embedding, layers and final norm of an inner model of mlx-lm: ids `[rows, tokens]` to hidden states.

    Layer i sees the last `windows[i]` tokens, or all if that is None; embeddings are multiplied by `scale`. Recurrent
    layers take no mask.
    """

    def __init__(self, theirs: Any, windows: Sequence[int | None], scale: float | None = None) -> None:
        super().__init__()
        self.embed_tokens, self.layers, self.norm = theirs.embed_tokens, theirs.layers, theirs.norm
        self.windows, self.scale = tuple(windows), scale

    def __call__(
        self, inputs: mx.array, cache: Sequence[Any] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        h = self.embed_tokens(inputs) if input_embeddings is None else input_embeddings
        if self.scale is not None:
            h = h * self.scale
        caches = [None] * len(self.layers) if cache is None else cache
        masks: dict[int | None, Any] = {}
        for layer, window, one in zip(self.layers, self.windows, caches, strict=False):
            if is_recurrent(layer):
                h = layer(h, None, one)
                continue
            if window not in masks:
                masks[window] = create_attention_mask(h, one, window_size=window)
            h = layer(h, masks[window], one)
        return self.norm(h)


class CausalLM(nn.Module):
    """A model as mlx-lm's training and generation expect it: ids to logits `[rows, tokens, vocabulary]`; `args` are
    mlx-lm's. If `tied`, the embedding is the head; logits are divided by mlx-lm's `logits_scaling`."""

    def __init__(self, theirs: Any, decoder: Decoder, tied: bool) -> None:
        super().__init__()
        self.args, self.model_type, self.model = theirs.args, theirs.model_type, decoder
        self.divisor = float(getattr(theirs, "logits_scaling", 1.0))
        if not tied:
            self.lm_head = theirs.lm_head

    def __call__(
        self, inputs: mx.array, cache: Sequence[Any] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        h = self.model(inputs, cache, input_embeddings)
        logits = self.lm_head(h) if "lm_head" in self else self.model.embed_tokens.as_linear(h)
        return logits if self.divisor == 1.0 else logits / self.divisor

    @property
    def layers(self) -> list[nn.Module]:
        return self.model.layers

    def make_cache(self) -> list[Any]:
        """Return an empty cache per layer for generation; a layer with a window overwrites old keys and values."""
        return [
            ArraysCache(2) if is_recurrent(layer) else KVCache() if window is None else RotatingKVCache(max_size=window)
            for layer, window in zip(self.layers, self.model.windows, strict=True)
        ]


class Mlp(nn.Module):
    """StarCoder2's MLP with any activation."""

    def __init__(self, theirs: Any, activation: Activation) -> None:
        super().__init__()
        self.c_fc, self.c_proj, self.activation = theirs.c_fc, theirs.c_proj, activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.c_proj(self.activation(self.c_fc(x)))


class GatedMlp(nn.Module):
    """The MLP of Llama and its descendants with any activation."""

    def __init__(self, theirs: Any, activation: Activation) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = theirs.gate_proj, theirs.up_proj, theirs.down_proj
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(swiglu(gate, up) if self.activation is nn.silu else self.activation(gate) * up)


class FusedMlp(nn.Module):
    """Phi-3's gated MLP, whose gate and up projections are one matrix, with any activation."""

    def __init__(self, theirs: Any, activation: Activation) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj, self.activation = theirs.gate_up_proj, theirs.down_proj, activation

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gate_up_proj(x), 2, axis=-1)
        return self.down_proj(swiglu(gate, up) if self.activation is nn.silu else self.activation(gate) * up)


class SharedMlp(nn.Module):
    """Granite 4's gated MLP with any activation. mlx-lm splits its first matrix in two; here it is one, as in the
    published weights, so that adapters fit both."""

    def __init__(self, theirs: Any, activation: Activation) -> None:
        super().__init__()
        out, width = theirs.gate_proj.weight.shape
        self.input_linear = nn.Linear(width, 2 * out, bias=False)
        self.output_linear, self.activation = theirs.down_proj, activation

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.input_linear(x), 2, axis=-1)
        return self.output_linear(swiglu(gate, up) if self.activation is nn.silu else self.activation(gate) * up)


class SharedMlpLayer(nn.Module):
    """An attention layer of Granite 4 without experts: Granite's layer with a `SharedMlp`."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.self_attn, self.shared_mlp = theirs.self_attn, theirs.mlp
        self.input_layernorm, self.post_attention_layernorm = theirs.input_layernorm, theirs.post_attention_layernorm
        self.residual_multiplier = theirs.residual_multiplier

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        h = x + self.self_attn(self.input_layernorm(x), mask, cache) * self.residual_multiplier
        return h + self.shared_mlp(self.post_attention_layernorm(h)) * self.residual_multiplier


class DeltaNetLayer(nn.Module):
    """A layer of Qwen3.5 with gated DeltaNet in the place of attention."""

    recurrent = True

    def __init__(self, theirs: Any, config: Config, activation: Activation) -> None:
        super().__init__()
        self.linear_attn, self.mlp = GatedDeltaNet(config, activation), theirs.mlp
        self.input_layernorm, self.post_attention_layernorm = theirs.input_layernorm, theirs.post_attention_layernorm

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        h = x + self.linear_attn(self.input_layernorm(x), cache)
        return h + self.mlp(self.post_attention_layernorm(h))


class MambaLayer(nn.Module):
    """A layer of Granite 4 with Mamba-2 in the place of attention."""

    recurrent = True

    def __init__(self, theirs: SharedMlpLayer, config: Config, activation: Activation) -> None:
        super().__init__()
        self.mamba, self.shared_mlp = Mamba2(config, activation), theirs.shared_mlp
        self.input_layernorm, self.post_attention_layernorm = theirs.input_layernorm, theirs.post_attention_layernorm
        self.residual_multiplier = theirs.residual_multiplier

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        h = x + self.mamba(self.input_layernorm(x), cache) * self.residual_multiplier
        return h + self.shared_mlp(self.post_attention_layernorm(h)) * self.residual_multiplier


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


RECURRENT = ("linear_attention", "mamba")  # layer types, by transformers 5 and by published files


def _windows_by_layer(config: Config, without: Sequence[str] = ("full_attention", "attention")) -> list[int | None]:
    known = {"sliding_attention": config.get("sliding_window"), **dict.fromkeys(without)}
    if unknown := set(config["layer_types"]) - known.keys():
        raise InputError(f"the MLX engine has no layer type {min(unknown)}; {ENGINE}")
    return [known[kind] for kind in config["layer_types"]]


def _windows_of_hybrid(config: Config) -> list[int | None]:
    return _windows_by_layer(config, ("full_attention", "attention", *RECURRENT))


def _all_rotated(config: Config) -> list[bool]:
    return [True] * config["num_hidden_layers"]


def _rotated_by_layer(config: Config) -> list[bool]:
    return [bool(one) for one in config["no_rope_layers"][: config["num_hidden_layers"]]]  # 1: with positions


def _rotated_if_asked(config: Config) -> list[bool]:
    return [config["position_embedding_type"] == "rope"] * config["num_hidden_layers"]


@dataclass(frozen=True)
class Family:
    """How a model type maps to mlx-lm. `biases` names the setting for biases in attention (and StarCoder2's MLP) if
    mlx-lm's model has no choice; `fixed` are arguments of mlx-lm that transformers doesn't read for this type;
    `required` are settings that the engine computes only with these values; `rotated` says which layers have
    positions; `recurrent` takes the place of layers of the types `RECURRENT`; `classes` are mlx-lm's;
    `centred_norms`: transformers' files hold the weights of norms less 1, mlx-lm's don't."""

    module: str
    windows: Callable[[Config], list[int | None]] = _no_windows
    mlp: type[Mlp] | type[GatedMlp] | type[FusedMlp] | type[SharedMlp] = GatedMlp
    biases: str | None = None
    fixed: Config = field(default_factory=dict)
    own_head_size: bool = True
    rotated: Callable[[Config], list[bool]] = _all_rotated
    activation: str = "hidden_act"
    required: Config = field(default_factory=dict)
    recurrent: type[DeltaNetLayer] | type[MambaLayer] | None = None
    classes: tuple[str, str] = ("Model", "ModelArgs")
    centred_norms: bool = False


_PLAIN_LLAMA: Config = {"layer_types": None, "sliding_window": None}
FAMILIES = {
    "starcoder2": Family("starcoder2", _one_window, Mlp, biases="use_bias", own_head_size=False),
    "llama": Family("llama", fixed=_PLAIN_LLAMA),
    "mistral": Family("llama", _one_window, fixed=_PLAIN_LLAMA | {"attention_bias": False, "mlp_bias": False}),
    "qwen2": Family("qwen2", _windows_by_layer, own_head_size=False),
    "qwen3": Family("qwen3", _windows_by_layer, biases="attention_bias"),
    "gemma": Family(
        "gemma",
        biases="attention_bias",
        required={"tie_word_embeddings": True, "use_bidirectional_attention": None},
    ),
    "gemma3_text": Family(
        "gemma3_text",
        _windows_by_layer,
        biases="attention_bias",
        activation="hidden_activation",
        required={
            "use_bidirectional_attention": None,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),
    "granite": Family("granite", own_head_size=False),
    "granitemoehybrid": Family(
        "granite",
        _windows_of_hybrid,
        SharedMlp,
        fixed={"mlp_bias": False},
        own_head_size=False,
        rotated=_rotated_if_asked,
        required={"num_local_experts": 0},
        recurrent=MambaLayer,
    ),
    "olmo2": Family("olmo2", fixed={"mlp_bias": False}),
    "olmo3": Family("olmo2", _windows_by_layer, fixed={"mlp_bias": False}),
    "phi3": Family("phi3", _one_window, FusedMlp, own_head_size=False),
    "qwen3_5_text": Family(
        "qwen3_5",
        _windows_of_hybrid,
        fixed={"full_attention_interval": 1, "rope_parameters": None},  # attention everywhere, then `recurrent`
        recurrent=DeltaNetLayer,
        classes=("TextModel", "TextModelArgs"),
        centred_norms=True,
    ),
    "seed_oss": Family("seed_oss"),
    "smollm3": Family("llama", _windows_by_layer, fixed=_PLAIN_LLAMA, rotated=_rotated_by_layer),
    "stablelm": Family("stablelm", own_head_size=False),
}


def family_of(config: Config) -> Family:
    """Return the family of a configuration's model type. Raises InputError if this engine doesn't support the type."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise InputError(f"the MLX engine computes {', '.join(sorted(FAMILIES))}, not model type {kind}; {ENGINE}")
    return FAMILIES[str(kind)]


def build(config: Config) -> CausalLM:
    """Build the model without its weights, as unevaluated arrays of the right shapes.

    `config` is config.json with transformers' defaults and the final `vocab_size`. Raises InputError for settings that
    this engine doesn't support.
    """
    family = family_of(config)
    _refuse(config, family)
    activation = ACTIVATIONS[config[family.activation]]
    arch = importlib.import_module(f"mlx_lm.models.{family.module}")
    known = config | family.fixed | {"rope_theta": 1e4, "rope_scaling": None, "partial_rotary_factor": 1.0}
    if family.mlp is SharedMlp:
        known["intermediate_size"] = config["shared_intermediate_size"]
    model_class, arguments = (getattr(arch, name) for name in family.classes)
    theirs = model_class(arguments.from_dict(known))
    layers = theirs.model.layers
    for layer in layers:
        layer.mlp = family.mlp(layer.mlp, activation)
        if family.biases is not None:
            _set_biases(layer, bool(config[family.biases]))
    if family.mlp is SharedMlp:
        layers = [SharedMlpLayer(layer) for layer in layers]
    if family.recurrent is not None:
        layers = [
            family.recurrent(layer, config, activation) if kind in RECURRENT else layer
            for layer, kind in zip(layers, config["layer_types"], strict=True)
        ]
    theirs.model.layers = layers
    scale = getattr(theirs.model, "embedding_multiplier", None)
    if family.module in ("gemma", "gemma3_text"):
        scale = config["hidden_size"] ** 0.5
    decoder = Decoder(theirs.model, family.windows(config), scale)
    model = CausalLM(theirs, decoder, bool(config["tie_word_embeddings"]))
    set_positions(model, config)
    return model


def set_positions(model: CausalLM, config: Config) -> None:
    """Set rotary embeddings and windows as `config` says."""
    family = family_of(config)
    for layer, angles in zip(model.model.layers, rope_by_layer(config, family.rotated(config)), strict=True):
        if not is_recurrent(layer):
            layer.self_attn.rope = angles
    model.model.windows = tuple(family.windows(config))


def _refuse(config: Config, family: Family) -> None:
    kind, activation = config["model_type"], config[family.activation]
    if activation not in ACTIVATIONS:
        raise InputError(f"the MLX engine has no {family.activation} {activation}; {ENGINE}")
    plain = config["hidden_size"] // config["num_attention_heads"]
    if not family.own_head_size and (config.get("head_dim") or plain) != plain:
        raise InputError(f"the MLX engine computes {kind} with a head_dim of {plain} only; {ENGINE}")
    for name, value in family.required.items():
        given = config.get(name)
        if given != value and (given or value):  # null, false and 0 are the same
            raise InputError(f"the MLX engine computes {kind} with {name}: {json.dumps(value)} only; {ENGINE}")


def _set_biases(layer: nn.Module, wanted: bool) -> None:
    """Add or remove the biases of all linear modules in attention, and in StarCoder2's MLP."""
    parts = [layer.self_attn, layer.mlp] if isinstance(layer.mlp, Mlp) else [layer.self_attn]
    for part in parts:
        for child in part.children().values():
            if not isinstance(child, nn.Linear):
                continue
            child.pop("bias", None)
            if wanted:
                child.bias = mx.zeros((child.weight.shape[0],))
