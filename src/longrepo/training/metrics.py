"""`metrics.jsonl` and live curves: a line a phase, update, step down and epoch; none doubled after a resume."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longrepo.training.boards import open_board, values_of
from longrepo.training.reporter import EpochRecord, PhaseRecord, StepDownRecord, UpdateRecord

Record = PhaseRecord | UpdateRecord | EpochRecord | StepDownRecord


class Metrics:
    """Appends records. Opened at a checkpoint's count of records, it cuts off what was written after that."""

    def __init__(self, folder: Path, records: int, update: int, report_to: str = "tensorboard") -> None:
        self.file = folder / "metrics.jsonl"
        self.records = _cut(self.file, records)
        self._out = self.file.open("a", encoding="utf-8")
        self._board = open_board(report_to, folder, update)

    def write(self, record: Record) -> None:
        name = type(record).__name__.removesuffix("Record")
        kind = re.sub("(?<=.)(?=[A-Z])", "_", name).lower()  # StepDownRecord: step_down
        self._line({"record": kind, **asdict(record)})
        if self._board is not None and (shown := values_of(record)):
            self._board.scalars(*shown)

    def write_event(self, event: Mapping[str, Any]) -> None:
        """What the memory's guard noticed."""
        self._line({"record": "memory", **event})

    def _line(self, content: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(content) + "\n")
        self._out.flush()
        self.records += 1

    def sync(self) -> None:
        """To the disk: done before each checkpoint, which counts on these records."""
        self._out.flush()
        os.fsync(self._out.fileno())

    def close(self) -> None:
        self._out.close()
        if self._board is not None:
            self._board.close()


def _cut(file: Path, records: int) -> int:
    """Keep the first `records` whole lines of a file; return how many there are."""
    if not file.exists():
        return 0
    end, count = 0, 0
    with file.open("rb") as lines:
        for line in lines:
            if count == records or not line.endswith(b"\n"):
                break
            end, count = end + len(line), count + 1
    os.truncate(file, end)
    return count
