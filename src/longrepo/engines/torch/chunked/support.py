"""Whether a model can be walked in chunks: tried on its first two layers, not guessed from its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from longrepo.engines.torch.chunked.attention import NAME
from longrepo.engines.torch.chunked.ends import Ends
from longrepo.engines.torch.chunked.layer import At
from longrepo.engines.torch.chunked.step import ChunkedStep

TOKENS, CHUNK = 24, 10
REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)


@contextmanager
def in_chunks(decoder: Any) -> Iterator[None]:
    """While entered, the decoder's layers attend through `longrepo.engines.torch.chunked.attention` and don't
    checkpoint themselves (transformers takes the cache away from a layer that does)."""
    attention = decoder.config._attn_implementation
    checkpointed = [layer for layer in decoder.layers if getattr(layer, "gradient_checkpointing", False)]
    decoder.config._attn_implementation = NAME
    for layer in checkpointed:
        layer.gradient_checkpointing = False
    try:
        yield
    finally:
        decoder.config._attn_implementation = attention
        for layer in checkpointed:
            layer.gradient_checkpointing = True


@torch.no_grad()
def why_not(decoder: Any, device: torch.device, dtype: torch.dtype, at: At) -> str | None:
    """Why `decoder` can't be walked in chunks, or None where its first two layers give the same both ways."""
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return "its decoder has no list of layers"
    ids = torch.arange(TOKENS, device=device)[None]
    decoder.layers = layers[:2]
    try:
        plain = decoder(input_ids=ids, use_cache=False).last_hidden_state.float()
        with in_chunks(decoder):
            masked = [name for one in Ends(decoder).arguments(TOKENS, device, dtype) for name in one.whole_masks()]
            if masked:
                return f"its layers want a whole attention mask ({masked[0]})"
            step = ChunkedStep(decoder, nn.Identity(), device, dtype, at)
            chunks = torch.cat([hidden for _, _, hidden in step.hidden(ids, CHUNK)], dim=1).float()
    except REFUSALS as error:
        return f"its layers don't take keys and values from a cache so ({next(iter(str(error).splitlines()), '')})"
    finally:
        decoder.layers = layers
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    if (chunks - plain).norm() > tolerance * plain.norm():
        return "its layers compute something else in chunks"
    return None
