"""Plan what a run trains on, and check it before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from longrepo.config.loader import settings_hash
from longrepo.config.schema import Settings
from longrepo.curriculum.sampler import (
    EpochOrder,
    SequenceCatalog,
    SequenceSource,
    count_updates,
    epoch_order,
    limit_updates,
    read_catalog,
)
from longrepo.curriculum.schedule import Phase, Schedule, make_schedule
from longrepo.errors import InputError
from longrepo.memory.disk_writes import PhaseWork
from longrepo.training.state import RunIdentity, TrainingState
from longrepo.training.validation import ValidationSet, make_validation_set, with_validation_split


@dataclass(frozen=True)
class RunStart:
    """Where a run begins: `new`; `resume`, exactly where a checkpoint was saved; or `checkpoint`, a new run with a
    checkpoint's weights and place and a fresh optimizer. `settings`: the merged ones, after comparing with the
    checkpoint's."""

    kind: Literal["new", "resume", "checkpoint"]
    settings: Settings
    state: TrainingState | None = None
    checkpoint: Path | None = None
    notes: tuple[str, ...] = ()
    epochs: int | None = None  # of --epochs
    identity: RunIdentity | None = None  # of the resumed run


@dataclass(frozen=True)
class PhaseSchedule:
    """A phase with the order of each of its epochs and how many updates each takes."""

    phase: Phase
    orders: tuple[EpochOrder, ...]
    updates: tuple[int, ...]

    def updates_before(self, epoch_in_phase: int) -> int:
        return sum(self.updates[: epoch_in_phase - 1])


@dataclass(frozen=True)
class TrainingPlan:
    """What to train and from where: everything that is settled before an engine is loaded."""

    start: RunStart
    source: SequenceSource
    catalog: SequenceCatalog
    schedule: Schedule
    state: TrainingState
    sequences: str
    tokenizer_sha256: str | None
    notes: tuple[str, ...]

    @property
    def settings(self) -> Settings:
        return self.start.settings

    def with_settings(self, settings: Settings) -> TrainingPlan:
        """Return the plan with settings that say the same, with names in the place of `auto`."""
        return replace(self, start=replace(self.start, settings=settings))

    def phases_ahead(self) -> list[Phase]:
        """The phases that are going to run, the one in progress included."""
        return [self.schedule.phase(number) for number in remaining_epochs(self.state, self.schedule)]

    def validation(self, number: int) -> ValidationSet:
        """The validation set of a phase: the same for all phases at its positions. Raises InputError if it is empty."""
        return make_validation_set(self.catalog, self.schedule.same_positions(number), self.settings)

    def phase_plan(self, schedule: Schedule, number: int) -> PhaseSchedule:
        phase = schedule.phase(number)
        orders = [epoch_order(self.catalog, phase, n, self.settings) for n in range(1, phase.epochs + 1)]
        limit = self.settings.training.max_updates
        if limit is not None and orders:
            left = limit - sum(count_updates(order, self.settings) for order in orders[:-1])
            orders[-1] = limit_updates(orders[-1], left, self.catalog, phase, self.settings)
        return PhaseSchedule(phase, tuple(orders), tuple(count_updates(order, self.settings) for order in orders))

    def work_ahead(self) -> dict[int, PhaseWork]:
        """Count, for each phase that is going to run, the tokens to train on and the checkpoints to write."""
        phases = {
            number: self.phase_plan(self.schedule, number) for number in remaining_epochs(self.state, self.schedule)
        }
        tokens, every = (
            tokens_left(self.state, self.schedule, phases.__getitem__),
            self.settings.training.save_every_steps,
        )
        return {
            number: PhaseWork(tokens[number], sum(1 + (updates // every if every else 0) for updates in of.updates))
            for number, of in phases.items()
        }

    def identity(self, engine: str, versions: Mapping[str, str]) -> RunIdentity:
        settings = self.settings
        return RunIdentity(
            settings=settings.model_dump(mode="json"),
            settings_hashes={name: settings_hash(getattr(settings, name)) for name in type(settings).model_fields},
            sequences=self.sequences,
            data_sha256=self.source.content_sha256,
            tokenizer_sha256=self.tokenizer_sha256,
            engine=engine,
            versions=dict(versions),
        )


def make_plan(
    start: RunStart, source: SequenceSource, sequences: str, tokenizer_sha256: str | None = None
) -> TrainingPlan:
    """Assign sequences to phases, fix the validation set and the place to begin.

    Raises InputError if an epoch that is going to run has no sequences, or nothing is left to train.
    """
    settings = start.settings
    schedule = Schedule(make_schedule(settings))
    notes = list(start.notes)
    state = start.state or TrainingState(schedule={})
    catalog, held_out = with_validation_split(read_catalog(source), schedule)
    by_time_budget = start.kind == "resume" and state.schedule_from == "time budget"
    if not by_time_budget:
        _check_position(start, state, schedule)
    schedule = _limit_updates(schedule, catalog, settings)
    if by_time_budget:
        schedule = schedule.with_epochs({int(number): epochs for number, epochs in state.schedule.items()})
        schedule = schedule.with_max_tokens(state.max_tokens_per_epoch)
    if not _has_nothing_to_train(state, schedule):
        state.resume_in(schedule)
    state.schedule = epochs_by_phase(schedule)
    if start.epochs is not None:
        state.epochs_left = start.epochs
    if start.kind != "resume" and state.ended:
        raise InputError(
            f"{start.checkpoint} stands at the end of the schedule ({schedule.epochs} epochs): enable another phase "
            "(long_context.phase3_enabled=true, long_context.further_phases) or give a phase more epochs"
        )
    notes += [held_out] if held_out else []
    too_long = len(catalog.indices("train", above=schedule.phases[-1].max_length))
    if too_long:
        notes.append(
            f"{too_long} sequences are longer than the last phase's {schedule.phases[-1].max_length} tokens: left out"
        )
    ahead = remaining_epochs(state, schedule)
    if start.epochs is not None and sum(ahead.values()) < start.epochs:
        notes.append(f"--epochs {start.epochs}: the schedule has {sum(ahead.values())} left, and those are trained")
    if start.kind != "new" and start.epochs is not None:
        notes += _unreached_phases(start.epochs, state, schedule, ahead)
    for number in ahead:
        _check_has_data(schedule, schedule.phase(number), catalog, settings)
    plan = TrainingPlan(start, source, catalog, schedule, state, sequences, tokenizer_sha256, tuple(notes))
    for number in ahead:
        plan.validation(number)
    return plan


def _check_position(start: RunStart, state: TrainingState, schedule: Schedule) -> None:
    """Raise InputError if the settings lack the phase or epoch that the checkpoint was saved in."""
    in_progress = state.position > 0
    number, epoch = (state.phase, state.epoch_in_phase) if in_progress else (state.done_phase, state.done_epoch)
    if number == 0 or state.ended:
        return
    place = f"{start.checkpoint} was saved {'in' if in_progress else 'after'} epoch {epoch} of phase {number}"
    if not schedule.has(number):
        enabled = "long_context.phase3_enabled=true" if number == 3 else "that long_context.further_phases again"
        raise InputError(f"{place}, a phase that the settings don't have: set {enabled}, or give another checkpoint")
    phase = schedule.phase(number)
    if epoch > phase.epochs and not state.stopped_early:
        raise InputError(
            f"{place}, and the settings give that phase {phase.epochs} epochs: set {phase.given.setting('epochs')}="
            f"{epoch} or more, or give an earlier checkpoint"
        )


def _unreached_phases(epochs: int, state: TrainingState, schedule: Schedule, ahead: Mapping[int, int]) -> list[str]:
    """Say which of the following phases `--epochs` ends before; empty if it reaches the last."""
    everything = remaining_epochs(replace(state, epochs_left=None), schedule)
    missed = [number for number in everything if number not in ahead]
    if not missed:
        return []
    last = max(ahead)
    needed = sum(count for number, count in everything.items() if number < missed[0]) + 1
    listed = " and ".join(f"phase {number}" for number in missed)
    return [f"--epochs {epochs} ends in phase {last}, before {listed} of the settings: give --epochs {needed} or more"]


def _limit_updates(schedule: Schedule, catalog: SequenceCatalog, settings: Settings) -> Schedule:
    """Drop the epochs that begin after `training.max_updates` of their phase."""
    limit = settings.training.max_updates
    if limit is None:
        return schedule
    needed = {}
    for phase in schedule.phases:
        updates = epochs = 0
        while epochs < phase.epochs and updates < limit:
            epochs += 1
            in_epoch = count_updates(epoch_order(catalog, phase, epochs, settings), settings)
            updates += in_epoch
            if not in_epoch:  # no data: reported by _check_has_data
                break
        needed[phase.number] = epochs
    return schedule.with_epochs(needed)


def _has_nothing_to_train(state: TrainingState, schedule: Schedule) -> bool:
    """Whether a run that reached its end has nothing new to do: the same epochs, and no phase forced past its gate."""
    forced = any(str(phase.number) in state.verdicts and not phase.gated for phase in schedule.phases)
    return state.ended and state.schedule == epochs_by_phase(schedule) and not forced


def epochs_by_phase(schedule: Schedule) -> dict[str, int]:
    return {str(phase.number): phase.epochs for phase in schedule.phases}


def remaining_epochs(state: TrainingState, schedule: Schedule) -> dict[int, int]:
    """Count the epochs of each phase that are going to run, within `--epochs`, the one in progress included."""
    if state.ended:
        return {}
    left = state.epochs_left if state.epochs_left is not None else schedule.epochs
    ahead: dict[int, int] = {}
    for phase in schedule.phases:
        if phase.number >= state.phase:
            done = state.epoch_in_phase - 1 if phase.number == state.phase else 0
            epochs = min(left, phase.epochs - done)
            if epochs > 0:
                ahead[phase.number] = epochs
                left -= epochs
    return ahead


def tokens_left(state: TrainingState, schedule: Schedule, phase_plan: Callable[[int], PhaseSchedule]) -> dict[int, int]:
    """Count the tokens to train on by phase, within `--epochs`."""
    left = {}
    for number, epochs in remaining_epochs(state, schedule).items():
        first = state.epoch_in_phase - 1 if number == state.phase else 0
        orders = phase_plan(number).orders[first : first + epochs]
        done = state.so_far.tokens if number == state.phase else 0
        left[number] = max(0, sum(order.tokens for order in orders) - done)
    return left


def _check_has_data(schedule: Schedule, phase: Phase, catalog: SequenceCatalog, settings: Settings) -> None:
    order = epoch_order(catalog, phase, 1, settings)
    if len(order.indices) > order.replayed:
        return
    first = schedule.epochs_before(phase.number) + 1
    what = f"phase {phase.number} (epochs {first}-{first + phase.epochs - 1}) has no training sequence"
    if order.left_out["difficulty"]:
        raise InputError(
            f"{what} of difficulty {' or '.join(phase.bands)}, and long_context.strict_difficulty leaves out the "
            f"{order.left_out['difficulty']} others: set it to false"
        )
    raise InputError(
        f"{what} of {phase.above + 1}-{phase.max_length} tokens: build sequences with --sequence-length "
        f"{phase.max_length}, or set {phase.given.off}"
    )
