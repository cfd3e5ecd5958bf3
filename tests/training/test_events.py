"""Where live curves go: TensorBoard, Trackio where it is installed, or nowhere."""

from __future__ import annotations

import json
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from longrepo.config.loader import load_settings
from longrepo.errors import InputError
from longrepo.training.events import EpochRecord, MemoryUse, MetricsFile, UpdateRecord, Validation
from longrepo.training.loggers import check_logger_installed

UPDATE = UpdateRecord(1, 1, 7, 7, 12, 2.5, 3e-3, 0.3, 1000, 2.0, {"peak": 1 << 30})
EPOCH = EpochRecord(
    1, 1, 12, 0, 512, 3e-3, 1.0, 2.9, Validation(2.1, {"≤512": 2.1}, 300), 8.2, 0.2, 0.3, 0.4, 12, 0, {"easy": 12},
    {"length": 3}, 6000, 500.0, 2 << 30, True, MemoryUse("plain", 1 << 30, 2 << 30, [], [], None, 0),
)  # fmt: skip


class FakeTrackio(ModuleType):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = ModuleSpec("trackio", None)
        self.begun: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **about: Any) -> FakeTrackio:
        print("* Trackio project initialized")
        self.begun.append(about)
        return self

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))

    def finish(self) -> None:
        self.finished += 1


def written(folder: Path, report_to: str, update: int = 0) -> list[str]:
    """The records in `metrics.jsonl` after an update and an epoch."""
    metrics = MetricsFile(folder, 0, update, report_to)
    metrics.write(UPDATE)
    metrics.write(EPOCH)
    metrics.close()
    return [json.loads(line)["record"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_trackio_gets_what_tensorboard_does_and_standard_output_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    assert written(tmp_path, "trackio", update=6) == ["update", "epoch"]
    assert [step for step, _ in fake.rows] == [7, 12] and fake.finished == 1
    assert fake.rows[0][1]["train/tokens_per_second"] == 500 and fake.rows[1][1]["validation/loss_≤512"] == 2.1
    (about,) = fake.begun
    assert (about["name"], about["group"]) == (f"{tmp_path.name} from update 7", tmp_path.name)
    assert not capsys.readouterr().out and not (tmp_path / "tensorboard").exists()


def test_none_keeps_the_records_alone(tmp_path: Path) -> None:
    assert written(tmp_path, "none") == ["update", "epoch"]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_trackio_that_is_not_installed_is_said_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longrepo.training.loggers.find_spec", lambda _: None)
    for known in ("tensorboard", "none"):
        check_logger_installed(known)
    with pytest.raises(InputError, match="trackio isn't installed; pip install trackio, or set it to tensorboard"):
        check_logger_installed("trackio")
    for other in ("wandb", "mlflow"):
        with pytest.raises(InputError, match=f"{other} isn't installed; pip install {other}"):
            check_logger_installed(other)
    with pytest.raises(InputError, match=r"training\.report_to"):
        load_settings(None, ["training.report_to=comet"])


class FakeMlflow(ModuleType):
    """Keeps what it is told, and takes only the names that MLflow takes."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = ModuleSpec("mlflow", None)
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.runs: list[tuple[str, dict[str, str]]] = []
        self.ended = 0

    def set_experiment(self, name: str) -> None:
        print(f"Experiment with name {name} does not exist. Creating a new experiment.")

    def start_run(self, run_name: str, tags: dict[str, str]) -> None:
        self.runs.append((run_name, tags))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        assert all(re.fullmatch(r"[\w/. -]+", name) for name in values), "MLflow refuses other signs"
        self.rows.append((step, values))

    def end_run(self) -> None:
        self.ended += 1


def test_mlflow_gets_names_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    assert written(tmp_path, "mlflow") == ["update", "epoch"]
    assert [step for step, _ in fake.rows] == [7, 12] and fake.ended == 1
    assert fake.rows[1][1]["validation/loss_to_512"] == 2.1
    assert fake.runs == [(tmp_path.name, {"group": tmp_path.name})] and not capsys.readouterr().out


class FakeWandb(FakeTrackio):
    """As wandb, which hands out a run; `error` is what it raises without an account."""

    def __init__(self, error: str = "") -> None:
        super().__init__()
        self.__spec__, self.error, self.settings = ModuleSpec("wandb", None), error, dict[str, Any]()

    def Settings(self, **settings: Any) -> dict[str, Any]:
        self.settings = settings
        return settings

    def init(self, **about: Any) -> FakeTrackio:
        if self.error:
            raise RuntimeError(self.error)
        return super().init(**about)


def test_wandb_gets_figures_and_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert written(tmp_path, "wandb", update=6) == ["update", "epoch"]
    assert [step for step, _ in fake.rows] == [7, 12] and fake.finished == 1
    (about,) = fake.begun
    assert about["name"] == f"{tmp_path.name} from update 7" and "config" not in about
    assert all(fake.settings[name] for name in ("disable_git", "disable_code", "x_disable_meta", "x_disable_stats"))


def test_a_logger_that_cannot_log_is_one_line_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("No API key configured.\nUse `wandb login` to log in."))
    with pytest.raises(InputError) as caught:
        written(tmp_path, "wandb")
    said = str(caught.value)
    assert "\n" not in said and "No API key configured." in said and "WANDB_MODE=offline" in said
