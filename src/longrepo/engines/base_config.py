"""A base's configuration: what is changed of it, and how few layers tell what all need."""

from __future__ import annotations

import copy
import math
from typing import Any

from longrepo.engines.method import Method

DROPOUTS = ("attention_dropout", "residual_dropout", "embedding_dropout")  # set to 0: lora.dropout is the only one


def two_depths(config: Any, method: Method) -> tuple[int, int]:
    """Numbers of layers that end as the whole model does: they differ by a period of unlike layers, and of those that
    are computed again together. Of the latter there are at least two."""
    kinds = getattr(config, "layer_types", None) or ["layer"]
    period = next(n for n in range(1, len(kinds) + 1) if all(k == kinds[i % n] for i, k in enumerate(kinds)))
    every = method.every if method.store == "recompute" else 1
    step = math.lcm(period, every)
    small = (config.num_hidden_layers - 1) % step + 1
    if small <= every > 1:
        small += step
    return small, small + step


def shortened(config: Any, layers: int) -> Any:
    """A configuration of transformers with so many layers, and without the base's own dropouts."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    for name in DROPOUTS:
        if getattr(config, name, 0):
            setattr(config, name, 0.0)
    return config
