"""A number out of an array."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


def number(array: mx.array) -> float:
    """The value of an array of one element; evaluates it."""
    mx.eval(array)
    value: Any = array.item()
    return float(value)
