"""What a decoder does before and after its layers, found by running it with its layers replaced by stand-ins.

So embedding scales, rotary tables and the final norm are the model's own code, whatever the architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor


class _Reached(Exception):
    """Nothing after this layer is wanted."""


class _StandIn(nn.Module):
    """Notes what the decoder passes to a layer and gives back `output`, or its input; after the `last` it stops."""

    def __init__(self, output: Tensor | None = None, last: bool = False) -> None:
        super().__init__()
        self.output, self.last = output, last
        self.seen: Tensor | None = None
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.seen, self.arguments = hidden, (args, kwargs)
        if self.last:
            raise _Reached
        return hidden if self.output is None else self.output


class Ends:
    """The two ends of `decoder`, whose layers are in `decoder.layers`."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.layers: list[Any] = list(decoder.layers)

    def arguments(self, length: int, device: torch.device, dtype: torch.dtype) -> list[LayerArguments]:
        """What each layer gets besides its input, for `length` tokens: position tables from the whole length."""
        stand_ins = [_StandIn(last=layer is self.layers[-1]) for layer in self.layers]
        with self._replaced(stand_ins), torch.no_grad(), suppress(_Reached):
            self._decoder(inputs_embeds=torch.zeros(1, length, 1, device=device, dtype=dtype), use_cache=False)
        return [LayerArguments(*stand_in.arguments, length) for stand_in in stand_ins]

    def embed(self, ids: Tensor) -> Tensor:
        """The first layer's input `[rows, tokens, width]`, with a graph where the embedding is trained."""
        first = _StandIn(last=True)
        with self._replaced([first]), suppress(_Reached):
            self._decoder(input_ids=ids, use_cache=False)
        assert first.seen is not None
        return first.seen

    def finish(self, hidden: Tensor) -> Tensor:
        """The decoder's output for the last layer's output `hidden` `[rows, tokens, width]`."""
        *others, last = [_StandIn() for _ in self.layers]
        last.output = hidden
        with self._replaced([*others, last]):
            embeds = hidden.detach()[:, :, :1]
            return self._decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state

    @contextmanager
    def _replaced(self, stand_ins: list[_StandIn]) -> Iterator[None]:
        real = self._decoder.layers
        self._decoder.layers = nn.ModuleList(stand_ins)
        try:
            yield
        finally:
            self._decoder.layers = real


class LayerArguments:
    """A layer's other arguments for a whole sequence; `cut` gives those of the tokens from `start` to `end`."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], length: int) -> None:
        self._args, self._kwargs, self._length = args, kwargs, length

    def whole_masks(self) -> list[str]:
        """Arguments that are `[…, length, length]` masks: chunks can't be cut from them by position alone."""
        return [name for name, value in self._kwargs.items() if isinstance(value, Tensor) and value.ndim == 4]

    def cut(self, start: int, end: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = tuple(self._part(value, start, end) for value in self._args)
        return args, {name: self._part(value, start, end) for name, value in self._kwargs.items()}

    def _part(self, value: Any, start: int, end: int) -> Any:
        if isinstance(value, Tensor):
            dimension = min(1, value.ndim - 1)  # [rows, tokens, …], or [tokens]
            if value.ndim and value.shape[dimension] == self._length:
                return value.narrow(dimension, start, end - start)
        elif isinstance(value, tuple | list):
            return type(value)(self._part(inner, start, end) for inner in value)
        return value
