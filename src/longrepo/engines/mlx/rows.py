"""Trained rows for the structure tokens: k rows of their own that stand before the base's table, tied head included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class TokenRows(nn.Module):
    """`weight` float32 `[k, hidden]`, for the token ids `ids` int32 `[k]`, ascending. `active` False: the base's."""

    def __init__(self, ids: Sequence[int], embedding: Any, vocabulary: int) -> None:
        super().__init__()
        self.ids = mx.array(sorted(ids), dtype=mx.int32)
        self.weight = embedding(self.ids).astype(mx.float32)
        slots = [-1] * vocabulary
        for slot, token in enumerate(sorted(ids)):
            slots[token] = slot
        self._slots = mx.array(slots, dtype=mx.int32)  # token -> its row, or -1
        self.active = True
        mx.eval(self.weight, self._slots)

    def of(self, ids: mx.array) -> tuple[mx.array, mx.array]:
        """Which of `ids` are ours, and the row of each."""
        slots = self._slots[ids]
        return slots >= 0, self.weight[mx.maximum(slots, 0)]


class PatchedEmbedding(nn.Module):
    """The base's embedding, and as a tied head its logits, with the rows of some ids taken from `rows`."""

    def __init__(self, base: Any, rows: TokenRows) -> None:
        super().__init__()
        self.base, self.rows = base, rows

    def __call__(self, ids: mx.array) -> mx.array:
        hidden = self.base(ids)
        if not self.rows.active:
            return hidden
        ours, rows = self.rows.of(ids)
        return mx.where(ours[..., None], rows.astype(hidden.dtype), hidden)

    def as_linear(self, hidden: mx.array) -> mx.array:
        logits = self.base.as_linear(hidden)
        if not self.rows.active:
            return logits
        logits[..., self.rows.ids] = (hidden @ self.rows.weight.T.astype(hidden.dtype)).astype(logits.dtype)
        return logits


def patch(model: Any, ids: Sequence[int], vocabulary: int) -> TokenRows:
    """Put trained rows for `ids` into a model of mlx-lm; return them."""
    rows = TokenRows(ids, model.model.embed_tokens, vocabulary)
    model.model.embed_tokens = PatchedEmbedding(model.model.embed_tokens, rows)
    return rows
