"""What a dry run measures, and how it grows."""

from __future__ import annotations

Measured = dict[str, int]  # bytes by name; names that begin with `peak ` are of the step's phases


def line(x1: int, first: Measured, x2: int, second: Measured, x: int) -> Measured:
    """The straight line through two measurements, at `x`."""
    return {name: first[name] + round((second[name] - first[name]) * (x - x1) / (x2 - x1)) for name in first}
