"""How fast answers come, measured with the engine that gives them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from longrepo.engines.adaptive import Adaptive

SHORT, NEW = 64, 16  # tokens of the first prompt with its answer, and of each answer
_GROWTH = 1.25  # of the time a token, from one tier to the next, as far as is looked ahead


@dataclass(frozen=True)
class Speed:
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


def speeds(adaptive: Adaptive, vocabulary: int, seconds: float) -> Iterator[Speed]:
    """A short prompt, then one that fills each tier, as long as the next is expected to end within so many seconds."""
    began = time.perf_counter()
    _measured(adaptive, vocabulary, SHORT - NEW)  # what is only done at a first time
    last = _measured(adaptive, vocabulary, SHORT - NEW)
    yield last
    for tier in adaptive.tiers.every:
        prompt = tier.length - NEW
        expected = (last.prompt_seconds + last.new_seconds) * _GROWTH * prompt / last.prompt
        if time.perf_counter() - began + expected > seconds:
            return
        last = _measured(adaptive, vocabulary, prompt)
        yield last


def _measured(adaptive: Adaptive, vocabulary: int, prompt: int) -> Speed:
    adaptive.hold(prompt + NEW)
    ids = [1 + place * 7919 % (vocabulary - 1) for place in range(prompt)]
    told: list[float] = []
    adaptive.engine.reset_peak_memory()
    began = time.perf_counter()
    adaptive.engine.generate(ids, NEW, tick=lambda: told.append(time.perf_counter()))
    return Speed(prompt, told[0] - began, len(told), told[-1] - told[0], adaptive.engine.peak_memory())
