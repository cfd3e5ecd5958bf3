"""The loss of the same tokens under base and tuned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longrepo.engines.base import Batch, Engine

Losses = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


class Both(NamedTuple):
    """Nats of each token, `[tokens]`, under each model."""

    base: Losses
    tuned: Losses

    def at(self, where: slice | Mask | npt.NDArray[np.intp]) -> Both:
        """Of some of the tokens."""
        return Both(self.base[where], self.tuned[where])

    def sums(self) -> tuple[float, float]:
        """Over the tokens."""
        return float(self.base.sum()), float(self.tuned.sum())


def score_both(engine: Engine, ids: Ids, wanted: Mask) -> Both:
    """The losses of a sequence's tokens `[tokens]` given those before; 0 where not `wanted`, and of the first."""
    batch = Batch.of([(ids, wanted.astype(np.float32))], engine.pad_id)
    tuned = engine.score(batch)[0].astype(np.float64)
    with engine.base_only():
        base = engine.score(batch)[0].astype(np.float64)
    return Both(base, tuned)


def write_both(engine: Engine, prompt: Ids, tokens: int) -> tuple[list[int], list[int]]:
    """What base and tuned write after a prompt, greedily: at most `tokens` ids each."""
    tuned = engine.generate(prompt.tolist(), tokens)
    with engine.base_only():
        base = engine.generate(prompt.tolist(), tokens)
    return base, tuned
