"""A sequence as a row of a file, rows as Arrow batches, and the hash that detects a damaged file.

`GroupedTable` gives random access to rows stored in groups (Arrow record batches), with one group loaded at a time.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longrepo.data.sequence import LongContextSequence

if TYPE_CHECKING:
    import pyarrow as pa


COLUMNS = (
    "input_ids",
    "loss_weights",
    "kind",
    "difficulty",
    "difficulty_score",
    "difficulty_parts",
    "files",
    "commits",
    "language",
    "split",
    "repository",
)
NUMBER_DTYPES: dict[str, type[np.generic]] = {"input_ids": np.int32, "loss_weights": np.float32}


@dataclass(frozen=True, eq=False)
class SequenceRow:
    """A sequence ready to be written: `input_ids` and `loss_weights` are `[tokens]`, `files` ends with the target file,
    `repository` is its name in the header."""

    input_ids: NDArray[np.int32]
    loss_weights: NDArray[np.float32]
    kind: str
    difficulty: str
    difficulty_score: float
    difficulty_parts: Mapping[str, float]
    files: Sequence[str]
    commits: Sequence[str]
    language: str
    split: str
    repository: str


def row_from_sequence(sequence: LongContextSequence) -> SequenceRow:
    """Return the row of a sequence built with `LongContextSequenceBuilder`."""
    about = sequence.metadata
    return SequenceRow(
        np.asarray(sequence.tokens, np.int32),
        np.asarray(sequence.loss_weights, np.float32),
        about["kind"],
        about["curriculum_difficulty"],
        about["difficulty_score"],
        about["difficulty_parts"],
        about["files_included"],
        about["commits_included"],
        about["language"],
        about["split"],
        about.get("repository", ""),
    )


def arrow_schema() -> pa.Schema:
    """Return the Arrow schema of the columns. `difficulty_parts` is JSON text."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        {
            "input_ids": pa.list_(pa.int32()),
            "loss_weights": pa.list_(pa.float32()),
            "kind": text,
            "difficulty": text,
            "difficulty_score": pa.float64(),
            "difficulty_parts": text,
            "files": pa.list_(text),
            "commits": pa.list_(text),
            "language": text,
            "split": text,
            "repository": text,
        }
    )


def batch_from_rows(rows: Sequence[SequenceRow]) -> pa.RecordBatch:
    """Return rows as one Arrow batch; numbers are copied as whole arrays."""
    import pyarrow as pa

    types = arrow_schema()
    columns: list[pa.Array] = []
    for column in types:
        values = [getattr(row, column.name) for row in rows]
        if column.name in NUMBER_DTYPES:
            columns.append(
                _list_array(
                    values, _plain_array(_concatenate(values, NUMBER_DTYPES[column.name]), column.type.value_type)
                )
            )
        elif column.name == "difficulty_parts":
            columns.append(_text_array([json.dumps(dict(value), sort_keys=True) for value in values]))
        elif column.name == "difficulty_score":
            columns.append(_plain_array(np.array(values, np.float64), column.type))
        elif pa.types.is_list(column.type):
            columns.append(_list_array(values, _text_array([text for value in values for text in value])))
        else:
            columns.append(_text_array(values))
    return pa.RecordBatch.from_arrays(columns, schema=types)


# Arrays are made from their buffers: `pyarrow.array` would import pandas, which takes half a second.
def _plain_array(values: NDArray[Any], of: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.Array.from_buffers(of, len(values), [None, pa.py_buffer(values)])


def _text_array(values: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    buffers = [None, pa.py_buffer(_list_offsets(encoded)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _list_array(values: Sequence[Sized], flat: pa.Array) -> pa.Array:
    import pyarrow as pa

    return pa.Array.from_buffers(
        pa.list_(flat.type), len(values), [None, pa.py_buffer(_list_offsets(values))], children=[flat]
    )


def _concatenate(values: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([*values, np.zeros(0, dtype)]).astype(dtype, copy=False)


def _list_offsets(values: Sequence[Sized]) -> NDArray[np.int32]:
    return np.cumsum([0, *map(len, values)], dtype=np.int32)


def list_values(batch: pa.RecordBatch, name: str) -> Iterator[NDArray[Any]]:
    """Yield the values of a list column row by row, without a copy."""
    column = batch.column(name)
    values = np.frombuffer(
        column.values.buffers()[1] or b"", NUMBER_DTYPES[name]
    )  # `to_numpy` would import pandas, too
    ends = np.frombuffer(column.buffers()[1] or b"", np.int32, len(column) + 1, 4 * column.offset)
    for start, end in pairwise(ends.tolist()):
        yield values[start:end]


class RowHash:
    """A SHA-256 over rows in order, independent of the storage format and of how they are grouped."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch."""
        others = batch.select(COLUMNS[2:]).to_pylist()
        for ids, weights, rest in zip(
            list_values(batch, "input_ids"), list_values(batch, "loss_weights"), others, strict=True
        ):
            text = json.dumps(list(rest.values())).encode()
            self._hash.update(f"{ids.nbytes},{weights.nbytes},{len(text)};".encode())
            for part in (ids.astype("<i4").tobytes(), weights.astype("<f4").tobytes(), text):
                self._hash.update(part)
        self.rows += batch.num_rows

    def hexdigest(self) -> str:
        """Return the hash of the rows so far."""
        return self._hash.hexdigest()


@dataclass
class GroupedTable:
    """A table in groups of rows: `load(g, columns)` returns the batch of group `g`, `sizes` is the rows of each."""

    load: Callable[[int, list[str] | None], pa.RecordBatch]
    sizes: list[int]
    _held: tuple[int, Any] | None = None
    _ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ends = list(accumulate(self.sizes))

    @staticmethod
    def of(batches: Sequence[pa.RecordBatch]) -> GroupedTable:
        """Return a table of loaded batches (in memory, or memory-mapped)."""
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
        """Return the values of a list column in one row, `[values]`."""
        batch, at = self._find(index)
        values: NDArray[Any] = batch.column(name)[at].values.to_numpy()
        return values

    def row(self, index: int) -> dict[str, Any]:
        """Return one row as Python values."""
        batch, at = self._find(index)
        return {name: batch.column(name)[at].as_py() for name in batch.schema.names}

    def column(self, name: str) -> list[Any]:
        """Return one column of all rows as Python values."""
        return [value for group in range(len(self.sizes)) for value in self.load(group, [name]).column(0).to_pylist()]

    def lengths(self, name: str) -> NDArray[np.int64]:
        """Return the lengths of a list column, `[rows]`."""
        parts = [np.diff(self.load(group, [name]).column(0).offsets.to_numpy()) for group in range(len(self.sizes))]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Return an iterator over the groups in order."""
        return (self.load(group, None) for group in range(len(self.sizes)))
