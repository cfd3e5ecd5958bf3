"""How hard a sequence is for the base model, where the settings ask for it (`data.model_difficulty`).

Two more parts, each in 0..1, on the last 256 target tokens:

- loss: l / (l + 3), where l is their loss in nats a token after everything before them in the sequence.
- context: 1 / (1 + g), where g is how many nats a token lower that is than without what stands before them: where the
  context doesn't help, what is needed stands nowhere.

The score is then 0.6 of the score without a model + 0.25 loss + 0.15 context.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.draft import Built
from longrepo.sequences.sequence import TARGET_WEIGHT
from longrepo.sequences.text import Numbers

PARTS = {"loss": 0.25, "context": 0.15}
_TOKENS = 256

# The mean loss in nats of the tokens of weight 1, each given those before it: (ids, weights), `[tokens]` each.
Scorer = Callable[[Numbers, NDArray[np.float32]], float]


def judge_by_model(built: Built, score: Scorer) -> None:
    """Add the two parts and weigh them in; a sequence without two target tokens keeps its score."""
    ids, weights = built.draft.arrays()
    targets = np.flatnonzero(weights == TARGET_WEIGHT)[-_TOKENS:]
    if len(targets) < 2:
        return
    start = int(targets[0])
    judged = np.zeros(len(ids), np.float32)
    judged[targets[1:]] = 1.0
    after_all = score(ids, judged)
    alone = score(ids[start:], judged[start:])
    found = {
        "loss": round(after_all / (after_all + 3), 4),
        "context": round(1 / (1 + max(0.0, alone - after_all)), 4),
    }
    built.parts = built.parts | found
    without = 1 - sum(PARTS.values())
    built.score = round(without * built.score + sum(PARTS[name] * found[name] for name in PARTS), 6)
