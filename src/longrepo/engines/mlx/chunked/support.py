"""Whether a model's layers can be walked in chunks: tried on the model itself."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from longrepo.engines.mlx.chunked.layer import At
from longrepo.engines.mlx.chunked.step import ChunkedStep
from longrepo.engines.mlx.lora import Slot
from longrepo.engines.mlx.scalar import number

TOKENS, CHUNK = 24, 10
REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)


def why_not(model: Any, rows: Slot | None, at: At) -> str | None:
    """Why `model` can't be walked in chunks, or None where its first two layers give the same both ways."""
    decoder: Any = getattr(model, "model", None)
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, list):
        return "its decoder has no list of layers"
    model.eval()
    ids = mx.arange(TOKENS)[None]
    decoder.layers = layers[:2]
    try:
        plain = model(ids)
        step = ChunkedStep(model, rows, at)
        chunks = mx.concatenate([step.logits(hidden) for _, _, hidden in step.hidden(ids, CHUNK)], axis=1)
    except REFUSALS as error:
        return f"its layers don't take keys and values from a cache so ({next(iter(str(error).splitlines()), '')})"
    finally:
        decoder.layers = layers
    tolerance = 1e-3 if plain.dtype == mx.float32 else 0.1
    off = (chunks - plain).astype(mx.float32)
    if number(mx.linalg.norm(off)) > tolerance * number(mx.linalg.norm(plain.astype(mx.float32))):
        return "its layers compute something else in chunks"
    return None
