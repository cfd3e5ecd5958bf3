"""The guard, on sensors and a clock that a test sets."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from longrepo.memory import guard as module
from longrepo.memory.budget import (
    GIB,
    AvailableMemory,
    MachineSensors,
    MemoryPressure,
    MemorySample,
    read_pressure,
    swap_used,
    sysctl_int,
)
from longrepo.memory.guard import MemoryGuard

CALM = MemorySample(resident=3 * GIB, anonymous=2 * GIB, swap=0, pressure=MemoryPressure())
STRAINED = MemorySample(3 * GIB, 2 * GIB, 0, MemoryPressure(some=60, full=30))


class Bench:
    """A guard with a plan of 4 GiB under a firm limit of 5, and everything around it."""

    def __init__(self, budget: int | None = None) -> None:
        self.now = 0.0
        self.reading = CALM
        self.there = AvailableMemory(5 * GIB, "left in this cgroup", enforced=True, limit=5 * GIB)
        self.peak = GIB
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.later: dict[float, Any] = {}  # second -> the reading or room from then on
        self.guard = MemoryGuard(
            "cpu", budget, lambda: self.peak, self.events.append, lambda: self.now, self.sleep, self
        )
        self.guard.planned = 4 * GIB

    def sample(self) -> MemorySample:
        return self.reading

    def room(self) -> AvailableMemory:
        return self.there

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for second, value in self.later.items():
            if self.now >= second:
                self.set(value)

    def set(self, value: MemorySample | AvailableMemory) -> None:
        if isinstance(value, AvailableMemory):
            self.there = value
        else:
            self.reading = value

    def act(self) -> str:
        self.now += 5
        return self.guard.boundary().action

    def wait(self, stop: bool = False) -> bool:
        return self.guard.wait_for_memory(self.said.append, lambda: stop)


def free(size: float) -> AvailableMemory:
    """So much free memory on a machine that others use, too."""
    return AvailableMemory(int(size * GIB), "free memory", enforced=False, limit=24 * GIB)


def limited(size: float) -> AvailableMemory:
    return AvailableMemory(int(size * GIB), "left in this cgroup", enforced=True, limit=int(size * GIB))


def test_within_the_plan_it_goes_on_and_says_what_room_there_is() -> None:
    verdict = Bench().guard.boundary()
    assert (verdict.action, verdict.room) == ("go", 5 * GIB)


def test_a_limit_that_shrinks_below_the_plan_steps_down_at_once() -> None:
    bench = Bench()
    assert bench.act() == "go"
    bench.there = limited(3.5)
    verdict = bench.guard.boundary()
    assert verdict.action == "step_down" and verdict.room == int(3.5 * GIB)
    assert verdict.reason == "4.00 GiB planned, 3.50 GiB there (left in this cgroup)"
    assert bench.events == [
        {"event": "limit", "bytes": int(3.5 * GIB), "was": 5 * GIB, "source": "left in this cgroup"}
    ]
    bench.guard.planned = 3 * GIB
    assert bench.act() == "go"
    bench.there = limited(6)
    assert bench.act() == "go"
    assert [event["bytes"] for event in bench.events] == [int(3.5 * GIB), 6 * GIB]


def test_a_set_budget_is_held_whatever_else_is_free() -> None:
    bench = Bench(budget=3 * GIB)
    verdict = bench.guard.boundary()
    assert (verdict.action, verdict.room) == ("step_down", 3 * GIB)
    assert "memory.budget_gb" in verdict.reason


def test_memory_that_others_took_is_waited_for_then_done_without() -> None:
    bench = Bench()
    bench.there = free(3)
    assert bench.act() == "pause"
    began = bench.now
    assert not bench.wait()
    assert bench.now - began == pytest.approx(600)
    assert bench.said[0].startswith("paused: 4.00 GiB planned, 3.00 GiB there (free memory)")
    assert len(bench.said) == 12 and "still paused after 9 min" in bench.said[9]
    assert bench.said[-1].startswith("going on after 600 s, although")
    assert [event["event"] for event in bench.events] == ["pause", "resume"]
    assert bench.act() == "step_down"


def test_it_goes_on_as_soon_as_memory_is_free() -> None:
    bench = Bench()
    bench.there = free(3)
    assert bench.act() == "pause"
    bench.later = {bench.now + 42: free(8)}
    assert bench.wait()
    assert bench.said[-1] == "going on after 42 s"
    assert bench.events[-1] == {"event": "resume", "seconds": 42.0, "relieved": True}
    assert bench.act() == "go"


def test_a_little_less_free_memory_than_planned_is_nothing() -> None:
    bench = Bench()
    bench.there = free(3.9)
    assert bench.act() == "go"
    bench.there = limited(3.9)
    assert bench.act() == "step_down"


def test_pressure_of_others_pauses_and_never_steps_down() -> None:
    bench = Bench()
    bench.reading = STRAINED
    bench.now += 10
    assert bench.act() == "pause"
    assert not bench.wait()
    for _ in range(300):
        assert bench.act() == "go", "it has waited in vain: no more pauses"
    bench.reading = CALM
    bench.now += 10
    assert bench.act() == "go"
    bench.reading = STRAINED
    bench.now += 10
    assert bench.act() == "pause", "after a calm time it waits again"


def test_at_least_half_of_the_time_goes_to_work() -> None:
    bench = Bench()
    waited = 0.0
    for _ in range(400):
        bench.reading = STRAINED
        if bench.act() == "pause":
            began = bench.now
            bench.later = {bench.now + 90: CALM}
            assert bench.wait()
            bench.later = {}
            waited += bench.now - began
    assert 0 < waited <= bench.now / 2 + 90


def test_a_cgroup_at_its_own_limit_is_not_others_doing() -> None:
    assert MemoryPressure(full=50).high
    assert not MemoryPressure(full=50, cgroup=0.99).high
    bench = Bench()
    bench.reading = MemorySample(3 * GIB, 2 * GIB, 0, MemoryPressure(some=90, full=80, cgroup=0.99))
    assert bench.act() == "go"


def test_on_a_mac_critical_pauses_and_a_warning_only_with_growing_swap() -> None:
    bench = Bench()
    bench.reading = MemorySample(3 * GIB, 3 * GIB, 0, MemoryPressure(level=2))
    assert bench.act() == "go"
    bench.reading = MemorySample(3 * GIB, 3 * GIB, GIB, MemoryPressure(level=2))
    bench.now += 10
    assert bench.act() == "pause"
    assert bench.wait(), "it no longer grows"
    bench.now += 100
    bench.reading = MemorySample(3 * GIB, 3 * GIB, GIB, MemoryPressure(level=4))
    assert bench.act() == "pause"
    assert "macOS says critical" in bench.guard.boundary().reason


def test_ctrl_c_ends_a_pause() -> None:
    bench = Bench()
    bench.there = free(1)
    assert bench.act() == "pause"
    began = bench.now
    assert not bench.wait(stop=True)
    assert bench.now - began <= 1 and len(bench.said) == 1


def test_samples_of_an_update_are_one_record() -> None:
    bench = Bench()
    assert bench.guard.take() == {}
    bench.guard.sample()
    bench.reading, bench.peak = MemorySample(4 * GIB, GIB, 700, MemoryPressure(some=5, full=1)), 2 * GIB
    bench.guard.sample()
    bench.reading, bench.peak = MemorySample(GIB, GIB, 900, MemoryPressure(some=2)), GIB
    bench.guard.sample()
    assert bench.guard.take() == {
        "peak": 2 * GIB,
        "resident": 4 * GIB,
        "anonymous": 2 * GIB,
        "pressure_some": 5,
        "pressure_full": 1,
        "pressure_level": 1,
        "cgroup_used": 0,
        "swap": 900,
        "swap_growth": 900,
        "samples": 3,
    }
    assert bench.guard.take() == {}


def test_a_slow_machine_is_said_once_and_so_is_its_recovery() -> None:
    bench = Bench()
    said = [bench.guard.step(2000, 10, 2048) for _ in range(20)]
    assert not any(said)
    said = [bench.guard.step(2000, 20, 2048) for _ in range(30)]
    assert [text for text in said if text] == ["slow: 50% of the usual speed at 2,048 tokens (heat, or other programs)"]
    assert bench.guard.take()["speed_of_usual"] == 0.5
    said = [bench.guard.step(2000, 10, 2048) for _ in range(10)]
    assert [text for text in said if text] == ["as fast as usual again at 2,048 tokens"]
    assert [event["event"] for event in bench.events] == ["slow", "usual_speed"]


def test_lengths_and_methods_have_speeds_of_their_own() -> None:
    bench = Bench()
    for _ in range(30):
        bench.guard.step(1000, 1, 1000)
    assert not any(bench.guard.step(2000, 10, 2000) for _ in range(30)), "longer sequences are slower by nature"
    bench.guard.planned = 2 * GIB
    assert not any(bench.guard.step(1000, 9, 1000) for _ in range(30)), "another method is, too"
    assert not bench.events


def test_its_thread_samples_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_SECONDS", 0.001)
    bench, seen = Bench(), threading.Event()

    def sample() -> MemorySample:
        seen.set()
        return CALM

    monkeypatch.setattr(bench, "sample", sample)
    with bench.guard:
        assert seen.wait(10)
    assert "memory-guard" not in {thread.name for thread in threading.enumerate()}
    assert bench.guard.take()["samples"] >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="files of Linux")
def test_this_machine_can_be_read() -> None:
    sensors = MachineSensors("cpu")
    sample = sensors.sample()
    assert 0 < sample.anonymous < sample.resident < sensors.room().limit
    assert swap_used() >= 0 and 0 <= read_pressure().full <= 100
    assert sysctl_int("kern.memorystatus_vm_pressure_level") is None
