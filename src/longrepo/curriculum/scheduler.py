"""`LongContextPhaseScheduler`: the guide's class, for use from one's own training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longrepo.config.combinations import impossible_combinations
from longrepo.config.keys import dotted, path_of
from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.context.recorded import said
from longrepo.curriculum.phases import Phase, Schedule, phases_from
from longrepo.errors import InputError
from longrepo.sequences.sequence import LongContextSequence


class LongContextPhaseScheduler:
    """Which phase an epoch lies in, which sequences it takes, and at which learning rate.

    `training_config` is a Settings, a mapping with the sections of `training_config.yaml`, or a path to such a file.
    Epochs are counted from 1. Raises InputError where the settings can't be used.
    """

    def __init__(self, training_config: Settings | Mapping[str, Any] | str | Path) -> None:
        self.settings = _settings(training_config)
        self.schedule = Schedule(phases_from(self.settings))

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.schedule.phases

    @property
    def total_epochs(self) -> int:
        return self.schedule.epochs

    def get_phase_at_epoch(self, epoch: int) -> Phase:
        """The phase of a global epoch. Raises ValueError outside 1..total_epochs."""
        return self.schedule.at(epoch)

    def should_include_sequence(
        self, sequence_or_length: LongContextSequence | int, epoch: int, difficulty: str | None = None
    ) -> bool:
        """Whether the epoch's phase takes this sequence: its length lies within the phase, and, only with
        `long_context.strict_difficulty`, its difficulty within the phase's bands (where a difficulty is known)."""
        phase = self.get_phase_at_epoch(epoch)
        if isinstance(sequence_or_length, int):
            length = sequence_or_length
        else:
            length = len(sequence_or_length)
            difficulty = difficulty or getattr(sequence_or_length, "metadata", {}).get("curriculum_difficulty")
        if not phase.takes(length):
            return False
        return not self.settings.long_context.strict_difficulty or difficulty is None or difficulty in phase.bands

    def adjust_learning_rate(self, optimizer: Any, base_lr: float, epoch: int) -> float:
        """Set `lr` in each of `optimizer.param_groups` to base × the phase's multiplier, and return it."""
        rate = base_lr * self.get_phase_at_epoch(epoch).lr_multiplier
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def log_phase_summary(
        self, epoch: int, included: Mapping[str, int] | None = None, log: Callable[[str], None] = print
    ) -> str:
        """Log one line on the epoch's phase (and how many sequences of each difficulty it includes); return it."""
        line = phase_summary(self.schedule, self.get_phase_at_epoch(epoch), self.settings, included)
        log(line)
        return line


def phase_summary(
    schedule: Schedule, phase: Phase, settings: Settings, included: Mapping[str, int] | None = None
) -> str:
    """One line: the phase, its epochs, lengths and learning rate, and the counts given by difficulty."""
    first = schedule.epochs_before(phase.number) + 1
    rate = settings.training.base_learning_rate * phase.lr_multiplier
    line = (
        f"phase {phase.number} (epochs {first}-{first + phase.epochs - 1}): sequences of {phase.above + 1}-"
        f"{phase.max_length} tokens, learning rate {rate:.2e} ({phase.lr_multiplier:g} x base)"
    )
    if phase.context != settings.context:
        line += f", positions: {said(phase.context)}"
    if included is not None:
        counts = ", ".join(f"{count} {name}" for name, count in included.items())
        line += f"; {sum(included.values())} sequences ({counts})"
    return line


def _settings(given: Settings | Mapping[str, Any] | str | Path) -> Settings:
    if isinstance(given, Settings):
        return given
    if isinstance(given, str | Path):
        return load_settings(Path(given))
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        problems = [f"{dotted(path_of(one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InputError("in the training configuration: " + "; ".join(problems)) from None
    for key, problem in impossible_combinations(settings):
        raise InputError(f"in the training configuration: {key}: {problem}")
    return settings
