"""A sequence as a row of a file, and the hash over rows that tells a whole file from a damaged one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

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
)


def row_of(sequence: LongContextSequence) -> dict[str, Any]:
    """The row of a built sequence. `difficulty_parts` is JSON text."""
    about = sequence.metadata
    return {
        "input_ids": sequence.tokens,
        "loss_weights": sequence.loss_weights,
        "kind": about["kind"],
        "difficulty": about["curriculum_difficulty"],
        "difficulty_score": about["difficulty_score"],
        "difficulty_parts": json.dumps(about["difficulty_parts"], sort_keys=True),
        "files": about["files_included"],
        "commits": about["commits_included"],
        "language": about["language"],
        "split": about["split"],
    }


def schema() -> pa.Schema:
    """The columns' Arrow types."""
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
        }
    )


class RowHash:
    """SHA-256 over rows in their order, the same whatever format they are stored in."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in one row (lists or arrays in the first two columns)."""
        ids = np.asarray(row["input_ids"], dtype="<i4").tobytes()
        weights = np.asarray(row["loss_weights"], dtype="<f4").tobytes()
        rest = json.dumps([row[name] for name in COLUMNS[2:]], ensure_ascii=True).encode()
        self._hash.update(f"{len(ids)},{len(weights)},{len(rest)};".encode())
        for part in (ids, weights, rest):
            self._hash.update(part)
        self.rows += 1

    def hexdigest(self) -> str:
        """Of the rows so far."""
        return self._hash.hexdigest()
