"""Context tiers: the positions at which a text is computed depend on its length.

A text is computed at the positions of the smallest tier that holds it. `TieredEngine` switches an engine between tiers,
and `measure_speeds` measures how fast it generates in each.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.engines.base import Engine
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT, config_changes, context_options, context_reach, describe_context
from longrepo.rope.scaling import ModelConfig

FIRST_TIER = 4096  # tokens


@dataclass(frozen=True)
class Tier:
    """`length`: the most tokens of a text, new ones included. `context`: the positions it is computed at."""

    length: int
    context: ContextSettings


@dataclass(frozen=True)
class Tiers:
    """Tiers in ascending order. Every text that the positions of `trained` reach is computed at those."""

    every: tuple[Tier, ...]
    trained: ContextSettings = NATIVE_CONTEXT

    @property
    def reach(self) -> int:
        """The length in tokens of the longest text that a tier holds."""
        return self.every[-1].length

    def tier_for(self, tokens: int) -> Tier:
        """Return the smallest tier that holds `tokens` tokens. Raises InputError if none does."""
        tier = next((tier for tier in self.every if tokens <= tier.length), None)
        if tier is None:
            raise InputError(
                f"{tokens:,} tokens, but the model's positions reach {self.reach:,}: {self.remedy_for(tokens)}"
            )
        return tier

    def remedy_for(self, tokens: int) -> str:
        """Return what to do about a text that no tier holds."""
        method = f"context.method={self.trained.method}" if self.trained.method != "none" else "a context.method"
        return f"use a shorter text, or extend the positions with --set context.target_length={tokens} and {method}"


def plan_tiers(
    config: ModelConfig, trained: ContextSettings, asked: ContextSettings | None = None, least: int = 0
) -> Tiers:
    """Return the tiers of a model with this configuration (config.json with transformers' defaults) whose adapter was
    trained at the positions of `trained`.

    Every text that these positions reach is computed at them: a model that was tuned at scaled positions never saw
    short texts at others. Longer texts, up to the target length of `asked`, are computed with its method, tier by tier,
    each scaled no more than it needs. Explicit factors belong to the target length, which is then the only further
    tier. `least` is the reach of a model that doesn't say how many positions it has.

    Raises InputError if the positions asked for are impossible or contradict those the adapter was trained at.
    """
    counted = config.get("max_position_embeddings")
    reach = context_reach({**config, **config_changes(config, trained)}) if counted else least
    tiers = [Tier(length, trained) for length in (*_doubling_lengths(FIRST_TIER, reach), reach)]
    if asked is not None and asked != trained:
        _check_requested_context(trained, asked, reach)
        tiers += [Tier(one.target_length or 0, one) for one in _scaled_contexts(asked, reach)]
        for tier in tiers:
            config_changes(config, tier.context)
    return Tiers(tuple(tiers), trained)


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
            f"{at}, and texts of up to {reach:,} tokens are computed as in training: ask for the same "
            f"({context_options(trained)}), or for a larger context.target_length"
        )
    if trained.method != "none" and (trained.method, trained.window) != (asked.method, asked.window):
        same = context_options(trained.model_copy(update={"target_length": asked.target_length}))
        raise InputError(f"{at}: beyond {reach:,} tokens only its own method works ({same})")


@dataclass
class TieredEngine:
    """An engine that switches to the tier of each text; `engine` was created at the positions of `tiers.trained`."""

    engine: Engine
    tiers: Tiers

    def __post_init__(self) -> None:
        self._at = self.tiers.trained

    def exchange(self, load: Callable[[], Engine], tiers: Tiers) -> None:
        """Let the engine go, so that only one is in memory, then take the one that `load` makes."""
        del self.engine
        gc.collect()
        self.engine, self.tiers, self._at = load(), tiers, tiers.trained

    def select_tier(self, tokens: int) -> Tier:
        """Use the positions of the smallest tier that holds `tokens` tokens, new ones included, from now on. Cached
        keys and values of another tier are useless then. Raises InputError if no tier holds them."""
        tier = self.tiers.tier_for(tokens)
        if tier.context != self._at:
            self.engine.position(tier.context)
            self._at = tier.context
        return tier


def model_tiers(
    model: ModelSettings, trained: ContextSettings, asked: ContextSettings | None = None, least: int = 0
) -> Tiers:
    """Like `plan_tiers`, for the model that the settings name. Its errors name the model, too."""
    from longrepo.engines.model_shape import read_config

    config = read_config(model.name, model.revision)
    tree = config.to_dict() | {"max_position_embeddings": getattr(config, "max_position_embeddings", None)}
    try:
        return plan_tiers(tree, trained, asked, least)
    except InputError as error:
        raise InputError(f"model {model.name}: {error}") from None


SHORT_PROMPT, NEW_TOKENS = 64, 16  # tokens: the first prompt with its answer, and each answer
_TIME_GROWTH = 1.25  # expected growth of the time per token from one tier to the next


@dataclass(frozen=True)
class GenerationSpeed:
    """The speed for a prompt of `prompt` tokens and `new` tokens after it (fewer than asked for if the model ended).
    `prompt_seconds` last until the first new token, `new_seconds` from there to the last; `peak` is in bytes, as the
    engine counts them."""

    prompt: int
    prompt_seconds: float
    new: int
    new_seconds: float
    peak: int

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens per second."""
        return self.prompt / self.prompt_seconds

    @property
    def new_rate(self) -> float | None:
        """New tokens per second after the first; None if there was only one."""
        return (self.new - 1) / self.new_seconds if self.new > 1 else None


def measure_speeds(adaptive: TieredEngine, vocabulary: int, seconds: float) -> Iterator[GenerationSpeed]:
    """Measure a short prompt, then one that fills each tier, as long as the next should end within `seconds`."""
    began = time.perf_counter()
    _measure_generation(adaptive, vocabulary, SHORT_PROMPT - NEW_TOKENS)  # warm up
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
    ids = [1 + index * 7919 % (vocabulary - 1) for index in range(prompt)]
    times: list[float] = []
    adaptive.engine.reset_peak_memory()
    began = time.perf_counter()
    adaptive.engine.generate(ids, NEW_TOKENS, tick=lambda: times.append(time.perf_counter()))
    return GenerationSpeed(prompt, times[0] - began, len(times), times[-1] - times[0], adaptive.engine.peak_memory())
