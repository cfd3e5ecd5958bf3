"""A causal language model made of mlx-lm's layers, each seeing as far back as its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.activations import swiglu
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache

Activation = Callable[[mx.array], mx.array]


class Decoder(nn.Module):
    """Embedding, layers and final norm of one of mlx-lm's inner models: ids `[rows, tokens]` to hidden states.

    Layer i sees the last `windows[i]` tokens, all of them where that is None; embeddings are multiplied by `scale`.
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
    """What mlx-lm's training and generation ask of a model. `args` are mlx-lm's; ids to logits
    `[rows, tokens, vocabulary]`."""

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
        """Empty keys and values for generation, a layer each; a window's are overwritten as it moves on."""
        return [KVCache() if window is None else RotatingKVCache(max_size=window) for window in self.model.windows]


class Mlp(nn.Module):
    """StarCoder2's, with any activation."""

    def __init__(self, theirs: Any, activation: Activation) -> None:
        super().__init__()
        self.c_fc, self.c_proj, self.activation = theirs.c_fc, theirs.c_proj, activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.c_proj(self.activation(self.c_fc(x)))


class GatedMlp(nn.Module):
    """Llama's and its descendants', with any activation."""

    def __init__(self, theirs: Any, activation: Activation) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = theirs.gate_proj, theirs.up_proj, theirs.down_proj
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(swiglu(gate, up) if self.activation is nn.silu else self.activation(gate) * up)
