"""Live curves while a run trains (`training.report_to`): TensorBoard, Trackio, Weights & Biases or MLflow.

TensorBoard's files and Trackio's database stay on this machine. W&B and MLflow log where their own settings say (an
account, a server, or with `WANDB_MODE=offline` and without `MLFLOW_TRACKING_URI` this machine): losses, learning rates,
norms, speed and memory by name, never settings, paths or text.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from longrepo.errors import InputError

PROJECT = "longrepo"
PACKAGES = {"trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}  # report_to -> what to install


class MetricsLogger(Protocol):
    """Logs values by name at a step, which is the number of updates done."""

    def log_values(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_logger_installed(report_to: str) -> None:
    """Raise InputError if the logger's library isn't installed."""
    package = PACKAGES.get(report_to)
    if package is not None and find_spec(package) is None:
        raise InputError(
            f"training.report_to: {package} isn't installed; pip install {package}, or set it to tensorboard or none"
        )


def open_logger(report_to: str, run: Path, update: int) -> MetricsLogger | None:
    """Open the logger of a run at `update`; None if logging is off.

    Raises InputError if its library isn't installed, or can't log (no account, no server).
    """
    check_logger_installed(report_to)
    if report_to == "none":
        return None
    if report_to == "tensorboard":
        return TensorBoardLogger(run / "tensorboard", update)
    group = run.resolve().name
    name = f"{group} from update {update + 1}" if update else group  # logged steps can't be taken back
    with _one_line(report_to), redirect_stdout(sys.stderr):  # standard output is for our results
        if report_to == "wandb":
            return WandbLogger(name, group, run)
        return MlflowLogger(name, group) if report_to == "mlflow" else TrackioLogger(name, group)


@contextmanager
def _one_line(report_to: str) -> Iterator[None]:
    """Turn a library's error into one line with the way out."""
    try:
        yield
    except Exception as error:  # each library raises its own kinds
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"training.report_to: {report_to} can't log ({first[:160]}); {_REMEDIES[report_to]}, or set it to "
            "tensorboard or none"
        ) from None


_REMEDIES = {
    "trackio": "pip install -U trackio",
    "wandb": "run wandb login, or set WANDB_MODE=offline",
    "mlflow": "check MLFLOW_TRACKING_URI",
}


class TensorBoardLogger:
    """Writes with TensorBoard's own event writer (torch's would need torch). A new file says from which step on older
    files' events are void, so that a resumed run shows one curve."""

    def __init__(self, folder: Path, update: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        if update:
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=update + 1, session_log=start))

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Write one event."""
        summary = self._summary(
            value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class TrackioLogger:
    """Logs to Trackio on this machine: nothing is sent anywhere. A resumed run begins a new curve in its group."""

    def __init__(self, name: str, group: str) -> None:
        import trackio

        self._run: Any = trackio.init(
            project=PROJECT, name=name, group=group, embed=False, auto_log_gpu=False, auto_log_cpu=False
        )

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


class WandbLogger:
    """Logs to Weights & Biases, or with WANDB_MODE=offline to its files here: figures, without settings, code, git
    or machine. A resumed run begins a new curve in its group."""

    def __init__(self, name: str, group: str, folder: Path) -> None:
        import wandb

        quiet = wandb.Settings(
            console="off", disable_code=True, disable_git=True, save_code=False, x_disable_machine_info=True,
            x_disable_meta=True, x_disable_stats=True, x_save_requirements=False, silent=True,
        )  # fmt: skip
        self._run: Any = wandb.init(project=PROJECT, name=name, group=group, dir=str(folder), settings=quiet)

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


class MlflowLogger:
    """Logs to MLflow's server (MLFLOW_TRACKING_URI) or its files in this folder. A resumed run begins a new curve, with
    the run's folder as its tag `group`."""

    def __init__(self, name: str, group: str) -> None:
        import mlflow

        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        mlflow.set_experiment(PROJECT)
        self._mlflow: Any = mlflow
        mlflow.start_run(run_name=name, tags={"group": group})

    def log_values(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row; names without the signs that MLflow doesn't take."""
        self._mlflow.log_metrics({_plain_name(name): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Write what is left."""
        with redirect_stdout(sys.stderr):
            self._mlflow.end_run()


def _plain_name(name: str) -> str:
    """`validation/loss_≤1024` as `validation/loss_to_1024`."""
    return re.sub(r"[^\w/. -]", "", name.replace("≤", "to_"))
