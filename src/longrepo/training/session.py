"""A running training process: what the loop's steps share, and how it is set up and saved."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings
from longrepo.curriculum.schedule import Phase, Schedule
from longrepo.engines.base import Engine
from longrepo.errors import OutOfMemory, RunError
from longrepo.memory.guard import GuardFactory
from longrepo.memory.planner import MemoryPlan
from longrepo.rope.apply import describe_context
from longrepo.training.checkpoint import OPTIMIZER, CheckpointFolder, RunFolder, trained_folder
from longrepo.training.crash import CrashMarker, CrashReport, Interrupt
from longrepo.training.events import MetricsFile, Reporter, Validation
from longrepo.training.plan import PhaseSchedule, TrainingPlan, epochs_by_phase
from longrepo.training.state import CheckpointSnapshot, RunIdentity, TrainingState
from longrepo.training.step_down import StepDown
from longrepo.training.time_left import ProgressEstimate, schedule_within_budget
from longrepo.training.validation import validate
from longrepo.utils.files import folder_bytes, write_text_file


@dataclass
class Session:
    """One process of a run, from setting up to its end."""

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
    crash: CrashReport | None = None  # of the previous process
    other_engine: str | None = None  # the engine the run was on before, if another
    saved: tuple[Any, ...] | None = None  # identifies the newest checkpoint, so that it isn't written twice
    _phase: PhaseSchedule | None = field(default=None, repr=False)
    _validated: tuple[int, ContextSettings, Validation] | None = None
    _progress: ProgressEstimate | None = field(default=None, repr=False)

    @property
    def epoch(self) -> int:
        """The global epoch in progress, from 1."""
        return self.schedule.epochs_before(self.state.phase) + self.state.epoch_in_phase

    def phase_plan(self) -> PhaseSchedule:
        """The schedule of the phase in progress, made once."""
        if self._phase is None or self._phase.phase.number != self.state.phase:
            self._phase = self.plan.phase_plan(self.schedule, self.state.phase)
        return self._phase

    @property
    def progress(self) -> ProgressEstimate:
        """The estimate of what is left, made once the schedule is final."""
        if self._progress is None:
            calibrated = self.memory.calibrated_speeds(self.plan.settings.training.batch_size_reference)
            self._progress = ProgressEstimate(self.plan, self.schedule, calibrated)
        return self._progress

    def validate(self) -> Validation | None:
        """Compute the validation loss at the phase's positions, once for the same weights (a phase begins with those of
        the previous one's end). Return None after Ctrl-C."""
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
        """Set the best checkpoint aside if it was scored at other positions or on other lengths than a new phase."""
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
            f"phase {phase.number} {other}: its losses aren't comparable with earlier ones, and the best is chosen "
            f"again. The best until here, {best.loss:.4f}, stays in {best.checkpoint}"
        )
        self.state.former_bests.append(best)
        self.state.best = None

    def save(self, phase_ended: Phase | None = None, best: bool = False) -> None:
        """Write a checkpoint of the current state, and move the pointers."""
        wanted = f"phase-{phase_ended.number}" if phase_ended else f"step-{self.state.update:08d}"
        name = self.checkpoints.unused_name(wanted)
        if best and self.state.best:
            self.state.best.checkpoint = name
        self.metrics.sync()
        self.state.records = self.metrics.records
        folder = self.checkpoints.save(name, self.engine, CheckpointSnapshot(self.identity, self.state))
        self.saved = self._mark()
        self.state.disk_written += folder_bytes(folder)
        self.reporter.saved(folder, best)

    def save_if_changed(self) -> None:
        if self.saved != self._mark():
            self.save()

    def non_finite_error(self, what: str) -> RunError:
        """Make the error that ends a run whose numbers aren't finite."""
        last = self.checkpoints.newest_intact()
        saved = f"{last} is intact" if last else "nothing was saved yet"
        return RunError(
            f"update {self.state.update + 1} (phase {self.state.phase}, epoch {self.epoch}): {what}; {saved}; resume "
            "it with a lower training.base_learning_rate or training.max_grad_norm"
        )

    def _mark(self) -> tuple[Any, ...]:
        state = self.state
        memory = (state.memory.ceiling, len(state.memory.steps))
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
    """Set up: weights and optimizer from the start's checkpoint, the run's records, its memory state."""
    start, state = plan.start, plan.state
    for note in plan.notes:
        reporter.note(note)
    if start.checkpoint is not None:
        engine.load_adapter(start.checkpoint / trained_folder(plan.settings))
    if start.kind == "resume" and start.checkpoint is not None:
        engine.load_optimizer(start.checkpoint / OPTIMIZER)
    crash_marker = CrashMarker(run.path)
    crash = crash_marker.crash()
    if crash is not None:  # it may have learned more than its last checkpoint says
        state.memory = crash.memory
    other_engine = None if start.identity is None else _compare_engines(start.identity, engine, state, reporter)
    if other_engine is not None:
        crash = None  # what it needed says nothing about this engine
    run.write_settings(plan.settings)
    if memory.phases:
        _write_memory_plan(run.path / "memory_plan.json", memory, plan, engine.name)
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


def _write_memory_plan(file: Path, memory: MemoryPlan, plan: TrainingPlan, engine: str) -> None:
    """Write what was planned, together with what a resumed run planned before."""
    former = None
    if plan.start.kind == "resume":
        with suppress(OSError, ValueError, KeyError, TypeError):  # a run whose plan is lost goes on without it
            content = json.loads(file.read_text(encoding="utf-8"))
            former = {"device": content["device"], "budget": content["budget"], "phases": dict(content["phases"])}
    identity = plan.start.identity
    same_engine = identity is not None and identity.engine == engine
    write_text_file(file, memory.as_json(former, plan.state.phase if same_engine and plan.state.begun else 0))


def prepare_first_update(session: Session) -> None:
    """Before the first update: step down after a kill for memory, rescale losses after a change of engine, fit the
    epochs into the time budget, save a checkpoint."""
    state, settings = session.state, session.plan.settings
    if session.crash is not None:
        session.memory.recover(session.crash)
    if session.other_engine is not None:
        _rescale_losses(session)
    resuming = session.plan.start.kind == "resume"
    budget = settings.training.time_budget_hours
    if budget is not None and not (resuming and state.schedule_from == "time budget"):
        session.schedule, sentence = schedule_within_budget(session.engine, session.plan, session.memory, budget)
        state.schedule, state.schedule_from = epochs_by_phase(session.schedule), "time budget"
        state.max_tokens_per_epoch = session.schedule.phases[0].max_tokens
        session.reporter.note(sentence)
    if session.saved is None:
        session.memory.enter(state.phase)
        session.save()  # so that a kill before the first update resumes too, with the schedule that was chosen


def _compare_engines(former: RunIdentity, engine: Engine, state: TrainingState, reporter: Reporter) -> str | None:
    """Say what resuming on another engine or other versions means. Return the former engine if it was another."""
    if former.engine != engine.name:
        reporter.note(
            f"the run was on the {former.engine} engine, this is {engine.name}: its 4-bit base differs, so the best "
            "is chosen again from here on and the run differs from one that was never interrupted"
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
    """Score the weights on this engine and scale the phase's losses in proportion: later ones are comparable then."""
    state = session.state
    losses = state.losses_of(state.phase)
    if state.finished:
        return
    change: dict[str, Any] = {"was": session.other_engine, "now": session.engine.name, "update": state.update}
    if losses.last is not None:  # otherwise the phase begins, and is scored then
        session.memory.enter(state.phase)
        validation = session.validate()
        if validation is None:
            return
        change |= {"validation": asdict(validation)}
        session.reporter.note(
            f"validation loss of these weights on {session.engine.name}: {validation.loss:.4f}; on "
            f"{session.other_engine} it was last {losses.last:.4f}, and this phase's losses are scaled in proportion"
        )
        state.losses[str(state.phase)] = losses.rescaled(validation.loss)
    session.metrics.write_event({"event": "engine", **change})
    session.saved = None  # save again, as a run of this engine


def write_final_adapter(session: Session, save_tokenizer: Any) -> Path | None:
    """Write `adapter/` (or `model/`) from the best checkpoint. Return None if no epoch was validated."""
    best = session.state.best
    if best is None:
        return None
    trained = session.checkpoints.folder / best.checkpoint / session.checkpoints.trained
    return session.run.write_trained(trained, session.plan.settings, save_tokenizer)
