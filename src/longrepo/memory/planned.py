"""A plan's parts: methods with what they need, each phase's choice, and the run's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.context.change import OWN
from longrepo.context.recorded import said
from longrepo.engines.method import Method
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.estimate import StepMemory


@dataclass(frozen=True)
class Planned:
    """A method for sequences of `length` tokens. What it needs is found when it is first asked for: seconds where it
    was never dry-run before. `overhead`: bytes of the process beside its tensors. `seconds`: of one micro-batch."""

    method: Method
    length: int
    estimate: Callable[[Method, int], StepMemory]
    overhead: int = 0
    time: Callable[[Method, int], float | None] = lambda method, length: None

    @cached_property
    def memory(self) -> StepMemory:
        return self.estimate(self.method, self.length)

    @property
    def peak(self) -> int:
        """Bytes, as the budget counts them: tensors and, where the whole process is counted, its overhead."""
        return self.memory.peak + self.overhead

    @property
    def disk_held(self) -> int:
        return self.memory.disk_held

    @property
    def disk_written(self) -> int:
        """Bytes of one micro-batch."""
        return self.memory.disk_written

    @cached_property
    def seconds(self) -> float | None:
        return self.time(self.method, self.length)

    def fits(self, budget: int, disk: int) -> bool:
        return self.peak <= budget and self.disk_held <= disk

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method.as_dict(),
            "length": self.length,
            "peak": self.peak,
            "overhead": self.overhead,
            "parts": self.memory.as_dict(),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class PhasePlan:
    """`rungs`: every method there is, from the cheapest in time to the leanest; `chosen`: the first that fits, at the
    positions of `context`."""

    number: int
    rungs: tuple[Planned, ...]
    chosen: Planned
    context: ContextSettings = OWN

    def as_dict(self) -> dict[str, Any]:
        return self.chosen.as_dict() | {"context": self.context.model_dump(mode="json", exclude_defaults=True)}

    def line(self, budget: Budget) -> str:
        chosen = self.chosen
        where = "" if self.context == OWN else f", positions {said(self.context)}"
        disk = f", {chosen.disk_held / GIB:.1f} GiB on disk" if chosen.disk_held else ""
        return (
            f"memory: phase {self.number} ({chosen.length:,} tokens{where}) needs {chosen.peak / GIB:.2f} GiB of "
            f"{budget.bytes / GIB:.2f} GiB ({budget.reason}): {chosen.method}{disk}"
        )


@dataclass(frozen=True)
class RunPlan:
    """Phase number → its plan."""

    phases: Mapping[int, PhasePlan]
    budget: Budget
    device: str

    @property
    def peak(self) -> int:
        """Bytes of the phase that needs most; 0 where none is left."""
        return max((phase.chosen.peak for phase in self.phases.values()), default=0)

    @property
    def roomy(self) -> bool:
        """Whether it matters little what the process holds beside that."""
        return self.peak <= self.budget.bytes // 2

    def lines(self) -> Iterator[str]:
        """What to tell a person, one line a phase."""
        return (phase.line(self.budget) for phase in self.phases.values())

    def as_json(self) -> str:
        content = {
            "device": self.device,
            "budget": asdict(self.budget),
            "phases": {str(number): phase.as_dict() for number, phase in self.phases.items()},
        }
        return json.dumps(content, indent=2) + "\n"
