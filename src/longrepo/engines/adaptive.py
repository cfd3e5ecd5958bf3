"""An engine whose positions follow the text at hand."""

from __future__ import annotations

from dataclasses import dataclass

from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.context.tiers import Tier, Tiers, tiers_of
from longrepo.engines.base import Engine
from longrepo.errors import InputError


@dataclass
class Adaptive:
    """`engine` was made at the positions of `tiers.trained`."""

    engine: Engine
    tiers: Tiers

    def __post_init__(self) -> None:
        self._at = self.tiers.trained

    def hold(self, tokens: int) -> Tier:
        """Compute from here on at the positions of the smallest tier that holds a text of so many tokens, new ones
        included. What a cache holds of another tier's texts is of no use then. Raises InputError where none does."""
        tier = self.tiers.holding(tokens)
        if tier.context != self._at:
            self.engine.position(tier.context)
            self._at = tier.context
        return tier


def tiers_for(
    model: ModelSettings, trained: ContextSettings, asked: ContextSettings | None = None, least: int = 0
) -> Tiers:
    """As `tiers_of`, for the model that the settings name. What it raises names the model, too."""
    from longrepo.memory.shape import read_config

    config = read_config(model.name, model.revision)
    tree = config.to_dict() | {"max_position_embeddings": getattr(config, "max_position_embeddings", None)}
    try:
        return tiers_of(tree, trained, asked, least)
    except InputError as error:
        raise InputError(f"model {model.name}: {error}") from None
