"""Base against tuned: the loss of the same held-out target tokens under both, length by length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from longrepo.curriculum.source import SequenceSource
from longrepo.engines.base import Batch, Engine
from longrepo.evaluation.bootstrap import mean_interval
from longrepo.sequences.sequence import TARGET_WEIGHT


@dataclass(frozen=True)
class Comparison:
    """Held-out sequences of one length range. Losses are nats a target token; `difference` is tuned minus base, with
    its 95 % interval by bootstrap over `groups` (commits, or held-out files)."""

    longest: int  # tokens of the range's longest sequence
    cap: int
    sequences: int
    targets: int
    groups: int
    base: float
    tuned: float
    difference: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves no doubt about the sign. One group alone has no interval."""
        return self.groups > 1 and (self.high < 0 or self.low > 0)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    engine: Engine,
    source: SequenceSource,
    caps: Sequence[int],
    split: str = "test",
    tick: Callable[[], None] = lambda: None,
) -> list[Comparison]:
    """One Comparison for each cap (touching ranges) that has sequences of the split; `tick` after each sequence."""
    commits, files = source.column("commits"), source.column("files")
    held_out = [index for index, name in enumerate(source.column("split")) if name == split]
    ranges: dict[int, list[int]] = {cap: [] for cap in sorted(caps)}
    for index in held_out:
        length = len(source.tokens(index))
        cap = next((cap for cap in ranges if length <= cap), None)
        if cap is not None:
            ranges[cap].append(index)
    found = []
    for cap, indices in ranges.items():
        rows = []
        for index in indices:
            group = (commits[index] or files[index] or [str(index)])[-1]
            row = _score(engine, source, index, group)
            if row.targets:
                rows.append(row)
            tick()
        if rows:
            found.append(_compare_range(cap, rows))
    return found


@dataclass(frozen=True)
class _Row:
    """One sequence: nats over its target tokens under base and tuned."""

    length: int
    targets: int
    base: float
    tuned: float
    group: str


def _score(engine: Engine, source: SequenceSource, index: int, group: str) -> _Row:
    batch = Batch.of([(source.tokens(index), source.weights(index))], engine.pad_id)
    targets = batch.loss_weights >= TARGET_WEIGHT
    tuned = float(engine.score(batch)[targets].sum(dtype=np.float64))
    with engine.base_only():
        base = float(engine.score(batch)[targets].sum(dtype=np.float64))
    return _Row(int(batch.lengths[0]), int(targets.sum()), base, tuned, group)


def _compare_range(cap: int, rows: Sequence[_Row]) -> Comparison:
    base, tuned, targets = (sum(getattr(row, name) for row in rows) for name in ("base", "tuned", "targets"))
    low, high = mean_interval(
        [row.tuned - row.base for row in rows], [row.targets for row in rows], [row.group for row in rows]
    )
    return Comparison(
        longest=max(row.length for row in rows),
        cap=cap,
        sequences=len(rows),
        targets=targets,
        groups=len({row.group for row in rows}),
        base=base / targets,
        tuned=tuned / targets,
        difference=(tuned - base) / targets,
        low=low,
        high=high,
    )
