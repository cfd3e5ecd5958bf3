"""Live curves while a run trains: TensorBoard's event files, or Trackio's local database (`training.report_to`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from longrepo.errors import InputError
from longrepo.training.reporter import EpochRecord, UpdateRecord

PROJECT = "longrepo"


class Board(Protocol):
    """Takes values by name at a step, which is the number of updates done."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_board(report_to: str) -> None:
    """Raise InputError where its library isn't installed."""
    if report_to == "trackio" and find_spec("trackio") is None:
        raise InputError(
            "training.report_to: trackio isn't installed; pip install trackio, or set tensorboard or none there"
        )


def open_board(report_to: str, run: Path, update: int) -> Board | None:
    """The board of a run that has done so many updates; None where none is asked for."""
    check_board(report_to)
    if report_to == "none":
        return None
    return Trackio(run, update) if report_to == "trackio" else TensorBoard(run / "tensorboard", update)


def values_of(record: object) -> tuple[int, dict[str, float]] | None:
    """The step of a record and what a board shows of it; None where it shows nothing."""
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


class TensorBoard:
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

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One event."""
        summary = self._summary(
            value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Trackio:
    """Trackio on this machine: nothing is sent anywhere. A resumed run begins a curve of its own in the run's group,
    as steps can't be taken back."""

    def __init__(self, run: Path, update: int) -> None:
        import trackio

        name = run.resolve().name
        with redirect_stdout(sys.stderr):  # what it prints is no result of ours
            self._run: Any = trackio.init(
                project=PROJECT, name=f"{name} from update {update + 1}" if update else name, group=name,
                embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        with redirect_stdout(sys.stderr):
            self._run.finish()
