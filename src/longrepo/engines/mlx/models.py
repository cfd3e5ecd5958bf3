"""Causal language models made of mlx-lm's layers that compute what transformers computes for the same config.json.

Each layer sees as far back as its configuration says, and rotary frequencies are those of transformers. `FAMILIES`
lists the supported model types and how each differs from mlx-lm's own model.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.activations import swiglu
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache
from mlx_lm.models.rope_utils import initialize_rope

from longrepo.errors import InputError

Activation = Callable[[mx.array], mx.array]


class Decoder(nn.Module):
    """Embedding, layers and final norm of an inner model of mlx-lm: ids `[rows, tokens]` to hidden states.

    Layer i sees the last `windows[i]` tokens, or all if that is None; embeddings are multiplied by `scale`.
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
            if window not in masks:
                masks[window] = create_attention_mask(h, one, window_size=window)
            h = layer(h, masks[window], one)
        return self.norm(h)


class CausalLM(nn.Module):
    """A model as mlx-lm's training and generation expect it: ids to logits `[rows, tokens, vocabulary]`; `args` are
    mlx-lm's."""

    def __init__(self, theirs: Any, decoder: Decoder) -> None:
        super().__init__()
        self.args, self.model_type, self.model = theirs.args, theirs.model_type, decoder
        if "lm_head" in theirs:
            self.lm_head = theirs.lm_head

    def __call__(
        self, inputs: mx.array, cache: Sequence[Any] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        h = self.model(inputs, cache, input_embeddings)
        return self.lm_head(h) if "lm_head" in self else self.model.embed_tokens.as_linear(h)

    @property
    def layers(self) -> list[nn.Module]:
        return self.model.layers

    def make_cache(self) -> list[Any]:
        """Return an empty cache per layer for generation; a layer with a window overwrites old keys and values."""
        return [KVCache() if window is None else RotatingKVCache(max_size=window) for window in self.model.windows]


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


ENGINE = "use --engine torch"
KINDS = ("default", "linear", "llama3", "yarn", "longrope")


def rope(parameters: dict[str, Any], head_size: int, positions: int) -> nn.Module:
    """Return the rotary embedding of `[rows, heads, tokens, head_size]` for transformers' `rope_parameters`, at one
    length for all texts (`longrepo.rope.apply.fixed_length_changes`).

    Raises InputError for what mlx-lm computes differently: a partly rotated head, YaRN's `truncate: false`.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in KINDS:
        raise InputError(f"the MLX engine has no rope_type {kind}; {ENGINE}")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"the MLX engine rotates whole heads, but its config.json rotates a part of them; {ENGINE}")
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
    """Return mlx-lm's `rope_scaling`. It applies one of YaRN's mscales alone, transformers only both together. For
    unscaled and linear positions its `proportional` module is used because that one accepts frequencies."""
    mscales = {"mscale", "mscale_all_dim"}
    dropped = set() if all(parameters.get(name) for name in mscales) else mscales
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
    """How a model type maps to mlx-lm. `biases` names the setting for biases in attention (and StarCoder2's MLP) if
    mlx-lm's model has no choice; `fixed` are arguments of mlx-lm that transformers doesn't read for this type."""

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
    """Set rotary embeddings and windows as `config` says."""
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
    """Add or remove the biases of all linear modules in attention, and in StarCoder2's MLP."""
    parts = [layer.self_attn, layer.mlp] if isinstance(layer.mlp, Mlp) else [layer.self_attn]
    for part in parts:
        for child in part.children().values():
            if not isinstance(child, nn.Linear):
                continue
            child.pop("bias", None)
            if wanted:
                child.bias = mx.zeros((child.weight.shape[0],))
