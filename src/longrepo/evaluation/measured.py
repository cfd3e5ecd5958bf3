"""What is measured in one piece of work, and what comes out of it: sums that can be added up later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longrepo.engines.base import Engine
from longrepo.evaluation.result import Example, Parts


@dataclass(frozen=True)
class Row:
    """Part of a figure: what base and tuned sum up to over `count` tokens (or samples), all of one group."""

    measure: str
    metric: str
    parts: Parts
    group: str
    count: float
    base: float
    tuned: float


@dataclass(frozen=True)
class Measured:
    """What one piece of work gave."""

    rows: Sequence[Row] = ()
    examples: Sequence[Example] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> Measured:
        """Read back what `as_dict` gave."""
        return Measured([Row(**one) for one in tree["rows"]], [Example(**one) for one in tree["examples"]])


@dataclass(frozen=True)
class Unit:
    """A piece of work of some seconds. `key` says what is measured, data, adapter and seed apart: equal keys, equal
    results. `length`: tokens of its texts, at most."""

    key: str
    run: Callable[[Engine], Measured]
    length: int
