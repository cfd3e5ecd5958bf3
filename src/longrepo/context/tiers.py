"""At which positions a text is computed: those of the smallest tier that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from longrepo.config.schema import ContextSettings
from longrepo.context.change import OWN, changes, reach_of
from longrepo.context.recorded import options, said
from longrepo.context.rotary import Config
from longrepo.errors import InputError

FIRST = 4096  # tokens


@dataclass(frozen=True)
class Tier:
    """`length`: tokens of a text in it, new ones included, at most. `context`: the positions of each."""

    length: int
    context: ContextSettings


@dataclass(frozen=True)
class Tiers:
    """Ascending. `trained`: the positions of every text that they reach."""

    every: tuple[Tier, ...]
    trained: ContextSettings = OWN

    @property
    def reach(self) -> int:
        """Tokens of the longest text that a tier holds."""
        return self.every[-1].length

    def holding(self, tokens: int) -> Tier:
        """The smallest that holds so many. Raises InputError where none does."""
        found = next((tier for tier in self.every if tokens <= tier.length), None)
        if found is None:
            raise InputError(f"{tokens:,} tokens, and its positions reach {self.reach:,}: {self.way_out(tokens)}")
        return found

    def way_out(self, tokens: int) -> str:
        """What to do about a text that none holds."""
        method = f"context.method={self.trained.method}" if self.trained.method != "none" else "a context.method"
        return f"give less, or have them reach farther with --set context.target_length={tokens} and {method}"


def tiers_of(config: Config, trained: ContextSettings, asked: ContextSettings | None = None, least: int = 0) -> Tiers:
    """Of the model with this configuration (config.json with transformers' defaults) and an adapter trained at
    `trained`, or none (the model's own).

    All that these positions reach is computed at them: what was tuned at scaled positions never saw short texts at
    others. Beyond, up to the target length of `asked`, tier by tier at its method, each scaled no more than it needs.
    Given factors are for the target length: then it is the only tier beyond. `least`: the reach of a model that has no
    number of positions.

    Raises InputError where the positions asked for can't be, or are others than those the adapter was trained at.
    """
    counted = config.get("max_position_embeddings")
    reach = reach_of({**config, **changes(config, trained)}) if counted else least
    found = [Tier(length, trained) for length in (*_doubled(FIRST, reach), reach)]
    if asked is not None and asked != trained:
        _check(trained, asked, reach)
        found += [Tier(one.target_length or 0, one) for one in _beyond(asked, reach)]
        for tier in found:
            changes(config, tier.context)
    return Tiers(tuple(found), trained)


def _beyond(asked: ContextSettings, reach: int) -> Iterator[ContextSettings]:
    target = asked.target_length or 0
    if asked.factor is None and asked.long_factors is None:
        for length in _doubled(1 << reach.bit_length(), target):
            yield asked.model_copy(update={"target_length": length})
    yield asked


def _doubled(first: int, below: int) -> Iterator[int]:
    while first < below:
        yield first
        first *= 2


def _check(trained: ContextSettings, asked: ContextSettings, reach: int) -> None:
    at = f"it was trained at other positions ({said(trained)}) than those asked for ({said(asked)})"
    if asked.target_length is None or asked.target_length <= reach:
        raise InputError(
            f"{at}, and texts of up to {reach:,} tokens are computed as it was trained: ask for the same "
            f"({options(trained)}), or for a context.target_length beyond"
        )
    if trained.method != "none" and (trained.method, trained.window) != (asked.method, asked.window):
        same = options(trained.model_copy(update={"target_length": asked.target_length}))
        raise InputError(f"{at}: beyond {reach:,} tokens it goes on by its own method alone ({same})")
