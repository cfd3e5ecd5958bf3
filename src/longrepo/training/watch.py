"""What a run is given to stay within its memory: each phase's rungs, and a guard that watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from longrepo.memory.budget import GIB
from longrepo.memory.guard import Guard, Verdict
from longrepo.memory.ladder import Ladder
from longrepo.memory.planned import RunPlan
from longrepo.memory.planner import Planner
from longrepo.memory.pressure import MAC_CRITICAL, MachineSensors, Sample, Sensors

Event = dict[str, Any]


class Watch(AbstractContextManager[Any], Protocol):
    """What the loop asks of a guard; see `longrepo.memory.guard.Guard`."""

    planned: int

    def boundary(self) -> Verdict: ...

    def step(self, tokens: int, seconds: float, length: int) -> str | None: ...

    def take(self) -> Event: ...

    def wait_out(self, say: Callable[[str], None], stop: Callable[[], bool]) -> bool: ...


class Unwatched:
    """No guard: always go on."""

    planned = 0

    def boundary(self) -> Verdict:
        return Verdict("go", "", 0)

    def step(self, tokens: int, seconds: float, length: int) -> str | None:
        return None

    def take(self) -> Event:
        return {}

    def wait_out(self, say: Callable[[str], None], stop: Callable[[], bool]) -> bool:
        return True

    def __enter__(self) -> Unwatched:
        return self

    def __exit__(self, *error: object) -> None:
        return None


# (where events go, where samples go) → the guard
MakeWatch = Callable[[Callable[[Event], None], Callable[[Event], None]], Watch]


@dataclass(frozen=True)
class RunMemory:
    """`ladders`: of each phase ahead; a phase without one runs as the engine stands. `shorter` plans a phase's
    sequences cut to a number of tokens, and `largest` names the LoRA modules to freeze first: both for
    `memory.allow_lossy`."""

    ladders: Mapping[int, Ladder] = field(default_factory=dict)
    shorter: Callable[[int, int], Ladder] | None = None  # (phase, tokens)
    largest: tuple[str, ...] = ()
    watch: MakeWatch = lambda write, note: Unwatched()


class NotedSensors:
    """Sensors whose samples are noted, so that a process that is killed leaves its last one behind."""

    def __init__(self, sensors: Sensors, read_peak: Callable[[], int], note: Callable[[Event], None]) -> None:
        self._sensors, self._read_peak, self._note = sensors, read_peak, note
        self.room = sensors.room

    def sample(self) -> Sample:
        sample = self._sensors.sample()
        critical = sample.pressure.level >= MAC_CRITICAL
        self._note({"used": self._read_peak(), "limit": self.room().limit, "critical": critical})
        return sample


def run_memory(planner: Planner, plan: RunPlan, read_peak: Callable[[], int]) -> RunMemory:
    """What a planned run is given: its rungs, and a guard over the machine's own sensors. `read_peak`: the engine's."""
    set_gb = planner.settings.memory.budget_gb
    budget = None if set_gb is None else int(set_gb * GIB)

    def shorter(phase: int, length: int) -> Ladder:
        rungs = planner.at(plan.phases[phase].context).rungs(length)
        # Not the plain step if there is another: the validation set, which isn't cut, is scored by it, too.
        first = next((rung for rung in rungs if rung.method.step == "chunked"), rungs[0])
        return Ladder(rungs, first, planner.disk)

    def watch(write: Callable[[Event], None], note: Callable[[Event], None]) -> Watch:
        sensors = NotedSensors(MachineSensors(plan.device), read_peak, note)
        return Guard(plan.device, budget, read_peak, write, sensors=sensors)

    return RunMemory(
        ladders={number: Ladder(phase.rungs, phase.chosen, planner.disk) for number, phase in plan.phases.items()},
        shorter=shorter,
        largest=largest(planner.shape.lora, _freezable(planner)),
        watch=watch,
    )


def _freezable(planner: Planner) -> tuple[str, ...]:
    """The modules whose weights are trained."""
    all_weights = planner.settings.training.weights == "all"
    return tuple(planner.shape.lora) if all_weights else planner.settings.lora.target_modules


def largest(sizes: Mapping[str, int], targets: Sequence[str]) -> tuple[str, ...]:
    """The modules with the most LoRA parameters: those of the MLP, where they are among the targets. None where
    nothing else would be left to train. `sizes`: in and out features by module name."""
    most = max((sizes[name] for name in targets), default=0)
    found = tuple(name for name in targets if sizes[name] == most)
    return found if len(found) < len(targets) else ()
