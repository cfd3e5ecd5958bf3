"""What `longrepo train` prints: for a person, for a program (`--json`), or only its result (`--quiet`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from longrepo import api
from longrepo.cli.app import app
from longrepo.training.events import RunProgress
from longrepo.training.launch import TrainedRun


@pytest.fixture(params=[0, 130], ids=["finished", "stopped"])
def status(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A training that takes one update, and how it ends."""

    def train(sequences: Any, output: Any, *, reporter: Any, **options: Any) -> TrainedRun:
        if reporter is not None:
            reporter.note("engine: torch")
            reporter.progress(RunProgress(1, 1, 2, 3, 4, 1.5, 0.5, 60.0))
        trained = None if request.param else Path("run/adapter")
        return TrainedRun(Path("run"), Path("seq"), request.param, trained, already_finished=False)

    monkeypatch.setattr(api, "train", train)
    return int(request.param)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words])


def test_a_person_is_told_what_comes_next(status: int) -> None:
    done = invoke()
    assert done.exit_code == status and "engine: torch" in done.stderr
    assert ("next: longrepo evaluate run, longrepo report run, longrepo serve run" in done.stderr) == (status == 0)
    assert done.stdout == ("" if status else "adapter: run/adapter\n")


def test_quiet_leaves_the_result(status: int) -> None:
    done = invoke("--quiet")
    assert done.exit_code == status
    assert done.stdout == ("" if status else "adapter: run/adapter\n")
    assert ("continue with:" in done.stderr) == (status == 130) and "engine" not in done.stderr.replace("--engine", "")


def test_json_prints_events_and_the_end(status: int) -> None:
    done = invoke("--json")
    assert done.exit_code == status and not done.stderr
    note, progress, end = map(json.loads, done.stdout.splitlines())
    assert note == {"event": "note", "text": "engine: torch"}
    assert (progress["event"], progress["share"], progress["seconds_left"]) == ("progress", 0.5, 60.0)
    how = ("stopped", None) if status else ("finished", "run/adapter")
    assert (end["event"], end["trained"]) == how and end["exit_status"] == status and end["output"] == "run"


@pytest.mark.parametrize("words", [("--quiet", "--json"), ("--json", "--verbose"), ("--quiet", "--verbose")])
def test_they_exclude_each_other(words: tuple[str, ...]) -> None:
    done = invoke(*words)
    assert done.exit_code != 0 and "exclude each other" in str(done.exception or done.stderr)
