"""Records of a run: what the loop emits, `metrics.jsonl`, and live curves (`training.report_to`).

`metrics.jsonl` holds one line per phase, update, step down and epoch, none of them twice after a resume. Live curves
are TensorBoard's event files or Trackio's local database. `longrepo.reports` shows the records to a person.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from longrepo.training.loggers import open_logger


@dataclass(frozen=True)
class Validation:
    """Mean nll (nats) over the target tokens of the fixed validation set: all of them, and by the phases' lengths."""

    loss: float
    by_length: dict[str, float]  # "≤1024", "≤2048", … -> nats
    tokens: int  # target tokens


@dataclass(frozen=True)
class PhaseRecord:
    """The start of a phase, or of the rest of one: its epochs (global, from 1), lengths, learning rate, and the
    validation loss before it."""

    phase: int
    first_epoch: int
    last_epoch: int
    longer_than: int
    max_length: int
    learning_rate: float
    lr_multiplier: float
    sequences: int  # in the first of these epochs
    replayed: int
    updates: int  # in all of these epochs
    validation: Validation
    context: dict[str, Any] = field(default_factory=dict)  # its positions: settings that aren't at their default


@dataclass(frozen=True)
class UpdateRecord:
    phase: int
    epoch: int
    update: int  # from 1, over the whole run
    position: int  # updates of the epoch done
    updates: int  # in the epoch
    loss: float  # weighted mean nll of the window, nats
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    memory: dict[str, Any] = field(default_factory=dict)  # the guard's samples during it, combined


@dataclass(frozen=True)
class StepDownRecord:
    """From here on a step needs less memory. What that changes: nothing ("store"), rounding ("chunks"), or the result:
    LoRA modules are no longer trained ("frozen"), long sequences are cut ("cut"). Planned peaks in bytes."""

    phase: int
    update: int  # the first it holds for
    why: str
    changes: Literal["store", "chunks", "frozen", "cut"]
    before: str
    after: str
    planned_before: int
    planned_after: int
    text: str  # the whole record as a sentence


@dataclass(frozen=True)
class MemoryUse:
    """The method an epoch ended with, and the memory it was planned to need and used, in bytes."""

    method: str
    planned: int | None
    used: int
    steps_down: list[str]
    frozen: list[str]
    cut_to: int | None  # tokens
    skipped: int  # sequences that lost all loss weight by being cut


@dataclass(frozen=True)
class EpochRecord:
    phase: int
    epoch: int
    update: int
    longer_than: int
    max_length: int
    learning_rate: float  # of its last update
    lr_multiplier: float
    train_loss: float
    validation: Validation
    perplexity: float  # exp(validation loss)
    gradient_norm_min: float
    gradient_norm_mean: float
    gradient_norm_max: float
    sequences: int  # including replayed ones
    replayed: int
    by_difficulty: dict[str, int]
    left_out: dict[str, int]  # by reason
    tokens: int
    tokens_per_second: float
    peak_memory: int  # bytes
    best: bool
    memory: MemoryUse


@dataclass(frozen=True)
class RunProgress:
    """Where a run stands after an update. `share`: of all its tokens, 0 to 1; `seconds_left`: None if nothing was timed
    yet; `epoch` counts over all phases up to `epochs`, `position` in the epoch up to `updates`."""

    phase: int
    epoch: int
    epochs: int
    position: int
    updates: int
    loss: float
    share: float
    seconds_left: float | None


class Reporter(Protocol):
    """Receives everything that a person may want to see during a run."""

    def note(self, text: str) -> None:
        """Report a decision and its reason, or something to know."""
        ...

    def phase(self, record: PhaseRecord) -> None: ...

    def update(self, record: UpdateRecord) -> None: ...

    def progress(self, progress: RunProgress) -> None: ...

    def validating(self, done: int, of: int) -> None: ...

    def epoch(self, record: EpochRecord) -> None: ...

    def saved(self, folder: Path, best: bool) -> None: ...


def logged_values(record: object) -> tuple[int, dict[str, float]] | None:
    """Return a record's step and the values to log; None if there are none."""
    if isinstance(record, UpdateRecord):
        return record.update, {
            "train/loss": record.loss,
            "train/learning_rate": record.learning_rate,
            "train/gradient_norm": record.gradient_norm,
            "train/tokens_per_second": record.tokens / max(record.seconds, 1e-9),
            "train/phase": record.phase,
        }
    if isinstance(record, EpochRecord):
        values = {"validation/loss": record.validation.loss, "validation/perplexity": record.perplexity}
        values |= {f"validation/loss_{name}": loss for name, loss in record.validation.by_length.items()}
        values |= {"epoch/train_loss": record.train_loss, "epoch/peak_memory_gib": record.peak_memory / 2**30}
        return record.update, values
    return None


MetricsRecord = PhaseRecord | UpdateRecord | EpochRecord | StepDownRecord


class MetricsFile:
    """Appends records to `metrics.jsonl`. Opened at a checkpoint's number of records, it drops those after it."""

    def __init__(self, folder: Path, records: int, update: int, report_to: str = "tensorboard") -> None:
        self.file = folder / "metrics.jsonl"
        self.records = _truncate_records(self.file, records)
        self._out = self.file.open("a", encoding="utf-8")
        self._logger = open_logger(report_to, folder, update)

    def write(self, record: MetricsRecord) -> None:
        name = type(record).__name__.removesuffix("Record")
        kind = re.sub("(?<=.)(?=[A-Z])", "_", name).lower()  # StepDownRecord: step_down
        self._line({"record": kind, **asdict(record)})
        if self._logger is not None and (values := logged_values(record)):
            self._logger.log_values(*values)

    def write_event(self, event: Mapping[str, Any]) -> None:
        """Write an event of the memory guard."""
        self._line({"record": "memory", **event})

    def _line(self, content: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(content) + "\n")
        self._out.flush()
        self.records += 1

    def sync(self) -> None:
        """Flush to the disk, before each checkpoint, which relies on these records."""
        self._out.flush()
        os.fsync(self._out.fileno())

    def close(self) -> None:
        self._out.close()
        if self._logger is not None:
            self._logger.close()


def _truncate_records(file: Path, records: int) -> int:
    """Keep the first `records` complete lines of a file. Return how many there are."""
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
