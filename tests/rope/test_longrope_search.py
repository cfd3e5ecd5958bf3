"""The search for LongRoPE's factors finds what lowers the loss, the same each time."""

from __future__ import annotations

import math

import pytest

from longrepo.engines.longrope_search import CROSSOVERS, MUTATIONS, Factors, evolve_factors

COUNT, EXTENSION = 8, 4.0
BEST = [1.0, 1.0, 1.2, 1.6, 2.0, 2.9, 4.5, 4.9]
STARTS = ([1.0] * COUNT, [EXTENSION] * COUNT, [EXTENSION ** (index / (COUNT - 1)) for index in range(COUNT)])


def loss(factors: Factors) -> float:
    return sum((math.log(one) - math.log(best)) ** 2 for one, best in zip(factors, BEST, strict=True))


def test_it_gains_on_all_it_began_with() -> None:
    found = evolve_factors(loss, STARTS, EXTENSION, rounds=40)
    assert found.start == pytest.approx(min(loss(tuple(one)) for one in STARTS), rel=1e-4)
    assert found.loss == loss(found.factors) < found.start / 4


def test_factors_never_fall_and_stay_within_the_paper_s_bounds() -> None:
    tried: list[Factors] = []

    def noting(factors: Factors) -> float:
        tried.append(factors)
        return loss(factors)

    evolve_factors(noting, [*STARTS, list(reversed(BEST))], EXTENSION, rounds=20)
    for factors in tried:
        assert list(factors) == sorted(factors)
        assert factors[0] >= 1 and factors[-1] <= 1.25 * EXTENSION
    assert len(tried) == len(set(tried)) <= 4 + 20 * (MUTATIONS + CROSSOVERS)


def test_the_same_seed_finds_the_same() -> None:
    one, other, another = (evolve_factors(loss, STARTS, EXTENSION, 10, seed) for seed in (3, 3, 4))
    assert one == other != another
