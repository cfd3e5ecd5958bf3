"""Step-down: the same update again by what needs less memory, said, written down, and kept to the run's end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FROZEN, VOCABULARY, FakeEngine
from small_runs import Told, records, run, weights_of

from longrepo.engines.base import StepMethod
from longrepo.errors import OutOfMemory
from longrepo.memory.estimate import Methods
from longrepo.memory.guard import GuardVerdict, NoGuard
from longrepo.memory.planner import MemoryPlan, PhaseMemoryPlan, largest_modules
from longrepo.training import step_down

MIB = 2**20
MEMORY, DISK = StepMethod("chunked", 32), StepMethod("chunked", 32, "disk")
RECOMPUTE, SMALLER = StepMethod("chunked", 32, "recompute", 4), StepMethod("chunked", 16, "memory")
LENGTHS = {1: 64, 2: 96, 3: 128}


@dataclass(frozen=True)
class Planned:
    method: StepMethod
    length: int
    peak: int
    disk_held: int = MIB
    disk_written: int = MIB
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"method": self.method.as_dict(), "length": self.length, "peak": self.peak}


def ladder(length: int, *methods: StepMethod) -> Methods:
    """Rungs of 8, 6, 4, … MiB, a little more for longer sequences."""
    rungs = tuple(Planned(m, length, (8 - 2 * n) * MIB + length) for n, m in enumerate(methods))
    return Methods(rungs, rungs[0])


def planned(*methods: StepMethod, **more: Any) -> MemoryPlan:
    return of({number: ladder(length, *methods) for number, length in LENGTHS.items()}, **more)


def of(phases: Mapping[int, Methods], **more: Any) -> MemoryPlan:
    found: Any = {n: PhaseMemoryPlan(number=n, **vars(methods)) for n, methods in phases.items()}
    return MemoryPlan(found, **more)


def failing(*calls: int, at: str = "accumulate") -> Callable[[str], bool]:
    """Runs out of memory at these calls, counted from 1."""
    seen = [0]

    def fails(call: str) -> bool:
        seen[0] += call == at
        return call == at and seen[0] in calls

    return fails


def while_computed_by(engine: FakeEngine, *methods: StepMethod) -> Callable[[str], bool]:
    return lambda call: call == "accumulate" and engine.method in methods


def test_the_next_rung_is_planned_alone_and_a_full_disk_is_passed_over() -> None:
    class Unasked(Planned):
        peak = property(lambda self: pytest.fail("nobody needs to know"))  # type: ignore[assignment]

        def __init__(self, method: StepMethod) -> None:
            object.__setattr__(self, "method", method)

    rungs = ladder(64, MEMORY, SMALLER, DISK, RECOMPUTE).estimates
    assert Methods((*rungs[:3], Unasked(StepMethod("chunked", 8))), rungs[0]).lower(rungs[0]) == rungs[2]
    assert Methods(rungs, rungs[0], disk=MIB // 2).lower(rungs[0]) == rungs[3]
    assert Methods(rungs, rungs[0]).lower(rungs[0], room=3 * MIB) == rungs[3]
    assert Methods(rungs, rungs[0]).lower(rungs[3]) is None
    plain = Planned(StepMethod(), 64, 9 * MIB)
    assert Methods((plain, *rungs), plain).lower(plain) == rungs[0], "the largest chunks first"
    assert Methods(rungs, rungs[0]).start(ceiling=1) == rungs[3]


@pytest.mark.parametrize("peak, following", [(7 * MIB, 1), (8 * MIB, 2), (9 * MIB, 2)])
def test_a_method_of_equal_need_is_no_step_down(peak: int, following: int) -> None:
    rungs = (Planned(MEMORY, 64, 8 * MIB), Planned(RECOMPUTE, 64, peak), Planned(SMALLER, 64, 5 * MIB))
    assert Methods(rungs, rungs[0]).lower(rungs[0]) == rungs[following]


@pytest.mark.parametrize("ceiling, first", [(8 * MIB + 1, 0), (8 * MIB, 1), (6 * MIB, 2)])
def test_a_start_lies_below_its_ceiling(ceiling: int, first: int) -> None:
    rungs = (Planned(MEMORY, 64, 8 * MIB), Planned(DISK, 64, 6 * MIB), Planned(SMALLER, 64, 5 * MIB))
    assert Methods(rungs, rungs[0]).start(ceiling=ceiling) == rungs[first]


def test_the_largest_modules_are_the_mlps_and_never_all() -> None:
    sizes = {"q_proj": 6, "k_proj": 4, "c_fc": 15, "c_proj": 15}
    assert largest_modules(sizes, list(sizes)) == ("c_fc", "c_proj")
    assert largest_modules(sizes, ["q_proj", "k_proj"]) == ("q_proj",)
    assert largest_modules(sizes, ["c_fc", "c_proj"]) == ()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    run(path)
    return path


def test_an_update_that_runs_out_is_done_again_with_the_same_result(tmp_path: Path, undisturbed: Path) -> None:
    engine, told = FakeEngine(), Told()
    engine.fails = failing(4)  # the second micro-batch of update 2
    run(tmp_path / "run", engine=engine, told=told, memory=planned(MEMORY, DISK))
    assert weights_of(tmp_path / "run") == weights_of(undisturbed)
    (said,) = (note for note in told.notes if note.startswith("memory: fake: out of memory in a step;"))
    assert "from update 2 on chunks of 32, disk" in said and "bit for bit" in said
    assert engine.used == [str(MEMORY), str(DISK), str(DISK)], "the later phase starts no higher"
    event = next(record for record in records(tmp_path / "run") if record["record"] == "step_down")
    assert (event["update"], event["changes"], event["before"]) == (2, "store", str(MEMORY))
    learnt = json.loads((tmp_path / "run" / "last" / "state.json").read_text())["state"]["memory"]
    assert learnt["ceiling"] == 8 * MIB + 64 and learnt["phases"]["1"]["method"] == DISK.as_dict()
    assert told.epochs[0].memory.steps_down == [said] and told.epochs[1].memory.steps_down == []
    assert told.epochs[0].memory.planned == 6 * MIB + 64
    assert f"phase 2: planned {6 / 1024:.2f} GiB, used 0.00 (chunks of 32, disk)" in told.notes


def test_validation_that_runs_out_is_done_again_and_never_costs_the_result(tmp_path: Path, undisturbed: Path) -> None:
    engine, told = FakeEngine(), Told()
    engine.fails = failing(2, at="score")
    run(tmp_path / "run", engine=engine, told=told, memory=planned(MEMORY, DISK))
    assert weights_of(tmp_path / "run") == weights_of(undisturbed) and engine.method == DISK
    lossy = planned(MEMORY, largest=("mlp",))
    engine = FakeEngine()
    engine.fails = failing(1, at="score")
    with pytest.raises(OutOfMemory, match="nothing needs less"):
        run(tmp_path / "lossy", "memory.allow_lossy=true", engine=engine, memory=lossy)
    assert not engine.frozen


def test_another_store_comes_before_smaller_chunks_and_each_failed_peak_is_left_behind(tmp_path: Path) -> None:
    engine, told = FakeEngine(), Told()
    engine.fails = while_computed_by(engine, MEMORY, DISK)
    run(tmp_path / "run", engine=engine, told=told, memory=planned(MEMORY, SMALLER, DISK, RECOMPUTE))
    assert engine.used[:3] == [str(MEMORY), str(DISK), str(RECOMPUTE)]
    assert engine.used[3:] == [str(RECOMPUTE)]
    engine = FakeEngine()
    engine.fails = while_computed_by(engine, MEMORY)
    run(tmp_path / "smaller", engine=engine, told=told, memory=planned(MEMORY, SMALLER))
    assert any("by rounding only" in note for note in told.notes) and engine.method == SMALLER


def test_without_a_rung_left_one_line_says_what_helps_and_all_is_saved(tmp_path: Path, undisturbed: Path) -> None:
    engine = FakeEngine()
    engine.fails = failing(7, 8)  # update 4; update 2 was saved
    with pytest.raises(OutOfMemory) as caught:
        run(tmp_path / "run", "memory.store=memory", engine=engine, memory=planned(MEMORY, RECOMPUTE))
    text = str(caught.value)
    assert "\n" not in text and "memory.allow_lossy=true" in text and "memory.store=auto" in text
    state = json.loads((tmp_path / "run" / "last" / "state.json").read_text())["state"]
    assert state["update"] == 3 and state["memory"]["ceiling"] == 6 * MIB + 64
    assert not (tmp_path / "run" / "in_flight.json").exists()
    engine = FakeEngine()
    run(tmp_path / "run", resume="auto", engine=engine, memory=planned(MEMORY, RECOMPUTE))
    assert engine.used == [str(RECOMPUTE)] * 2, "once more by the one that needs least"
    assert weights_of(tmp_path / "run") == weights_of(undisturbed)


def test_lossy_steps_are_the_last_and_only_when_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_down, "MIN_CUT_LENGTH", 32)
    engine, told = FakeEngine(), Told()
    engine.fails = lambda call: call == "accumulate" and (not engine.frozen or engine.method == MEMORY)
    memory = planned(MEMORY, DISK, largest=("c_fc", "c_proj"), shorter=lambda _, length: ladder(length, MEMORY, DISK))
    run(tmp_path / "run", "memory.allow_lossy=true", engine=engine, told=told, memory=memory)
    steps = [record["changes"] for record in records(tmp_path / "run") if record["record"] == "step_down"]
    assert steps == ["store", "frozen"] and engine.frozen == ("c_fc", "c_proj")
    assert f"c_fc and c_proj are trained no further ({FROZEN * VOCABULARY} LoRA parameters)" in "\n".join(told.notes)
    assert (engine.weights[:FROZEN] == FakeEngine().weights[:FROZEN]).all()
    assert told.epochs[-1].memory.frozen == ["c_fc", "c_proj"] and told.epochs[-1].memory.cut_to is None


def test_sequences_are_cut_in_halves_and_what_loses_its_weight_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from small_runs import sequences

    monkeypatch.setattr(step_down, "MIN_CUT_LENGTH", 20)
    source = sequences()
    for row in source.rows[:2]:  # nothing counts in their first half
        row["weights"] = [0.0] * 32 + row["weights"][32:]
    engine, told = FakeEngine(), Told()
    engine.fails = lambda call: call == "accumulate" and not memory_is_cut(tmp_path / "run", 32)
    memory = planned(MEMORY, shorter=lambda _, length: ladder(length, MEMORY))
    run(tmp_path / "run", "memory.allow_lossy=true", engine=engine, told=told, memory=memory, source=source)
    assert engine.longest == 32, "in phase 2, too"
    assert [epoch.memory.cut_to for epoch in told.epochs] == [32] * 4
    assert told.epochs[0].memory.skipped == 2 and told.epochs[0].sequences == 12
    assert told.epochs[0].validation.by_length.keys() == {"≤64", "≤96"}, "validated whole"


def memory_is_cut(path: Path, length: int) -> bool:
    tree = json.loads((path / "in_flight.json").read_text())
    return tree["memory"]["max_length"] == length


class Shrinking(NoGuard):
    """Says from one boundary on that there is so much room."""

    def __init__(self, at: int, room: int, action: str = "step_down") -> None:
        self.boundaries, self.at, self.room, self.action, self.waited = 0, at, room, action, 0
        self.plans: list[int] = []

    def boundary(self) -> GuardVerdict:
        self.boundaries += 1
        self.plans.append(self.planned)
        if self.action == "pause":
            return GuardVerdict("pause" if self.boundaries == self.at else "go", "pressure", self.room)
        short = self.boundaries >= self.at and self.planned > self.room
        return GuardVerdict("step_down" if short else "go", "the limit shrank", self.room)

    def wait_for_memory(self, say: Callable[[str], None], stop: Callable[[], bool]) -> bool:
        say("paused, going on")
        self.waited += 1
        return True

    def take(self) -> dict[str, Any]:
        return {"room": self.room}


def test_a_limit_that_shrinks_lets_the_next_update_run_by_what_fits(tmp_path: Path, undisturbed: Path) -> None:
    engine, told, guard = FakeEngine(), Told(), Shrinking(at=3, room=5 * MIB)
    memory = planned(MEMORY, DISK, RECOMPUTE)
    run(tmp_path / "run", engine=engine, told=told, memory=memory, make_guard=lambda *_: guard)
    assert engine.used[:2] == [str(MEMORY), str(RECOMPUTE)], "the disk's 6 MiB wouldn't fit"
    assert guard.plans[2:4] == [8 * MIB + 64, 4 * MIB + 64]
    assert weights_of(tmp_path / "run") == weights_of(undisturbed)
    assert told.updates[0].memory == {"room": 5 * MIB}


def test_where_nothing_fits_the_lowest_is_tried_before_the_run_gives_up(tmp_path: Path) -> None:
    engine, guard = FakeEngine(), Shrinking(at=3, room=MIB)
    with pytest.raises(OutOfMemory, match="the limit shrank; nothing needs less"):
        run(tmp_path / "run", engine=engine, memory=planned(MEMORY, DISK, RECOMPUTE), make_guard=lambda *_: guard)
    assert engine.used == [str(MEMORY), str(RECOMPUTE)]
    state = json.loads((tmp_path / "run" / "last" / "state.json").read_text())["state"]
    assert state["update"] == 3


def test_pressure_is_waited_out_and_the_run_goes_on_as_it_was(tmp_path: Path, undisturbed: Path) -> None:
    told, guard = Told(), Shrinking(at=3, room=0, action="pause")
    run(tmp_path / "run", told=told, memory=planned(MEMORY, DISK), make_guard=lambda *_: guard)
    assert guard.waited == 1 and "paused, going on" in told.notes
    assert weights_of(tmp_path / "run") == weights_of(undisturbed)


def test_a_resumed_run_keeps_its_methods_whatever_the_plan_would_choose_now(tmp_path: Path) -> None:
    run(tmp_path / "run", epochs=1, memory=planned(MEMORY, DISK))
    engine = FakeEngine()
    now = {
        n: Methods(ladder(length, MEMORY, DISK).estimates[::-1], ladder(length, DISK).chosen)
        for n, length in LENGTHS.items()
    }
    run(tmp_path / "run", resume="auto", epochs=3, engine=engine, memory=of(now))
    assert engine.used == [str(MEMORY)] * 2
    engine, told = FakeEngine(), Told()
    run(tmp_path / "other", epochs=1, memory=planned(MEMORY))
    run(tmp_path / "other", resume="auto", epochs=3, engine=engine, told=told, memory=planned(SMALLER))
    assert any("is no longer among the planned ones" in note for note in told.notes)


def test_a_run_without_a_plan_says_what_its_engine_says(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.fails = failing(4)
    with pytest.raises(OutOfMemory, match="the rest of the sentence"):
        run(tmp_path / "run", engine=engine)


def test_a_time_budgets_trial_steps_down_too(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.fails = failing(1)
    run(tmp_path / "run", "training.time_budget_hours=1", engine=engine, memory=planned(MEMORY, DISK))
    assert engine.used[:2] == [str(MEMORY), str(DISK)] and str(MEMORY) not in engine.used[1:]
