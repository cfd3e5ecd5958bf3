"""One process of a run; time budget.

`training.time_budget_hours`: fewer epochs where the schedule wouldn't fit, chosen from one timed step a phase.

A run in progress: what the loop's steps share, and the saving of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.curriculum.schedule import Phase, Schedule
from longrepo.engines.base import Engine
from longrepo.errors import OutOfMemory, RunError
from longrepo.memory.guard import GuardFactory
from longrepo.memory.planner import MemoryPlan
from longrepo.rope.apply import describe_context
from longrepo.training.batches import accumulation_groups, make_batch
from longrepo.training.checkpoint import OPTIMIZER, CheckpointFolder, RunFolder, trained_folder
from longrepo.training.crash import CrashMarker, CrashReport, Interrupt
from longrepo.training.events import MetricsFile, Reporter, Validation
from longrepo.training.plan import PhaseSchedule, TrainingPlan, epochs_by_phase, remaining_epochs
from longrepo.training.state import CheckpointSnapshot, RunIdentity, TrainingState
from longrepo.training.step_down import StepDown
from longrepo.training.validation import validate

FORWARD_SHARE = 1 / 3  # of a training step with gradient checkpointing (forward, forward again, backward: at least)


def schedule_within_budget(engine: Engine, plan: TrainingPlan, memory: StepDown, hours: float) -> tuple[Schedule, str]:
    """The plan's schedule with the epochs ahead scaled down to the budget, and a sentence on what was chosen."""
    ahead = remaining_epochs(plan.state, plan.schedule)
    cost = {number: _seconds_per_epoch(engine, plan, memory, number) for number in ahead}
    chosen, sentence = scale_epochs(ahead, cost, hours * 3600)
    done = {plan.state.phase: plan.state.epoch_in_phase - 1}
    totals = {number: done.get(number, 0) + epochs for number, epochs in chosen.items()}
    # With --epochs only what is going to run was timed; phases that are cut keep at most their configured epochs.
    fewer = {number: total for number, total in totals.items() if chosen[number] < ahead[number]}
    return plan.schedule.with_epochs(fewer), sentence


def scale_epochs(epochs: Mapping[int, int], seconds: Mapping[int, float], budget: float) -> tuple[dict[int, int], str]:
    """Scale the epochs of all phases down by one factor until they fit `budget` seconds, then give back what still
    fits, the phase that lost most first; at least 1 each, never more than configured. `seconds` is an epoch's cost."""
    total = sum(epochs[number] * seconds[number] for number in epochs)
    if total <= budget:
        return dict(
            epochs
        ), f"the schedule needs about {_format_hours(total)} of {_format_hours(budget)}: nothing is shortened"
    least = sum(seconds[number] for number in epochs)
    if least > budget:
        return dict.fromkeys(epochs, 1), (
            f"one epoch of each phase already needs about {_format_hours(least)}, more than the "
            f"{_format_hours(budget)} given: one "
            "each is trained; to stay within it set training.max_tokens_per_epoch"
        )
    chosen = {number: max(1, int(count * budget / total)) for number, count in epochs.items()}

    def cost() -> float:
        return sum(chosen[number] * seconds[number] for number in chosen)

    while cost() > budget:  # phases lifted to 1 took what others must give
        dearest = max((number for number in chosen if chosen[number] > 1), key=lambda number: seconds[number])
        chosen[dearest] -= 1
    while room := [n for n in chosen if chosen[n] < epochs[n] and cost() + seconds[n] <= budget]:
        chosen[min(room, key=lambda number: chosen[number] / epochs[number])] += 1
    counts = ", ".join(f"phase {number}: {chosen[number]} of {epochs[number]}" for number in chosen)
    return (
        chosen,
        f"epochs shortened to fit {_format_hours(budget)} (all would need about {_format_hours(total)}): {counts}",
    )


def _seconds_per_epoch(engine: Engine, plan: TrainingPlan, memory: StepDown, number: int) -> float:
    """One forward and backward of the phase's first micro-batch, timed the second time (the first also warms up),
    scaled by tokens to its epoch, and the validation after it. The gradients are dropped."""
    order = plan.phase_plan(plan.schedule, number).orders[0]
    indices = accumulation_groups(order.indices, plan.settings.training)[0][0]
    memory.enter(number)

    def per_token() -> float:
        batch = make_batch(plan.source, indices, engine.pad_id, memory.memory_state.max_length)
        for _ in range(2):
            began = time.perf_counter()
            engine.accumulate(batch, max(batch.weight, 1.0), 0)
            seconds = time.perf_counter() - began
            engine.drop_gradients()
        return seconds / int(batch.lengths.sum())

    groups = plan.validation(number).groups
    scored = sum(int(plan.catalog.lengths[index]) for group in groups.values() for index in group)
    return memory.run_with_fallback(per_token) * (order.tokens + FORWARD_SHARE * scored)


def _format_hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


@dataclass
class Session:
    """One process's share of a run."""

    engine: Engine
    plan: TrainingPlan
    schedule: Schedule
    state: TrainingState
    run: RunFolder
    checkpoints: CheckpointFolder
    metrics: MetricsFile
    reporter: Reporter
    interrupt: Interrupt
    identity: RunIdentity
    memory: StepDown
    crash: CrashReport | None = None  # of the process before
    other_engine: str | None = None  # the one the run was on before, where that was another
    saved: tuple[Any, ...] | None = None  # what the newest checkpoint holds, so that it isn't written twice
    _phase: PhaseSchedule | None = field(default=None, repr=False)
    _validated: tuple[int, ContextSettings, Validation] | None = None

    @property
    def epoch(self) -> int:
        """The global epoch in progress, from 1."""
        return self.schedule.epochs_before(self.state.phase) + self.state.epoch_in_phase

    def phase_plan(self) -> PhaseSchedule:
        """The plan of the phase in progress, made once."""
        if self._phase is None or self._phase.phase.number != self.state.phase:
            self._phase = self.plan.phase_plan(self.schedule, self.state.phase)
        return self._phase

    def validate(self) -> Validation | None:
        """The validation set's loss at the phase's positions, computed once for the same weights (a phase begins with
        those that the one before it ended with); None where Ctrl-C came."""
        context = self.schedule.phase(self.state.phase).context
        if self._validated and self._validated[:2] == (self.state.update, context):
            return self._validated[2]
        chosen = self.plan.validation(self.state.phase)

        def work() -> Validation | None:
            source, stop = self.plan.source, self.interrupt
            return validate(self.engine, source, chosen, self.reporter.validating, lambda: stop.requested)

        try:
            # A lossy step wouldn't help: the validation set is scored whole, and without gradients.
            validation = self.memory.run_with_fallback(work, lossy=False)
        except OutOfMemory:
            raise
        except RunError as error:
            raise self.non_finite_error(str(error)) from None
        self._validated = (self.state.update, context, validation) if validation else None
        return validation

    def reset_incomparable_best(self, validation: Validation) -> None:
        """Where the best was found at other positions, or on other lengths, than a phase that begins: set it aside."""
        best, phase = self.state.best, self.schedule.phase(self.state.phase)
        if best is None:
            return
        lengths = list(validation.by_length)
        if best.context != phase.positions:
            other = f"computes at other positions ({describe_context(phase.context)})"
        elif best.lengths and best.lengths != lengths:
            other = f"is validated on other lengths ({', '.join(lengths)} tokens)"
        else:
            return
        self.reporter.note(
            f"phase {phase.number} {other}: its losses don't compare with those before, and the best counts anew. "
            f"The best until here, {best.loss:.4f}, stays in {best.checkpoint}"
        )
        self.state.former_bests.append(best)
        self.state.best = None

    def save(self, phase_ended: Phase | None = None, best: bool = False) -> None:
        """Write a checkpoint of where the state stands now, and move the pointers."""
        wanted = f"phase-{phase_ended.number}" if phase_ended else f"step-{self.state.update:08d}"
        name = self.checkpoints.unused_name(wanted)
        if best and self.state.best:
            self.state.best.checkpoint = name
        self.metrics.sync()
        self.state.records = self.metrics.records
        folder = self.checkpoints.save(name, self.engine, CheckpointSnapshot(self.identity, self.state))
        self.saved = self._mark()
        self.reporter.saved(folder, best)

    def save_if_changed(self) -> None:
        if self.saved != self._mark():
            self.save()

    def non_finite_error(self, what: str) -> RunError:
        """The error that ends a run whose numbers aren't finite."""
        last = self.checkpoints.newest_intact()
        kept = f"{last} is whole" if last else "nothing was saved yet"
        return RunError(
            f"update {self.state.update + 1} (phase {self.state.phase}, epoch {self.epoch}): {what}; {kept}; resume it "
            "with a lower training.base_learning_rate or training.max_grad_norm"
        )

    def _mark(self) -> tuple[Any, ...]:
        state, learnt = self.state, self.state.memory
        memory = (learnt.ceiling, len(learnt.steps))
        return (
            memory,
            state.update,
            state.phase,
            state.epoch_in_phase,
            state.position,
            state.ended,
            self.metrics.records,
        )


def start_session(
    engine: Engine,
    plan: TrainingPlan,
    run: RunFolder,
    reporter: Reporter,
    interrupt: Interrupt,
    memory: MemoryPlan,
    make_guard: GuardFactory,
) -> Session:
    """Set up: weights and optimizer from the start's checkpoint, the run's records, what memory has taught it."""
    start, state = plan.start, plan.state
    for note in plan.notes:
        reporter.note(note)
    if start.checkpoint is not None:
        engine.load_adapter(start.checkpoint / trained_folder(plan.settings))
    if start.kind == "resume" and start.checkpoint is not None:
        engine.load_optimizer(start.checkpoint / OPTIMIZER)
    crash_marker = CrashMarker(run.path)
    crash = crash_marker.crash()
    if crash is not None:  # it may have learnt more than its last checkpoint says
        state.memory = crash.memory
    other_engine = None if start.identity is None else _compare_engines(start.identity, engine, state, reporter)
    if other_engine is not None:
        crash = None  # what it needed says nothing of what this engine will
    run.write_settings(plan.settings)
    identity = plan.identity(engine.name, engine.facts().get("versions", {}))
    metrics = MetricsFile(run.path, state.records, state.update, plan.settings.training.report_to)
    session = Session(
        engine=engine,
        plan=plan,
        schedule=plan.schedule,
        state=state,
        run=run,
        checkpoints=CheckpointFolder(run.path, plan.settings.training.keep_last, trained_folder(plan.settings)),
        metrics=metrics,
        reporter=reporter,
        interrupt=interrupt,
        identity=identity,
        memory=StepDown(
            engine,
            memory,
            state,
            plan.settings.memory,
            run.path,
            crash_marker,
            metrics,
            reporter,
            {phase.number: phase.context for phase in plan.schedule.phases},
            make_guard,
        ),
        crash=crash,
        other_engine=other_engine,
    )
    if start.kind == "resume" and start.checkpoint is not None:
        session.checkpoints.point_best(CheckpointSnapshot(identity, state))
        session.saved = session._mark()
    return session


def prepare_first_update(session: Session) -> None:
    """Before the first update: a rung lower after a kill for memory, losses as this engine scores them, epochs within
    the time budget, a checkpoint."""
    state, settings = session.state, session.plan.settings
    if session.crash is not None:
        session.memory.after(session.crash)
    if session.other_engine is not None:
        _rescale_losses(session)
    resuming = session.plan.start.kind == "resume"
    budget = settings.training.time_budget_hours
    if budget is not None and not (resuming and state.schedule_from == "time budget"):
        session.schedule, sentence = schedule_within_budget(session.engine, session.plan, session.memory, budget)
        state.schedule, state.schedule_from = epochs_by_phase(session.schedule), "time budget"
        session.reporter.note(sentence)
    if session.saved is None:
        session.memory.enter(state.phase)
        session.save()  # so that a kill before the first update resumes too, with the schedule that was chosen


def _compare_engines(former: RunIdentity, engine: Engine, state: TrainingState, reporter: Reporter) -> str | None:
    """Say what a resume on another engine or other versions means; the former engine's name where it was another."""
    if former.engine != engine.name:
        reporter.note(
            f"the run was on the {former.engine} engine, this is {engine.name}: its 4-bit base differs, so the best "
            "counts anew from here and the run differs from one that was never interrupted"
        )
        if not state.finished:  # nothing would come after it
            state.best = None
        state.memory = state.memory.for_other_engine()
        return former.engine
    if former.versions != (versions := engine.facts().get("versions", {})):
        changed = sorted(
            name for name in {*former.versions, *versions} if former.versions.get(name) != versions.get(name)
        )
        reporter.note(f"other versions of {', '.join(changed)} than before: the same bits aren't promised")
    return None


def _rescale_losses(session: Session) -> None:
    """Score the weights here, and the losses of the phase in progress in proportion: those that follow compare."""
    state = session.state
    losses = state.losses_of(state.phase)
    if state.finished:
        return
    if losses.last is not None:  # otherwise the phase begins, and is scored then
        session.memory.enter(state.phase)
        validation = session.validate()
        if validation is None:
            return
        session.reporter.note(
            f"validation loss of these weights on {session.engine.name}: {validation.loss:.4f}; on "
            f"{session.other_engine} it was last {losses.last:.4f}, and this phase's losses count in proportion"
        )
        state.losses[str(state.phase)] = losses.rescaled(validation.loss)
    session.saved = None  # from here on it is a run of this engine


def write_final_adapter(session: Session, save_tokenizer: Any) -> Path | None:
    """Write `adapter/` (or `model/`) from the best checkpoint; None where no epoch was validated."""
    best = session.state.best
    if best is None:
        return None
    trained = session.checkpoints.folder / best.checkpoint / session.checkpoints.trained
    return session.run.write_trained(trained, session.plan.settings.model.name, save_tokenizer)
