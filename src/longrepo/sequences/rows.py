"""A sequence as a row of a file, rows as Arrow batches, and the hash that tells a whole file from a damaged one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.sequence import LongContextSequence

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
NUMBERS: dict[str, type[np.generic]] = {"input_ids": np.int32, "loss_weights": np.float32}


@dataclass(frozen=True, eq=False)
class Row:
    """A sequence ready to be written: `input_ids` and `loss_weights` are `[tokens]`, `files` ends with the target,
    `repository` is the name it has in the header."""

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


def row_of(sequence: LongContextSequence) -> Row:
    """The row of a sequence built by hand."""
    about = sequence.metadata
    return Row(
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


def schema() -> pa.Schema:
    """The columns' Arrow types. `difficulty_parts` is JSON text."""
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


def batch_of(rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows as one Arrow batch, its numbers copied as whole arrays."""
    import pyarrow as pa

    types = schema()
    columns: list[pa.Array] = []
    for field in types:
        values = [getattr(row, field.name) for row in rows]
        if field.name in NUMBERS:
            columns.append(_lists(values, _plain(_joined(values, NUMBERS[field.name]), field.type.value_type)))
        elif field.name == "difficulty_parts":
            columns.append(_texts([json.dumps(dict(value), sort_keys=True) for value in values]))
        elif field.name == "difficulty_score":
            columns.append(_plain(np.array(values, np.float64), field.type))
        elif pa.types.is_list(field.type):
            columns.append(_lists(values, _texts([text for value in values for text in value])))
        else:
            columns.append(_texts(values))
    return pa.RecordBatch.from_arrays(columns, schema=types)


# Arrays are made from their buffers: `pyarrow.array` would import pandas, which takes half a second.
def _plain(values: NDArray[Any], of: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.Array.from_buffers(of, len(values), [None, pa.py_buffer(values)])


def _texts(values: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    buffers = [None, pa.py_buffer(_ends(encoded)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _lists(values: Sequence[Sized], flat: pa.Array) -> pa.Array:
    import pyarrow as pa

    return pa.Array.from_buffers(pa.list_(flat.type), len(values), [None, pa.py_buffer(_ends(values))], children=[flat])


def _joined(values: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([*values, np.zeros(0, dtype)]).astype(dtype, copy=False)


def _ends(values: Sequence[Sized]) -> NDArray[np.int32]:
    return np.cumsum([0, *map(len, values)], dtype=np.int32)


def rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    """The rows of a batch; their numbers are views of it."""
    others = batch.select(COLUMNS[2:]).to_pylist()
    for ids, weights, rest in zip(numbers(batch, "input_ids"), numbers(batch, "loss_weights"), others, strict=True):
        yield Row(ids, weights, **rest | {"difficulty_parts": json.loads(rest["difficulty_parts"])})


def numbers(batch: pa.RecordBatch, name: str) -> Iterator[NDArray[Any]]:
    """A list column's values row by row, without a copy."""
    column = batch.column(name)
    values = np.frombuffer(column.values.buffers()[1] or b"", NUMBERS[name])  # `to_numpy` would import pandas, too
    ends = np.frombuffer(column.buffers()[1] or b"", np.int32, len(column) + 1, 4 * column.offset)
    for start, end in pairwise(ends.tolist()):
        yield values[start:end]


class RowHash:
    """SHA-256 over rows in their order, the same whatever format they are stored in and however they are grouped."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the rows of a batch."""
        others = batch.select(COLUMNS[2:]).to_pylist()
        for ids, weights, rest in zip(numbers(batch, "input_ids"), numbers(batch, "loss_weights"), others, strict=True):
            text = json.dumps(list(rest.values())).encode()
            self._hash.update(f"{ids.nbytes},{weights.nbytes},{len(text)};".encode())
            for part in (ids.astype("<i4").tobytes(), weights.astype("<f4").tobytes(), text):
                self._hash.update(part)
        self.rows += batch.num_rows

    def hexdigest(self) -> str:
        """Of the rows so far."""
        return self._hash.hexdigest()
