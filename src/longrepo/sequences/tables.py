"""Rows at random from groups of rows (Arrow record batches), one group in hand at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class GroupedTable:
    """`load(g, columns)` gives the batch of group `g`; `sizes` are the rows of each group."""

    load: Callable[[int, list[str] | None], pa.RecordBatch]
    sizes: list[int]
    _held: tuple[int, Any] | None = None
    _ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ends = list(accumulate(self.sizes))

    @staticmethod
    def of(batches: Sequence[pa.RecordBatch]) -> GroupedTable:
        """Batches that are at hand (in memory, or memory-mapped)."""
        return GroupedTable(
            lambda group, columns: batches[group].select(columns) if columns else batches[group],
            [batch.num_rows for batch in batches],
        )

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _find(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = bisect_right(self._ends, index)
        if self._held is None or self._held[0] != group:
            self._held = (group, self.load(group, None))
        return self._held[1], index - (self._ends[group - 1] if group else 0)

    def array(self, name: str, index: int) -> NDArray[Any]:
        """A list column's values in one row, `[values]`."""
        batch, at = self._find(index)
        values: NDArray[Any] = batch.column(name)[at].values.to_numpy()
        return values

    def row(self, index: int) -> dict[str, Any]:
        """One row as Python values."""
        batch, at = self._find(index)
        return {name: batch.column(name)[at].as_py() for name in batch.schema.names}

    def column(self, name: str) -> list[Any]:
        """One column of all rows as Python values."""
        return [value for group in range(len(self.sizes)) for value in self.load(group, [name]).column(0).to_pylist()]

    def lengths(self, name: str) -> NDArray[np.int64]:
        """The lengths of a list column, `[rows]`."""
        parts = [np.diff(self.load(group, [name]).column(0).offsets.to_numpy()) for group in range(len(self.sizes))]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Every group in order."""
        return (self.load(group, None) for group in range(len(self.sizes)))
