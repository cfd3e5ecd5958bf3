"""Dropout of LoRA's inputs with derived masks (`longrepo.engines.dropout_key`)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from longrepo.engines.dropout_key import BLOCK, DropoutKey, blocks, seed_of


class DerivedDropout(nn.Module):
    """Zeroes each element of `[rows, tokens, features]` with chance `p` and scales the others by 1 / (1 - p). The
    identity in evaluation."""

    def __init__(self, p: float, number: int, key: DropoutKey) -> None:
        super().__init__()
        self._p, self._number, self._key = p, number, key

    def __call__(self, x: mx.array) -> mx.array:
        if not self.training or self._p == 0:
            return x
        return mx.where(self._mask(*x.shape), x * (1 / (1 - self._p)), mx.zeros((), x.dtype))

    def _mask(self, rows: int, tokens: int, features: int) -> mx.array:
        """What is kept, bool `[rows, tokens, features]`."""
        start = self._key.start
        masks = [
            mx.concatenate([self._block(row, *place, features) for place in blocks(start, start + tokens)])
            for row in range(rows)
        ]
        return mx.stack(masks)

    def _block(self, row: int, block: int, first: int, last: int, features: int) -> mx.array:
        key = mx.random.key(seed_of(self._key.key, self._number, row, block))
        return mx.random.bernoulli(1 - self._p, (BLOCK, features), key)[first:last]
