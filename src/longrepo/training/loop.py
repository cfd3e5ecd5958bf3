"""The training loop: set up, train update by update and epoch by epoch, save, clean up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from longrepo.curriculum.sampler import EpochOrder
from longrepo.curriculum.schedule import judge_gate, learning_rate_at, should_stop_early
from longrepo.engines.base import Engine
from longrepo.errors import InputError, OutOfMemory, RunError
from longrepo.memory.guard import GuardFactory, NoGuard
from longrepo.memory.planner import MemoryPlan
from longrepo.training.checkpoint import RunFolder, find_damage, trained_folder
from longrepo.training.crash import INTERRUPTED_STATUS, Interrupt
from longrepo.training.events import EpochRecord, PhaseRecord, Reporter, RunProgress, UpdateRecord, Validation
from longrepo.training.plan import PhaseSchedule, TrainingPlan, remaining_epochs
from longrepo.training.session import Session, prepare_first_update, start_session, write_final_adapter
from longrepo.training.state import BestCheckpoint, EpochTotals, TrainingState, perplexity
from longrepo.training.validation import accumulation_groups, make_batch, micro_batch_key, with_loss_weight


@dataclass(frozen=True)
class GroupTotals:
    """Sums over the micro-batches of one update. `loss` is the sum of weight × nll (nats), `weight` the sum of weights;
    `tokens` in all and in the `longest` sequence; `skipped`: sequences that lost all loss weight by being cut."""

    loss: float
    weight: float
    tokens: int
    longest: int
    skipped: int


def accumulate_group(session: Session, window: list[tuple[int, ...]]) -> GroupTotals:
    """Accumulate the gradient of a window of micro-batches, normalized by the weight of the whole window. Repeating it
    after `drop_gradients` gives the same bits: dropout follows from each micro-batch's place."""
    engine, source, cut_to = session.engine, session.plan.source, session.state.memory.max_length
    weighted = [with_loss_weight(source, indices, cut_to) for indices in window]
    batches = {
        micro: make_batch(source, indices, engine.pad_id, cut_to) for micro, indices in enumerate(weighted) if indices
    }
    weight = math.fsum(batch.weight for batch in batches.values())
    if weight == 0 and cut_to is None:
        raise InputError(f"sequences {window} of the sequence file contain no target tokens: rebuild the sequences")
    loss, seed = 0.0, session.plan.settings.training.seed
    for micro, batch in batches.items():
        key = micro_batch_key(seed, session.epoch, session.state.update, micro)
        loss += engine.accumulate(batch, weight, key)
    return GroupTotals(
        loss=loss,
        weight=weight,
        tokens=sum(int(batch.lengths.sum()) for batch in batches.values()),
        longest=max((int(batch.lengths.max()) for batch in batches.values()), default=0),
        skipped=sum(map(len, window)) - sum(map(len, weighted)),
    )


@dataclass(frozen=True)
class RunOutcome:
    """The result of a run: exit status 0 if it finished (`adapter`: its best adapter, or model if all weights were
    trained), 130 if it was stopped."""

    exit_status: int
    state: TrainingState
    adapter: Path | None
    already_finished: bool = False


def train(
    engine: Engine,
    plan: TrainingPlan,
    run: RunFolder,
    reporter: Reporter,
    save_tokenizer: Callable[[Path], Sequence[str]] | None = None,
    memory: MemoryPlan | None = None,
    make_guard: GuardFactory = lambda write, record: NoGuard(),
) -> RunOutcome:
    """Carry out a plan, from where it starts, into the run's folder, within the memory plan.

    Raises RunError for a full disk, a lost folder, or a loss or gradient that isn't finite; OutOfMemory (after saving)
    if no method needs little enough memory.
    """
    trained = run.path / trained_folder(plan.settings)
    if plan.state.finished and trained.exists() and run.final_scale == plan.settings.lora.final_scale:
        reporter.note(f"this run is finished: {trained}")
        return RunOutcome(0, plan.state, trained, already_finished=True)
    try:
        with Interrupt(reporter.note) as interrupt:
            session = start_session(engine, plan, run, reporter, interrupt, memory or MemoryPlan(), make_guard)
            with session.memory.crash_marker, closing(session.metrics):
                run_session(session)
                if not session.state.finished:
                    return RunOutcome(INTERRUPTED_STATUS, session.state, None)
                return RunOutcome(0, session.state, _write_checked_adapter(session, save_tokenizer))
    except OSError as error:
        raise RunError(f"{error.filename or run.path}: {error.strerror or error}; go on with --resume auto") from None


def run_session(session: Session) -> None:
    """Train epoch by epoch to the end or to Ctrl-C, and save, also after running out of memory."""
    with session.memory.guard:
        try:
            prepare_first_update(session)
            while not session.state.finished and not session.interrupt.requested:
                if open_phase(session) and run_updates(session):
                    close_epoch(session)
        except OutOfMemory:
            session.save_if_changed()
            raise
        session.save_if_changed()
    if session.state.finished:
        another_hour = session.progress.another_hour(session.state)
        for line in (*session.memory.summary(), *filter(None, (another_hour,))):
            session.reporter.note(line)


def open_phase(session: Session) -> bool:
    """At the start of a phase: apply its gate, validate and report. Return False if the phase isn't entered."""
    state, plan = session.state, session.plan
    losses = state.losses_of(state.phase)
    if losses.start is not None and state.opened == state.phase:
        session.memory.enter(state.phase)
        return True
    if losses.start is None and not _passes_gate(session):
        state.enter(session.schedule.following(state.phase))
        return False
    session.memory.enter(state.phase)
    validation = session.validate()
    if validation is None:
        return False
    if losses.start is None:  # otherwise a run begun by --checkpoint goes on in the middle of the phase
        losses.start = validation.loss
    state.opened = state.phase
    session.reset_incomparable_best(validation)
    work, done = session.phase_plan(), state.epoch_in_phase - 1
    record = PhaseRecord(
        phase=state.phase,
        first_epoch=session.epoch,
        last_epoch=session.epoch - 1 + work.phase.epochs - done,
        longer_than=work.phase.above,
        max_length=work.phase.max_length,
        learning_rate=plan.settings.training.base_learning_rate * work.phase.lr_multiplier,
        lr_multiplier=work.phase.lr_multiplier,
        sequences=len(work.orders[done].indices),
        replayed=work.orders[done].replayed,
        updates=sum(work.updates[done:]),
        validation=validation,
        context=work.phase.positions,
    )
    session.metrics.write(record)
    session.reporter.phase(record)
    return True


def _passes_gate(session: Session) -> bool:
    """Whether the phase's gate lets it run; True if it has none."""
    state, schedule = session.state, session.schedule
    phase, before = schedule.phase(state.phase), schedule.before(state.phase)
    if not phase.gated or before is None:
        return True
    losses, min_delta = state.losses_of(before.number), session.plan.settings.training.early_stopping_min_delta
    verdict = judge_gate(before.number, losses.start, losses.epochs, min_delta, phase.number)
    state.verdicts[str(phase.number)] = verdict.reason
    session.reporter.note(verdict.reason)
    return verdict.go


def run_updates(session: Session) -> bool:
    """Run the rest of the epoch's updates. Return False if Ctrl-C stopped it, after the update in progress."""
    state, training = session.state, session.plan.settings.training
    work = session.phase_plan()
    order = work.orders[state.epoch_in_phase - 1]
    batches = accumulation_groups(order.indices, training)
    session.memory.reset_peak()
    while state.position < len(batches):
        if session.interrupt.requested:
            return False
        session.memory.boundary(lambda: session.interrupt.requested)
        if session.interrupt.requested:  # while it waited
            return False
        record = run_update(session, work, batches[state.position], len(batches))
        if record is not None:
            session.metrics.write(record)
            session.reporter.update(record)
            session.reporter.progress(_run_progress(session, record))
        state.so_far.peak_memory = max(state.so_far.peak_memory, session.memory.measure())
        every = training.save_every_steps
        if every and state.update % every == 0 and state.position < len(batches):
            session.save()
    return not session.interrupt.requested


def run_update(
    session: Session, work: PhaseSchedule, window: list[tuple[int, ...]], updates: int
) -> UpdateRecord | None:
    """Accumulate a window's micro-batches and take one optimizer step. Return None if every sequence of the window lost
    its loss weight by being cut."""
    engine, state, training = session.engine, session.state, session.plan.settings.training
    began = time.perf_counter()
    totals = session.memory.run_with_fallback(lambda: accumulate_group(session, window))
    state.so_far.skipped += totals.skipped
    if totals.weight == 0:
        state.update += 1
        state.position += 1
        return None
    if not math.isfinite(totals.loss):
        engine.drop_gradients()
        raise session.non_finite_error(f"the loss is {totals.loss}")
    rate = learning_rate_at(
        training, work.phase, work.updates_before(state.epoch_in_phase) + state.position, sum(work.updates)
    )
    norm = engine.apply_update(rate, training.max_grad_norm)
    if not math.isfinite(norm):
        raise session.non_finite_error(f"the gradient's norm is {norm}")
    seconds = time.perf_counter() - began
    state.update += 1
    state.position += 1
    state.so_far.add(totals.loss, totals.weight, totals.tokens, seconds, norm)
    state.tokens += totals.tokens
    state.disk_written += session.memory.stored_bytes(totals.tokens, training.batch_size_reference)
    session.progress.count(state.phase, totals.tokens, seconds)
    if message := session.memory.guard.step(totals.tokens, seconds, totals.longest):
        session.reporter.note(message)
    return UpdateRecord(
        phase=state.phase,
        epoch=session.epoch,
        update=state.update,
        position=state.position,
        updates=updates,
        loss=totals.loss / totals.weight,
        learning_rate=rate,
        gradient_norm=norm,
        tokens=totals.tokens,
        seconds=seconds,
        memory=session.memory.guard.take(),
    )


def _run_progress(session: Session, record: UpdateRecord) -> RunProgress:
    return RunProgress(
        phase=record.phase,
        epoch=record.epoch,
        epochs=record.epoch - 1 + sum(remaining_epochs(session.state, session.schedule).values()),
        position=record.position,
        updates=record.updates,
        loss=record.loss,
        share=session.progress.share(session.state),
        seconds_left=session.progress.seconds_left(session.state),
    )


def close_epoch(session: Session) -> None:
    """Validate, record the epoch, update the best checkpoint, decide whether the phase goes on, and save."""
    state, training = session.state, session.plan.settings.training
    validation = session.validate()
    if validation is None:
        return
    work, epoch, so_far = session.phase_plan(), session.epoch, state.so_far
    best = state.best is None or validation.loss < state.best.loss
    if best:
        state.best = BestCheckpoint(validation.loss, epoch, "", work.phase.positions, list(validation.by_length))
    losses = state.losses_of(state.phase)
    losses.epochs.append(validation.loss)
    record = _epoch_record(session, work, so_far, validation, best)
    session.metrics.write(record)
    session.reporter.epoch(record)
    stop = should_stop_early(losses.epochs, training.early_stopping_patience, training.early_stopping_min_delta)
    if stop and state.epoch_in_phase < work.phase.epochs:
        session.reporter.note(
            f"phase {state.phase} stops early after epoch {epoch}: no gain of {training.early_stopping_min_delta:.2%} "
            f"in {training.early_stopping_patience} epochs"
        )
    ended = state.advance(session.schedule, stop)
    session.save(work.phase if ended else None, best)


def _epoch_record(
    session: Session, work: PhaseSchedule, so_far: EpochTotals, validation: Validation, best: bool
) -> EpochRecord:
    state, phase = session.state, work.phase
    if so_far.updates == 0:
        raise session.non_finite_error(f"no sequence has a loss weight in its first {state.memory.max_length} tokens")
    order: EpochOrder = work.orders[state.epoch_in_phase - 1]
    last_update = work.updates_before(state.epoch_in_phase + 1) - 1
    return EpochRecord(
        phase=phase.number,
        epoch=session.epoch,
        update=state.update,
        longer_than=phase.above,
        max_length=phase.max_length,
        learning_rate=learning_rate_at(session.plan.settings.training, phase, last_update, sum(work.updates)),
        lr_multiplier=phase.lr_multiplier,
        train_loss=so_far.loss / so_far.weight,
        validation=validation,
        perplexity=perplexity(validation.loss),
        gradient_norm_min=so_far.norm_min or 0.0,
        gradient_norm_mean=so_far.norm_sum / so_far.updates,
        gradient_norm_max=so_far.norm_max or 0.0,
        sequences=len(order.indices),
        replayed=order.replayed,
        by_difficulty=order.by_difficulty,
        left_out=order.left_out,
        tokens=so_far.tokens,
        tokens_per_second=so_far.tokens / max(so_far.seconds, 1e-9),
        peak_memory=so_far.peak_memory,
        best=best,
        memory=session.memory.memory_use(),
    )


def _write_checked_adapter(session: Session, save_tokenizer: Callable[[Path], Sequence[str]] | None) -> Path | None:
    best = session.state.best
    if best and (damage := find_damage(session.checkpoints.folder / best.checkpoint)):
        other = f"the {session.checkpoints.trained} of {session.run.path}/last"
        raise RunError(f"the best checkpoint {best.checkpoint}: {damage}; use {other}")
    return write_final_adapter(session, save_tokenizer)
