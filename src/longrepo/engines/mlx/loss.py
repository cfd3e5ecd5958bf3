"""The head and the loss, in parts: the logits of a whole sequence never exist at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from longrepo.engines.base import scored_positions

Head = Callable[[mx.array], mx.array]
LOSS_CHUNK = 256  # positions; 48 MiB of float32 logits at StarCoder2's vocabulary


@dataclass(frozen=True)
class MlxScoredPositions:
    """The scored positions of some `[rows, tokens]`, flattened: `at` `[scored]` their indices, `targets` `[scored]` the
    token that follows each, `weights` `[scored]`."""

    at: mx.array
    targets: mx.array
    weights: mx.array

    @staticmethod
    def of(ids: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], start: int, end: int) -> MlxScoredPositions:
        """Among the positions from `start` to `end` of each row. Position p is scored by the weight of token p + 1."""
        at, targets, following = scored_positions(ids, weights, start, end)
        return MlxScoredPositions(
            mx.array(at.astype(np.int32)), mx.array(targets.astype(np.int32)), mx.array(following)
        )

    def parts(self) -> Iterator[MlxScoredPositions]:
        for start in range(0, self.at.size, LOSS_CHUNK):
            part = slice(start, start + LOSS_CHUNK)
            yield MlxScoredPositions(self.at[part], self.targets[part], self.weights[part])


def token_nll(head: Head, hidden: mx.array, targets: mx.array) -> mx.array:
    """The negative log-likelihood (nats, float32) `[positions]` of `targets` after `hidden` `[positions, width]`."""
    return nn.losses.cross_entropy(head(hidden[None])[0].astype(mx.float32), targets)


def nll_and_gradient(logits: mx.array, targets: mx.array, scales: mx.array) -> tuple[mx.array, mx.array]:
    """`nll` `[positions]` from float32 `logits` `[positions, vocabulary]`, and the gradient of `sum(scales * nll)` by
    the logits: softmax less the target, in place, half of what a derivative by `mx.vjp` holds at once."""
    at = mx.arange(len(targets))
    nll = mx.logsumexp(logits, axis=-1) - logits[at, targets]
    return nll, (mx.softmax(logits, axis=-1) * scales[:, None]).at[at, targets].add(-scales)
