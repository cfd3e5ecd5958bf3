"""A training's progress: one bar in a terminal, a line a minute without one, JSON for programs, or nothing."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from small_runs import run

from longrepo.reports.training import JsonReporter, TerminalReporter
from longrepo.training.events import RunProgress


def progress(share: float, left: float | None = 7800.0) -> RunProgress:
    return RunProgress(2, 7, 13, 12, 40, 1.2345, share, left)


def test_without_a_terminal_there_is_a_line_a_minute() -> None:
    out, now = io.StringIO(), [0.0]
    reporter = TerminalReporter(Console(file=out, width=200), clock=lambda: now[0])
    for second in range(0, 181, 20):
        now[0] = float(second)
        reporter.progress(progress(second / 200))
        reporter.validating(second, 180)
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["30", "60", "90"], "percent at one, two and three minutes"
    assert lines[0].strip() == "30 %  phase 2, epoch 7 of 13, update 12 of 40, loss 1.234; about 2 h 10 min left"
    now[0] = 260.0
    reporter.validating(3, 9)
    assert out.getvalue().splitlines()[-1].strip() == (
        "90 %  phase 2, epoch 7 of 13, update 12 of 40, validating 3/9; about 2 h 10 min left"
    )


def test_nothing_timed_yet_is_no_time_left() -> None:
    out, now = io.StringIO(), [0.0]
    reporter = TerminalReporter(Console(file=out, width=200), clock=lambda: now[0])
    now[0] = 60.0
    reporter.validating(3, 9)
    now[0] = 120.0
    reporter.progress(progress(0.0, None))
    assert [line.strip() for line in out.getvalue().splitlines()] == [
        "validating 3/9",
        "0 %  phase 2, epoch 7 of 13, update 12 of 40, loss 1.234",
    ]


def test_in_a_terminal_one_bar_lasts_for_all_phases(tmp_path: Path) -> None:
    out = io.StringIO()
    reporter = TerminalReporter(Console(file=out, width=120, force_terminal=True, highlight=False))
    bars = set()

    class Watched(TerminalReporter):
        def progress(self, progress: RunProgress) -> None:
            super().progress(progress)
            bars.add(id(self._bar))

    watched = Watched(reporter.console)
    try:
        run(tmp_path / "run", told=watched)  # type: ignore[arg-type]
    finally:
        watched.close()
    assert len(bars) == 1
    assert "100 %  phase 2, epoch 4 of 4" in out.getvalue()
    assert "phase 1" in out.getvalue() and "epoch 3" in out.getvalue(), "phases and epochs stay above the bar"


def test_json_events_are_lines_of_json_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", told=JsonReporter())  # type: ignore[arg-type]
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert {"phase", "update", "progress", "validating", "epoch", "saved"} <= set(kinds)
    assert kinds.count("update") == kinds.count("progress") and kinds.count("epoch") == 4
    assert [event["share"] for event in events if event["event"] == "progress"][-1] == 1.0
    JsonReporter().write("epoch", {"perplexity": float("inf"), "by": [float("nan"), 1]})
    assert json.loads(capsys.readouterr().out) == {"event": "epoch", "perplexity": None, "by": [None, 1]}
