"""The phases of a curriculum: which lengths, for how many epochs, at which learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from longrepo.config.schema import Settings

BANDS = {1: ("easy", "medium"), 2: ("medium", "hard"), 3: ("hard", "very_hard")}


@dataclass(frozen=True)
class Phase:
    """One phase. `min_length` is what sequences are filled towards when built; a phase *takes* every sequence longer
    than `above`, the cap of the phase before it, and of at most `max_length` tokens: caps touch, so that no length
    falls between two phases."""

    number: int
    min_length: int
    max_length: int
    epochs: int
    lr_multiplier: float
    bands: tuple[str, ...]
    above: int = 0

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
    """Phases 1 and 2, and phase 3 unless `long_context.phase3_enabled` is false (`auto` decides after phase 2)."""
    given = settings.long_context
    phases = [
        Phase(1, given.phase1_min_length, given.phase1_max_length, given.phase1_epochs, given.phase1_lr_multiplier,
              BANDS[1]),
        Phase(2, given.phase2_min_length, given.phase2_max_length, given.phase2_epochs, given.phase2_lr_multiplier,
              BANDS[2], given.phase1_max_length),
    ]  # fmt: skip
    if given.phase3_enabled is not False:
        phases.append(
            Phase(3, given.phase3_min_length, given.phase3_max_length, given.phase3_epochs,
                  given.phase3_lr_multiplier, BANDS[3], given.phase2_max_length)
        )  # fmt: skip
    return tuple(phases)
