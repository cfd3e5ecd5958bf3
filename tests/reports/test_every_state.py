"""A page for every state that a run can be in, of runs that were really stopped, resumed and begun in the middle."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from reports.browser import opened, started

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from fake_engine import FakeEngine
from small_runs import Told, run, settings_with

from longrepo.curriculum.schedule import make_schedule
from longrepo.engines.base import StepMethod
from longrepo.memory.budget import Budget
from longrepo.memory.estimate import StepMemory
from longrepo.memory.planner import MemoryPlan, PhaseMemoryPlan, StepEstimate
from longrepo.reports.html.page import write_comparison, write_report
from longrepo.reports.html.tables import event_sentences, memory_table
from longrepo.reports.run_record import read_run_record

GIB = 2**30
PHASE_3 = "long_context.phase3_enabled=true"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class OtherEngine(FakeEngine):
    name = "other"


class CtrlC(Told):
    """Stops the run as a person does, in a phase's update of this number, or (0) while it is first validated."""

    def __init__(self, phase: int, update: int) -> None:
        super().__init__()
        self.at = phase, update

    def update(self, record: Any) -> None:
        super().update(record)
        if self.at == (record.phase, sum(one.phase == record.phase for one in self.updates)):
            os.kill(os.getpid(), signal.SIGINT)

    def validating(self, done: int, of: int) -> None:
        if self.at[1] == 0:
            os.kill(os.getpid(), signal.SIGINT)


def trained(path: Path, *overrides: str, ahead: tuple[int, ...] = (), **more: Any) -> Path:
    """Train as the command does; the plan holds the phases that are ahead, as the command plans them."""
    told = more.pop("told", Told())
    phases = {}
    for phase in make_schedule(settings_with(*overrides)):
        if not ahead or phase.number in ahead:
            estimate = StepEstimate(
                StepMethod(), phase.max_length, lambda _, n: StepMemory(n * 2**22, 0, 0, 0, 0, 0, 0)
            )
            phases[phase.number] = PhaseMemoryPlan(estimates=(estimate,), chosen=estimate, number=phase.number)
    run(path, *overrides, told=told, memory=MemoryPlan(phases, Budget(GIB, "made up", limit=True)), **more)
    return path


def stopped(path: Path, phase: int, update: int, *overrides: str) -> Path:
    return trained(path, *overrides, told=CtrlC(phase, update))


def resumed(path: Path, phase: int, update: int, **more: Any) -> Path:
    stopped(path, phase, update)
    return trained(path, resume="auto", ahead=tuple(range(phase, 3)), **more)


def continued(path: Path, epochs: int, *overrides: str) -> Path:
    """Another run, begun by --checkpoint from the best of a run of that many epochs."""
    trained(path.with_name("first"), epochs=epochs)
    return trained(path, *overrides, checkpoint=path.with_name("first") / "best")


def of_before(path: Path) -> Path:
    """As earlier versions left a run that --checkpoint had begun inside a phase and that was resumed."""
    continued(path, 1)
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text("".join(lines[1:]))
    plan = json.loads((path / "memory_plan.json").read_text())
    del plan["phases"]["1"]
    (path / "memory_plan.json").write_text(json.dumps(plan))
    return path


STATES: dict[str, Callable[[Path], Path]] = {
    "whole": trained,
    "stopped while it is first validated": lambda path: stopped(path, 1, 0),
    "stopped in phase 1": lambda path: stopped(path, 1, 1),
    "stopped in phase 2": lambda path: stopped(path, 2, 2),
    "stopped in phase 3": lambda path: stopped(path, 3, 1, PHASE_3),
    "resumed in phase 1": lambda path: resumed(path, 1, 2),
    "resumed in phase 2": lambda path: resumed(path, 2, 1),
    "resumed when it was finished": lambda path: trained(trained(path), resume="auto", ahead=(2,)),
    "resumed on another engine in phase 1": lambda path: resumed(path, 1, 5, engine=OtherEngine()),
    "resumed on another engine in phase 2": lambda path: resumed(path, 2, 2, engine=OtherEngine()),
    "begun inside phase 1": lambda path: continued(path, 1),
    "begun inside phase 2": lambda path: continued(path, 3),
    "begun inside a phase that was complete": lambda path: continued(path, 2, "long_context.phase1_epochs=3"),
    "begun after phase 2": lambda path: continued(path, 4, PHASE_3),
    "one epoch": lambda path: trained(path, epochs=1),
    "one epoch in all": lambda path: trained(
        path, "long_context.phase1_epochs=1", "long_context.phase2_epochs=0", ahead=(1,)
    ),
    "phase 3 gated": lambda path: trained(path, "long_context.phase3_enabled=auto"),
    "all weights": lambda path: trained(path, "training.weights=all", "model.quantization=none"),
    "of an earlier version": of_before,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.mark.filterwarnings("error:constrained_layout")
@pytest.mark.parametrize("state", STATES)
def test_there_is_a_page_for_it(browser: Browser, tmp_path: Path, state: str) -> None:
    path = STATES[state](tmp_path / "run")
    record = read_run_record(path)
    page_file, both = write_report(record), write_comparison([record, record], tmp_path / "both.html")
    done = {one.phase for one in record.history.updates}
    if state != "of an earlier version":
        assert record.plan is not None and {int(number) for number in record.plan["phases"]} >= done
        assert {phase for phase, _, _ in record.history.spans} >= done
    assert {phase for phase, start, end in record.history.spans if end > start} == done
    for file, width, scheme in ((page_file, 360, "light"), (page_file, 1440, "dark"), (both, 1440, "light")):
        with opened(browser, file, width, scheme) as (page, wrong):
            words = page.locator("body").inner_text()
            assert not wrong and page.evaluate(OVERFLOW) == 0
            if file == page_file:
                assert ("not finished" in words) == state.startswith("stopped")
                assert len(page.locator("#training tbody tr").all()) >= len(record.history.epochs)
                rows = {row.inner_text().split()[0]: row.inner_text() for row in page.locator("#memory tbody tr").all()}
                assert rows.keys() >= {str(phase) for phase in done}
                if state != "of an earlier version":
                    assert all("plain" in rows[str(phase)] for phase in done), "planned and run"


def test_epochs_are_those_of_this_run(tmp_path: Path) -> None:
    def counted(path: Path) -> tuple[int, int]:
        record = read_run_record(path)
        return len(record.history.epochs), record.epochs_planned

    assert counted(trained(tmp_path / "one", epochs=1)) == (1, 1)
    assert counted(trained(tmp_path / "one", resume="auto", epochs=2)) == (3, 3)
    assert counted(continued(tmp_path / "more", 3)) == (1, 1)
    assert counted(stopped(tmp_path / "stopped", 2, 1)) == (2, 4)


def test_a_resumed_runs_plan_keeps_the_phases_before(tmp_path: Path) -> None:
    path = stopped(tmp_path / "run", 2, 1)
    before = json.loads((path / "memory_plan.json").read_text())
    before["budget"]["bytes"] = 2 * GIB
    (path / "memory_plan.json").write_text(json.dumps(before))
    trained(path, resume="auto", ahead=(2,))
    after = json.loads((path / "memory_plan.json").read_text())
    assert list(after["phases"]) == ["1", "2", "3"][: len(after["phases"])] and after["budget"]["bytes"] == GIB
    assert after["phases"]["1"]["peak"] == before["phases"]["1"]["peak"]
    assert after["phases"]["1"]["budget"]["bytes"] == 2 * GIB, "another one than of the phases after it"
    words = "was planned within 2.00 GiB (made up), on cpu."
    assert event_sentences(read_run_record(path)) == [f"Phase 1 {words}", f"Phase 2 {words}"], "both began with it"


def test_losses_of_another_engine_are_not_compared(tmp_path: Path) -> None:
    record = read_run_record(resumed(tmp_path / "run", 1, 5, engine=OtherEngine()))
    first, second = record.history.checks
    assert first[0][0] == 0 and second[0][0] == 5 and len(second) > 2
    assert record.history.best is not None and record.history.best[0] > 5


def test_what_was_run_is_never_said_not_to_have_run(tmp_path: Path) -> None:
    """Short phases end between two samples of the guard: then it is the epochs' own peak, or nothing is known."""

    class Measuring(FakeEngine):
        def peak_memory(self) -> int:
            return 3 * GIB

    path = trained(tmp_path / "run", engine=Measuring())
    rows = {row[0]: row[4] for row in memory_table(read_run_record(path)).rows}
    assert rows == {"1": "3.00", "2": "3.00"}
    path = stopped(tmp_path / "stopped", 1, 2)
    assert {row[0]: row[4] for row in memory_table(read_run_record(path)).rows} == {"1": "not measured", "2": "not run"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"phases": {"1": {}}}', '{"phases": [1]}', '{"phases": {}}'])
def test_a_plan_that_cannot_be_read_is_said(tmp_path: Path, content: str) -> None:
    path = trained(tmp_path / "run", epochs=1)
    (path / "memory_plan.json").write_text(content)
    record = read_run_record(path)
    assert record.plan is None and record.missing["plan"] == "memory_plan.json can't be read."
    assert "memory_plan.json can&#39;t be read." in write_report(record).read_text()
