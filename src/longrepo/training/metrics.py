"""`metrics.jsonl` and TensorBoard events: a line a phase, update, step down and epoch; none doubled after a resume."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longrepo.training.reporter import EpochRecord, PhaseRecord, StepDownRecord, UpdateRecord

Record = PhaseRecord | UpdateRecord | EpochRecord | StepDownRecord


class Metrics:
    """Appends records. Opened at a checkpoint's count of records, it cuts off what was written after that."""

    def __init__(self, folder: Path, records: int, update: int) -> None:
        self.file = folder / "metrics.jsonl"
        self.records = _cut(self.file, records)
        self._out = self.file.open("a", encoding="utf-8")
        self._board = Board(folder / "tensorboard", update)

    def write(self, record: Record) -> None:
        name = type(record).__name__.removesuffix("Record")
        kind = re.sub("(?<=.)(?=[A-Z])", "_", name).lower()  # StepDownRecord: step_down
        self._line({"record": kind, **asdict(record)})
        self._board.write(record)

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


class Board:
    """TensorBoard's own event writer (torch's would need torch). A new file says from which step on older files'
    events no longer hold, so that a resumed run shows one curve."""

    def __init__(self, folder: Path, update: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        if update:
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=update + 1, session_log=start))

    def write(self, record: Record) -> None:
        if isinstance(record, UpdateRecord):
            self._scalars(
                record.update,
                {
                    "train/loss": record.loss,
                    "train/learning_rate": record.learning_rate,
                    "train/gradient_norm": record.gradient_norm,
                    "train/tokens_per_second": record.tokens / max(record.seconds, 1e-9),
                    "train/phase": record.phase,
                },
            )
        elif isinstance(record, EpochRecord):
            values = {"validation/loss": record.validation.loss, "validation/perplexity": record.perplexity}
            values |= {f"validation/loss_{name}": loss for name, loss in record.validation.by_length.items()}
            values |= {"epoch/train_loss": record.train_loss, "epoch/peak_memory_gib": record.peak_memory / 2**30}
            self._scalars(record.update, values)

    def _scalars(self, step: int, values: dict[str, Any]) -> None:
        summary = self._summary(
            value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        self._writer.close()
