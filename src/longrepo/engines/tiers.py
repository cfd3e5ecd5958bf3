"""Adaptive context tiers and their speed.

At which positions a text is computed: those of the smallest tier that holds it.

An engine whose positions follow the text at hand.

How fast answers come, measured with the engine that gives them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.engines.base import Engine
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT, config_changes, context_options, context_reach, describe_context
from longrepo.rope.scaling import ModelConfig

FIRST_TIER = 4096  # tokens


@dataclass(frozen=True)
class Tier:
    """`length`: tokens of a text in it, new ones included, at most. `context`: the positions of each."""

    length: int
    context: ContextSettings


@dataclass(frozen=True)
class Tiers:
    """Ascending. `trained`: the positions of every text that they reach."""

    every: tuple[Tier, ...]
    trained: ContextSettings = NATIVE_CONTEXT

    @property
    def reach(self) -> int:
        """Tokens of the longest text that a tier holds."""
        return self.every[-1].length

    def tier_for(self, tokens: int) -> Tier:
        """The smallest that holds so many. Raises InputError where none does."""
        found = next((tier for tier in self.every if tokens <= tier.length), None)
        if found is None:
            raise InputError(f"{tokens:,} tokens, and its positions reach {self.reach:,}: {self.remedy_for(tokens)}")
        return found

    def remedy_for(self, tokens: int) -> str:
        """What to do about a text that none holds."""
        method = f"context.method={self.trained.method}" if self.trained.method != "none" else "a context.method"
        return f"give less, or have them reach farther with --set context.target_length={tokens} and {method}"


def plan_tiers(
    config: ModelConfig, trained: ContextSettings, asked: ContextSettings | None = None, least: int = 0
) -> Tiers:
    """Of the model with this configuration (config.json with transformers' defaults) and an adapter trained at
    `trained`, or none (the model's own).

    All that these positions reach is computed at them: what was tuned at scaled positions never saw short texts at
    others. Beyond, up to the target length of `asked`, tier by tier at its method, each scaled no more than it needs.
    Given factors are for the target length: then it is the only tier beyond. `least`: the reach of a model that has no
    number of positions.

    Raises InputError where the positions asked for can't be, or are others than those the adapter was trained at.
    """
    counted = config.get("max_position_embeddings")
    reach = context_reach({**config, **config_changes(config, trained)}) if counted else least
    found = [Tier(length, trained) for length in (*_doubling_lengths(FIRST_TIER, reach), reach)]
    if asked is not None and asked != trained:
        _check_requested_context(trained, asked, reach)
        found += [Tier(one.target_length or 0, one) for one in _scaled_contexts(asked, reach)]
        for tier in found:
            config_changes(config, tier.context)
    return Tiers(tuple(found), trained)


def _scaled_contexts(asked: ContextSettings, reach: int) -> Iterator[ContextSettings]:
    target = asked.target_length or 0
    if asked.factor is None and asked.long_factors is None:
        for length in _doubling_lengths(1 << reach.bit_length(), target):
            yield asked.model_copy(update={"target_length": length})
    yield asked


def _doubling_lengths(first: int, below: int) -> Iterator[int]:
    while first < below:
        yield first
        first *= 2


def _check_requested_context(trained: ContextSettings, asked: ContextSettings, reach: int) -> None:
    at = (
        f"it was trained at other positions ({describe_context(trained)}) than those asked for "
        f"({describe_context(asked)})"
    )
    if asked.target_length is None or asked.target_length <= reach:
        raise InputError(
            f"{at}, and texts of up to {reach:,} tokens are computed as it was trained: ask for the same "
            f"({context_options(trained)}), or for a context.target_length beyond"
        )
    if trained.method != "none" and (trained.method, trained.window) != (asked.method, asked.window):
        same = context_options(trained.model_copy(update={"target_length": asked.target_length}))
        raise InputError(f"{at}: beyond {reach:,} tokens it goes on by its own method alone ({same})")


@dataclass
class TieredEngine:
    """`engine` was made at the positions of `tiers.trained`."""

    engine: Engine
    tiers: Tiers

    def __post_init__(self) -> None:
        self._at = self.tiers.trained

    def select_tier(self, tokens: int) -> Tier:
        """Compute from here on at the positions of the smallest tier that holds a text of so many tokens, new ones
        included. What a cache holds of another tier's texts is of no use then. Raises InputError where none does."""
        tier = self.tiers.tier_for(tokens)
        if tier.context != self._at:
            self.engine.position(tier.context)
            self._at = tier.context
        return tier


def model_tiers(
    model: ModelSettings, trained: ContextSettings, asked: ContextSettings | None = None, least: int = 0
) -> Tiers:
    """As `tiers_of`, for the model that the settings name. What it raises names the model, too."""
    from longrepo.engines.model_shape import read_config

    config = read_config(model.name, model.revision)
    tree = config.to_dict() | {"max_position_embeddings": getattr(config, "max_position_embeddings", None)}
    try:
        return plan_tiers(tree, trained, asked, least)
    except InputError as error:
        raise InputError(f"model {model.name}: {error}") from None


SHORT_PROMPT, NEW_TOKENS = 64, 16  # tokens of the first prompt with its answer, and of each answer
_TIME_GROWTH = 1.25  # of the time a token, from one tier to the next, as far as is looked ahead


@dataclass(frozen=True)
class GenerationSpeed:
    """Of one prompt of `prompt` tokens and `new` tokens after it (fewer than asked for where the model ended).
    `prompt_seconds` go up to the first new token, `new_seconds` from there to the last; `peak`: bytes, as the engine
    counts them."""

    prompt: int
    prompt_seconds: float
    new: int
    new_seconds: float
    peak: int

    @property
    def prompt_rate(self) -> float:
        """Tokens a second."""
        return self.prompt / self.prompt_seconds

    @property
    def new_rate(self) -> float | None:
        """Tokens a second after the first; None where there was no second one."""
        return (self.new - 1) / self.new_seconds if self.new > 1 else None


def measure_speeds(adaptive: TieredEngine, vocabulary: int, seconds: float) -> Iterator[GenerationSpeed]:
    """A short prompt, then one that fills each tier, as long as the next is expected to end within so many seconds."""
    began = time.perf_counter()
    _measure_generation(adaptive, vocabulary, SHORT_PROMPT - NEW_TOKENS)  # what is only done at a first time
    last = _measure_generation(adaptive, vocabulary, SHORT_PROMPT - NEW_TOKENS)
    yield last
    for tier in adaptive.tiers.every:
        prompt = tier.length - NEW_TOKENS
        expected = (last.prompt_seconds + last.new_seconds) * _TIME_GROWTH * prompt / last.prompt
        if time.perf_counter() - began + expected > seconds:
            return
        last = _measure_generation(adaptive, vocabulary, prompt)
        yield last


def _measure_generation(adaptive: TieredEngine, vocabulary: int, prompt: int) -> GenerationSpeed:
    adaptive.select_tier(prompt + NEW_TOKENS)
    ids = [1 + place * 7919 % (vocabulary - 1) for place in range(prompt)]
    told: list[float] = []
    adaptive.engine.reset_peak_memory()
    began = time.perf_counter()
    adaptive.engine.generate(ids, NEW_TOKENS, tick=lambda: told.append(time.perf_counter()))
    return GenerationSpeed(prompt, told[0] - began, len(told), told[-1] - told[0], adaptive.engine.peak_memory())
