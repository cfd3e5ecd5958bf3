"""The memory plan of a run: each phase's step against the budget, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, Budget, find_budget
from longrepo.memory.estimate import StepEstimate, estimate_step
from longrepo.memory.shape import read_shape


@dataclass(frozen=True)
class MemoryPlan:
    """Phase number → the estimate of its longest step."""

    phases: Mapping[int, StepEstimate]
    budget: Budget
    device: str

    def lines(self) -> Iterator[str]:
        """What to tell a person, one line a phase."""
        for number, step in self.phases.items():
            over = " — more than there is" if step.total > self.budget.bytes else ""
            yield (
                f"memory: phase {number} ({step.length:,} tokens) needs about {step.total / GIB:.2f} GiB of "
                f"{self.budget.bytes / GIB:.2f} GiB ({self.budget.reason}){over}"
            )

    def check(self) -> None:
        """Raise InputError for a phase above a budget that a person set. Above what is free now, `lines` warns: the
        machine may still give it (by swapping, or once other programs end)."""
        too_much = [number for number, step in self.phases.items() if step.total > self.budget.bytes]
        if not too_much or not self.budget.limit:
            return
        number = too_much[0]
        off = "phase3_enabled=false" if number == 3 else f"phase{number}_epochs=0"
        raise InputError(
            f"memory.budget_gb: phase {number} needs about {self.phases[number].total / GIB:.2f} GiB, the budget is "
            f"{self.budget.bytes / GIB:.2f} GiB ({self.budget.reason}): raise it, lower lora.r, or set "
            f"long_context.{off}"
        )

    def as_json(self) -> str:
        content = {
            "device": self.device,
            "budget": asdict(self.budget),
            "phases": {str(number): step.as_dict() for number, step in self.phases.items()},
        }
        return json.dumps(content, indent=2) + "\n"


def plan_memory(settings: Settings, lengths: Mapping[int, int], device: str, bytes_per_value: int) -> MemoryPlan:
    """Estimate each phase (number → longest sequence in tokens) on `mps`, `cuda` or `cpu`."""
    shape = read_shape(settings.model.name, settings.model.revision)
    estimates = {
        number: estimate_step(shape, settings, length, device, bytes_per_value) for number, length in lengths.items()
    }
    return MemoryPlan(estimates, find_budget(device, settings.memory.budget_gb), device)
