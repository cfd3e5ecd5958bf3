"""The phases of a curriculum: which lengths, for how many epochs, at which learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from longrepo.config.phase_list import GivenPhase, phase_list
from longrepo.config.schema import ContextSettings, Settings

BANDS = (("easy", "medium"), ("medium", "hard"), ("hard", "very_hard"))  # the last of them for all phases after it


@dataclass(frozen=True)
class Phase:
    """One phase. `min_length` is what sequences are filled towards when built; a phase *takes* every sequence longer
    than `above`, the cap of the phase before it, and of at most `max_length` tokens: caps touch, so that no length
    falls between two phases. `context`: the positions it computes at; `replay_share`: of its tokens, shorter
    sequences; `gated`: it runs only if the phase before it converged; `given`: as it is set."""

    number: int
    min_length: int
    max_length: int
    epochs: int
    lr_multiplier: float
    bands: tuple[str, ...]
    given: GivenPhase
    context: ContextSettings
    replay_share: float
    gated: bool = False
    above: int = 0

    @property
    def positions(self) -> dict[str, Any]:
        """The settings of its `context` that aren't at their default, as JSON values."""
        return self.context.model_dump(mode="json", exclude_defaults=True)

    def takes(self, length: int) -> bool:
        """Whether a sequence of so many tokens belongs to this phase."""
        return self.above < length <= self.max_length


@dataclass(frozen=True)
class Schedule:
    """Phases one after another. Epochs are counted from 1 over all phases: 5 + 8 + 8 gives 1-5, 6-13 and 14-21."""

    phases: tuple[Phase, ...]

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase(self, number: int) -> Phase:
        return next(phase for phase in self.phases if phase.number == number)

    def has(self, number: int) -> bool:
        return any(phase.number == number for phase in self.phases)

    def before(self, number: int) -> Phase | None:
        """The phase before this one."""
        return next((phase for phase in reversed(self.phases) if phase.number < number), None)

    def comparable(self, number: int) -> Schedule:
        """The phases up to the last one that follows this one at the same positions: losses on the sequences of all
        these can be compared from phase to phase."""
        context, phases = self.phase(number).context, []
        for phase in self.phases:
            if phase.number > number and phase.context != context:
                break
            phases.append(phase)
        return Schedule(tuple(phases))

    def epochs_before(self, number: int) -> int:
        """Epochs of all phases before this one."""
        return sum(phase.epochs for phase in self.phases if phase.number < number)

    def following(self, number: int) -> Phase | None:
        """The next phase that has epochs; number 0 asks for the first."""
        return next((phase for phase in self.phases if phase.number > number and phase.epochs > 0), None)

    def at(self, epoch: int) -> Phase:
        """The phase of a global epoch. Raises ValueError outside 1..epochs."""
        if epoch < 1 or epoch > self.epochs:
            raise ValueError(f"epoch {epoch} is outside the schedule's epochs 1-{self.epochs}")
        return next(phase for phase in self.phases if epoch <= self.epochs_before(phase.number) + phase.epochs)

    def with_epochs(self, epochs: Mapping[int, int]) -> Schedule:
        """The same phases with other numbers of epochs."""
        return Schedule(tuple(replace(phase, epochs=epochs.get(phase.number, phase.epochs)) for phase in self.phases))


def phases_from(settings: Settings) -> tuple[Phase, ...]:
    """Every phase that isn't off. One that is gated (`auto`) is judged when the phase before it has ended."""
    phases, above = [], 0
    for given in phase_list(settings.long_context):
        if given.enabled is not False:
            share = settings.data.replay_share if given.replay_share is None else given.replay_share
            phases.append(
                Phase(
                    given.number, given.min_length, given.max_length, given.epochs, given.lr_multiplier,
                    BANDS[min(given.number, len(BANDS)) - 1], given, given.positions(settings.context), share,
                    given.enabled == "auto", above,
                )
            )  # fmt: skip
        above = given.max_length
    return tuple(phases)
