"""A chunked step in which only the chunks that can need most are computed: the others' results just take their room.

What a chunk needs grows with the keys before it and with what earlier chunks left, up to the window. So of all chunks
of a layer, of the head and of the embedding the highest moment lies in the first (there are no keys before it), in the
last whole one, or in the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch

from longrepo.engines.torch.chunked import step
from longrepo.engines.torch.chunked.ends import Ends
from longrepo.engines.torch.chunked.layer import LayerPass
from longrepo.engines.torch.loss import backward_weighted

Tensor = torch.Tensor


@contextmanager
def sampled(chunks: int) -> Iterator[None]:
    """Within: one micro-batch in `chunks` chunks, on fake tensors."""
    forward, backward, embed, finish = LayerPass.forward, LayerPass.backward, Ends.embed, Ends.finish
    embedded, finished, lost = count(), count(), count()
    like: list[tuple[int, torch.dtype]] = []

    def left_out(index: int) -> bool:
        return 0 < index < chunks - 2

    def in_layer(self: LayerPass, index: int, hidden: Tensor) -> Tensor:
        return torch.empty_like(hidden) if left_out(index) else forward(self, index, hidden)

    def back_in_layer(self: LayerPass, index: int, hidden: Tensor, gradient: Tensor) -> Tensor:
        return torch.empty_like(hidden) if left_out(index) else backward(self, index, hidden, gradient)

    def at_embedding(self: Ends, ids: Tensor) -> Tensor:
        number = next(embedded)  # every chunk, one token for the tables of positions, every chunk again
        if left_out(number if number < chunks else number - chunks - 1):
            return torch.empty(*ids.shape, like[0][0], dtype=like[0][1])
        hidden = embed(self, ids)
        like.append((hidden.shape[-1], hidden.dtype))
        return hidden

    def at_norm(self: Ends, hidden: Tensor) -> Tensor:
        return hidden if left_out(next(finished)) else finish(self, hidden)

    def at_head(*arguments: Any) -> list[Tensor]:
        return [] if left_out(next(lost)) else backward_weighted(*arguments)

    places: tuple[tuple[Any, str, Any], ...] = (
        (LayerPass, "forward", in_layer),
        (LayerPass, "backward", back_in_layer),
        (Ends, "embed", at_embedding),
        (Ends, "finish", at_norm),
        (step, "backward_weighted", at_head),
    )
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, new in places:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for (owner, name, _), old in zip(places, before, strict=True):
            setattr(owner, name, old)
