"""A small search for LongRoPE's factors: evolution from what the other methods divide by (Ding et al. 2024).

Kept from the paper: the starts, mutation and crossover of the best, factors that never fall from one frequency to the
next lower one, and the bound of 1.25 times the extension. Left out: the first tokens that stay unscaled, which neither
transformers nor mlx-lm computes. The same seed and losses find the same factors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Factors = tuple[float, ...]
PARENTS, MUTATIONS, CROSSOVERS = 3, 3, 2
_BEYOND = 1.25
_SPREAD = 0.25  # of a mutation, in the logarithm


@dataclass(frozen=True)
class Found:
    """`loss` of `factors`; `start` is the lowest loss of those it began with, `tried` how many were measured."""

    factors: Factors
    loss: float
    start: float
    tried: int


def search(
    loss: Callable[[Factors], float], starts: Sequence[Sequence[float]], extension: float, rounds: int, seed: int = 0
) -> Found:
    """Factors with the lowest loss found in so many rounds, each of five measurements at most. `extension`: target /
    native length; `starts`: factors from the highest frequency to the lowest."""
    draw, most = random.Random(seed), extension * _BEYOND
    measured: dict[Factors, float] = {}

    def measure(factors: Sequence[float]) -> None:
        allowed = _allowed(factors, most)
        if allowed not in measured:
            measured[allowed] = loss(allowed)

    for factors in starts:
        measure(factors)
    first = min(measured.values())
    for _ in range(rounds):
        best = sorted(measured, key=lambda one: measured[one])[:PARENTS]
        for _ in range(MUTATIONS):
            measure(_mutated(draw.choice(best), draw))
        for _ in range(CROSSOVERS):
            measure([draw.choice(pair) for pair in zip(draw.choice(best), draw.choice(best), strict=True)])
    found = min(measured, key=lambda one: measured[one])
    return Found(found, measured[found], first, len(measured))


def _mutated(factors: Factors, draw: random.Random) -> list[float]:
    """A run of neighbours stretched or squeezed together."""
    first, last = sorted(draw.randrange(len(factors)) for _ in range(2))
    by = math.exp(draw.gauss(0, _SPREAD))
    return [one * by if first <= index <= last else one for index, one in enumerate(factors)]


def _allowed(factors: Sequence[float], most: float) -> Factors:
    lowest, found = 1.0, []
    for one in factors:
        lowest = min(max(lowest, float(one)), most)
        found.append(round(lowest, 4))
    return tuple(found)
