"""The phases of a curriculum: their lengths, epochs and learning rates, and when one may follow another.

The learning rate of an update is a pure function of its place in its phase. `judge_gate` and `should_stop_early` judge
validation losses. `LongContextPhaseScheduler` is the guide's class, for your own training loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longrepo.config.loader import dotted_key, error_path, find_impossible_combinations, load_settings
from longrepo.config.schema import ContextSettings, PhaseConfig, Settings, TrainingSettings, phase_list
from longrepo.data.sequence import DIFFICULTIES, LongContextSequence
from longrepo.errors import InputError
from longrepo.rope.apply import describe_context

DIFFICULTY_BANDS = (
    ("easy", "medium"),
    ("medium", "hard"),
    ("hard", "very_hard"),
)  # later phases have the last of these


@dataclass(frozen=True)
class Phase:
    """One phase. Sequences are built to hold at least `min_length` tokens if they can; a phase *takes* every sequence
    longer than `above`, the cap of the phase before it, and of at most `max_length` tokens: caps touch, so that no
    length falls between two phases. `context`: its positions; `replay_share`: the share of its tokens in shorter
    sequences; `gated`: it runs only if the phase before it converged; `shuffled`: its order is all chance; `given`: its
    settings; `max_tokens`: of each epoch, if a time budget allows fewer than there are."""

    number: int
    min_length: int
    max_length: int
    epochs: int
    lr_multiplier: float
    bands: tuple[str, ...]
    given: PhaseConfig
    context: ContextSettings
    replay_share: float
    gated: bool = False
    above: int = 0
    shuffled: bool = False
    max_tokens: int | None = None

    @property
    def positions(self) -> dict[str, Any]:
        """The settings of its `context` that aren't at their default, as JSON values."""
        return self.context.model_dump(mode="json", exclude_defaults=True)

    def takes(self, length: int) -> bool:
        """Whether a sequence of `length` tokens belongs to this phase."""
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
        """Return the phase before this one, None for the first."""
        return next((phase for phase in reversed(self.phases) if phase.number < number), None)

    def same_positions(self, number: int) -> Schedule:
        """Return the phases up to the last one after this one that has the same positions: losses on the sequences of
        all of them can be compared from phase to phase."""
        context, phases = self.phase(number).context, []
        for phase in self.phases:
            if phase.number > number and phase.context != context:
                break
            phases.append(phase)
        return Schedule(tuple(phases))

    def epochs_before(self, number: int) -> int:
        """Return the number of epochs in all phases before this one."""
        return sum(phase.epochs for phase in self.phases if phase.number < number)

    def following(self, number: int) -> Phase | None:
        """Return the next phase that has epochs; number 0 asks for the first."""
        return next((phase for phase in self.phases if phase.number > number and phase.epochs > 0), None)

    def at(self, epoch: int) -> Phase:
        """Return the phase of a global epoch. Raises ValueError outside 1..epochs."""
        if epoch < 1 or epoch > self.epochs:
            raise ValueError(f"epoch {epoch} is outside the schedule's epochs 1-{self.epochs}")
        return next(phase for phase in self.phases if epoch <= self.epochs_before(phase.number) + phase.epochs)

    def with_epochs(self, epochs: Mapping[int, int]) -> Schedule:
        """Return the same phases with other numbers of epochs."""
        return Schedule(tuple(replace(phase, epochs=epochs.get(phase.number, phase.epochs)) for phase in self.phases))

    def with_max_tokens(self, tokens: int | None) -> Schedule:
        """Return the same phases with epochs of at most `tokens` tokens."""
        return Schedule(tuple(replace(phase, max_tokens=tokens) for phase in self.phases))


def make_schedule(settings: Settings) -> tuple[Phase, ...]:
    """Return every phase that isn't off. A gated one (`auto`) is judged when the phase before it has ended. The one of
    the plain recipe takes all difficulties alike."""
    phases, above = [], 0
    plain = settings.data.recipe == "plain"
    for given in phase_list(settings):
        if given.enabled is not False:
            share = settings.data.replay_share if given.replay_share is None else given.replay_share
            bands = DIFFICULTIES if plain else DIFFICULTY_BANDS[min(given.number, len(DIFFICULTY_BANDS)) - 1]
            phases.append(
                Phase(
                    given.number, given.min_length, given.max_length, given.epochs, given.lr_multiplier,
                    bands, given, given.positions(settings.context), share, given.enabled == "auto", above, plain,
                )
            )  # fmt: skip
        above = given.max_length
    return tuple(phases)


MAX_RISE_ABOVE_BEST = (
    0.02  # a phase may end at most this share above its best: more is overfitting, which longer sequences won't cure
)


@dataclass(frozen=True)
class GateVerdict:
    go: bool
    reason: str


def judge_gate(before: int, start: float | None, epochs: Sequence[float], min_delta: float, phase: int) -> GateVerdict:
    """Apply the rule of `auto` to `phase`: the best validation loss of the phase `before` it must be at least the share
    `min_delta` below the loss at that phase's start, and its last epoch at most 2 % above that best. Losses in nats."""
    out = f"phase {phase} is left out: phase {before}"
    if start is None or not epochs:
        return GateVerdict(False, f"{out} wasn't trained, so there is nothing to judge it by")
    best, last = min(epochs), epochs[-1]
    fell = (start - best) / start if start > 0 else 0.0
    if fell < max(min_delta, 0.0) or best >= start:
        return GateVerdict(
            False,
            f"{out} brought the validation loss from {start:.4f} only to {best:.4f} ({fell:+.2%} below its start; "
            f"needed {min_delta:.2%})",
        )
    if last > best * (1 + MAX_RISE_ABOVE_BEST):
        return GateVerdict(
            False,
            f"{out} ended at {last:.4f}, {last / best - 1:.1%} above its best {best:.4f} (allowed "
            f"{MAX_RISE_ABOVE_BEST:.0%})",
        )
    return GateVerdict(
        True,
        f"phase {phase} follows: phase {before} brought the validation loss from {start:.4f} to {best:.4f} and ended "
        f"at {last:.4f}",
    )


def should_stop_early(losses: Sequence[float], patience: int, min_delta: float) -> bool:
    """Whether to stop a phase early: none of the last `patience` epochs was the share `min_delta` below the best epoch
    before them. Patience 0 never stops."""
    if patience == 0:
        return False
    best, waited = float("inf"), 0
    for loss in losses:
        if loss < best * (1 - min_delta):
            best, waited = loss, 0
        else:
            waited += 1
    return waited >= patience


def learning_rate_at(training: TrainingSettings, phase: Phase, update: int, updates: int) -> float:
    """Return the learning rate of an update: linear warm-up over `warmup_ratio` of the phase's updates, then half a
    cosine down to `final_learning_rate_ratio`, times base × multiplier. `update` counts from 0 to `updates` - 1.

    Every phase warms up again: its sequences are longer than any before, and the loss may spike at its start.
    """
    peak = training.base_learning_rate * phase.lr_multiplier
    warmup = math.ceil(training.warmup_ratio * updates)
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = min(1.0, (update - warmup + 1) / max(1, updates - warmup))
    final = training.final_learning_rate_ratio
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


class LongContextPhaseScheduler:
    """Tells the phase of an epoch, which sequences it takes, and its learning rate.

    `training_config` is a Settings, a mapping with the sections of `training_config.yaml`, or a path to such a file.
    Epochs are counted from 1. Raises InputError if the settings can't be used.
    """

    def __init__(self, training_config: Settings | Mapping[str, Any] | str | Path) -> None:
        self.settings = _read_settings(training_config)
        self.schedule = Schedule(make_schedule(self.settings))

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.schedule.phases

    @property
    def total_epochs(self) -> int:
        return self.schedule.epochs

    def get_phase_at_epoch(self, epoch: int) -> Phase:
        """Return the phase of a global epoch. Raises ValueError outside 1..total_epochs."""
        return self.schedule.at(epoch)

    def should_include_sequence(
        self, sequence_or_length: LongContextSequence | int, epoch: int, difficulty: str | None = None
    ) -> bool:
        """Whether the epoch's phase takes this sequence: its length is within the phase and, only with
        `long_context.strict_difficulty`, its difficulty (if known) within the phase's bands."""
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
        """Log one line about the epoch's phase, with the sequences it includes by difficulty if given; return it."""
        line = format_phase_summary(self.schedule, self.get_phase_at_epoch(epoch), self.settings, included)
        log(line)
        return line


def format_phase_summary(
    schedule: Schedule, phase: Phase, settings: Settings, included: Mapping[str, int] | None = None
) -> str:
    """Return one line: the phase, its epochs, lengths and learning rate, and the included sequences by difficulty."""
    first = schedule.epochs_before(phase.number) + 1
    rate = settings.training.base_learning_rate * phase.lr_multiplier
    line = (
        f"phase {phase.number} (epochs {first}-{first + phase.epochs - 1}): sequences of {phase.above + 1}-"
        f"{phase.max_length} tokens, learning rate {rate:.2e} ({phase.lr_multiplier:g} x base)"
    )
    if phase.context != settings.context:
        line += f", positions: {describe_context(phase.context)}"
    if included is not None:
        counts = ", ".join(f"{count} {name}" for name, count in included.items())
        line += f"; {sum(included.values())} sequences ({counts})"
    return line


def _read_settings(given: Settings | Mapping[str, Any] | str | Path) -> Settings:
    if isinstance(given, Settings):
        return given
    if isinstance(given, str | Path):
        return load_settings(Path(given))
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        problems = [f"{dotted_key(error_path(one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InputError("in the training configuration: " + "; ".join(problems)) from None
    for key, problem in find_impossible_combinations(settings):
        raise InputError(f"in the training configuration: {key}: {problem}")
    return settings
