"""What a layer of transformers is given in place of a cache, so that a chunk follows on the chunks before it.

An attention layer gets the keys and values of the tokens before. A recurrent layer (gated DeltaNet, Mamba) gets the
states that the chunk before left: its recurrent state, and the last inputs of its causal convolution. transformers' own
cache can't be used: it updates states in place, where a gradient can't follow. Here what comes in and what goes out are
tensors of one graph.
"""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor
LayerStates = dict[str, Tensor]  # by kind and number, as a layer may have several


class TorchChunkCache:
    """Takes the place of transformers' `Cache` in a layer: gives a chunk the `keys` and `values` of the tokens before
    it, `[rows, kv heads, tokens, head width]` or None, or a recurrent layer's `states`, and records its own."""

    def __init__(
        self, keys: Tensor | None = None, values: Tensor | None = None, states: LayerStates | None = None
    ) -> None:
        self.keys, self.values, self.states = keys, values, states or {}
        self.own: tuple[Tensor, Tensor] | None = None
        self.own_states: LayerStates = {}

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the keys and values up to the chunk's end, as `transformers.Cache.update` does."""
        self.own = (keys, values)
        if self.keys is None or self.values is None:
            return keys, values
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self.states.get(f"conv {state_idx}")

    def update_conv_state(self, inputs: Tensor, layer_idx: int, state_idx: int = 0, *, conv_kernel_size: int) -> Tensor:
        """Return a convolution's `inputs` `[rows, channels, tokens]` with those before the chunk that it still reaches.

        Their number, at most `conv_kernel_size - 1`, is for the layer to cut off its result. At the beginning it is
        0: the convolution pads with zeros itself."""
        before = self.get_conv_state(layer_idx, state_idx)
        inputs = inputs if before is None else torch.cat([before, inputs], dim=-1)
        self.own_states[f"conv {state_idx}"] = inputs[..., max(0, inputs.shape[-1] - conv_kernel_size + 1) :]
        return inputs

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self.states.get(f"recurrent {state_idx}")

    def update_recurrent_state(self, state: Tensor, layer_idx: int, state_idx: int = 0) -> Tensor:
        self.own_states[f"recurrent {state_idx}"] = state
        return state

    def is_recording_past(self, layer_idx: int) -> bool:
        """False, as for transformers' cache in use. A layer asks it before it computes a single token with updates in
        place, which a chunk (`longrepo.engines.chunked.chunk_spans`) never is."""
        return False
