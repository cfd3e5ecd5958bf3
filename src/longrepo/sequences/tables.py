"""Rows at random from Arrow tables, one group of rows in hand at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass
class GroupedTable:
    """`load(g, columns)` gives the Arrow table of group `g`; `sizes` are the rows of each group."""

    load: Callable[[int, list[str] | None], Any]
    sizes: list[int]
    _held: tuple[int, Any] | None = None
    _ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ends = list(accumulate(self.sizes))

    @staticmethod
    def of(table: Any) -> GroupedTable:
        """A table that is at hand as a whole (in memory, or memory-mapped)."""
        return GroupedTable(lambda _, columns: table.select(columns) if columns else table, [table.num_rows])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _find(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = bisect_right(self._ends, index)
        if self._held is None or self._held[0] != group:
            self._held = (group, self.load(group, None))
        return self._held[1], index - (self._ends[group - 1] if group else 0)

    def array(self, name: str, index: int) -> npt.NDArray[Any]:
        """A list column's values in one row."""
        table, at = self._find(index)
        values: npt.NDArray[Any] = table.column(name)[at].values.to_numpy(zero_copy_only=False)
        return values

    def row(self, index: int) -> dict[str, Any]:
        """One row as Python values."""
        table, at = self._find(index)
        return {name: table.column(name)[at].as_py() for name in table.column_names}

    def column(self, name: str) -> list[Any]:
        """One column of all rows as Python values."""
        return [value for group in range(len(self.sizes)) for value in self.load(group, [name]).column(0).to_pylist()]

    def lengths(self, name: str) -> npt.NDArray[np.int64]:
        """The lengths of a list column, `[rows]`."""
        import pyarrow.compute as pc

        parts = [
            pc.list_value_length(self.load(group, [name]).column(0)).to_numpy() for group in range(len(self.sizes))
        ]
        return np.concatenate([*parts, np.zeros(0)]).astype(np.int64)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row in order, its list columns of numbers as arrays."""
        for group in range(len(self.sizes)):
            table = self.load(group, None)
            for batch in table.to_batches(max_chunksize=256):
                others = [name for name in batch.schema.names if name not in ("input_ids", "loss_weights")]
                plain = batch.select(others).to_pylist()
                for at, row in enumerate(plain):
                    for name in ("input_ids", "loss_weights"):
                        row[name] = batch.column(name)[at].values.to_numpy(zero_copy_only=False)
                    yield row


def open_arrow(folder: Path) -> GroupedTable:
    """A `datasets` folder, memory-mapped."""
    from datasets import load_from_disk

    return GroupedTable.of(load_from_disk(str(folder)).data.table)


def open_parquet(file: Path) -> tuple[dict[bytes, bytes], GroupedTable]:
    """A parquet file's metadata, and its row groups read as they are needed."""
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
    return opened.schema_arrow.metadata or {}, GroupedTable(
        lambda group, columns: opened.read_row_group(group, columns=columns), sizes
    )
