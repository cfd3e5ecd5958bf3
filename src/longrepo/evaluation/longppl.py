"""LongPPL: the perplexity of the tokens that need long context (Fang et al. 2024, arXiv 2410.23771).

A key token is one whose loss falls by more than ALPHA nats from a truncated context to the long one (long-short
difference), and is below BETA nats then (long-context likelihood). The base chooses them, for both models.
"""

from __future__ import annotations

from collections.abc import Iterator

from longrepo.evaluation.held import Held
from longrepo.evaluation.measured import Row
from longrepo.evaluation.scoring import Both, Mask

ALPHA, BETA = 2.0, 2.0  # nats; as in the authors' code


def rows(held: Held, truncated: Both, long: Both, scored: Mask, length: int) -> Iterator[Row]:
    """One row, where there is a key token."""
    key = scored & (truncated.base - long.base > ALPHA) & (long.base < BETA)
    if key.any():
        yield Row("longppl", "longppl", {"length": length}, held.group, int(key.sum()), *long.at(key).sums())
