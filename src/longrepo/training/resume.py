"""`--resume` goes on with a run; `--checkpoint` begins a new one with a checkpoint's weights and place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.training.checkpoint import MANIFEST, Checkpoints, damage, read_snapshot
from longrepo.training.plan import Start
from longrepo.training.reconcile import reconcile_run, reconcile_weights
from longrepo.training.run_folder import LOCK, SETTINGS
from longrepo.training.state import Snapshot, TrainingState


@dataclass(frozen=True)
class Found:
    """A run to go on with: its folder, and the checkpoint to go on from (None where it never saved one)."""

    run: Path
    checkpoint: Path | None
    snapshot: Snapshot | None
    notes: tuple[str, ...] = ()


def find_run(resume: str, output: Path | None) -> Found:
    """What `--resume auto` (the run in `output`) or `--resume DIR` (a run, pointer or checkpoint folder) means.

    `auto`, and a run's folder, fall back from a damaged checkpoint to the newest whole one and say so; a checkpoint
    named itself must be whole. Raises InputError where there is nothing to resume.
    """
    if resume == "auto":
        if output is None:
            raise InputError("--resume auto needs the run's folder: give it with --output")
        if not output.is_dir():
            raise InputError(f"--resume auto: {output} doesn't exist; begin that run without --resume")
        return _newest(output)
    folder = Path(resume)
    if not folder.is_dir():
        raise InputError(f"--resume {resume}: no such folder; give a run's folder or a checkpoint's, or auto")
    checkpoint = folder.resolve()
    found = Found(checkpoint.parent.parent, checkpoint, None) if _is_checkpoint(checkpoint) else _newest(folder)
    if found.snapshot is None and found.checkpoint is not None:
        found = Found(found.run, found.checkpoint, read_snapshot(found.checkpoint))
    if output is not None and output.resolve() != found.run.resolve():
        raise InputError(
            f"--output {output} is not the run of --resume {resume} ({found.run}): leave --output out, or begin a new "
            "run there with --checkpoint"
        )
    return found


def resumed(found: Found, settings: Settings, data_sha256: str, epochs: int | None) -> Start:
    """The start that goes on exactly where the checkpoint stands. Raises InputError for other sequences."""
    if found.snapshot is None:
        return Start("new", settings, notes=found.notes, epochs=epochs)
    identity, state = found.snapshot.identity, found.snapshot.state
    if identity.data_sha256 != data_sha256:
        raise InputError(
            f"the sequences are not those this run was trained on ({identity.sequences}): resume with that file, or "
            f"begin a new run from its weights with --checkpoint {found.run / 'best'}"
        )
    settings, notes = reconcile_run(identity.settings, settings, state.schedule_from == "time budget")
    where = f"going on from {found.checkpoint} (update {state.update})"
    if state.best is not None and (wrong := damage(found.run / "checkpoints" / state.best.checkpoint)):
        notes.append(f"the best checkpoint so far, {state.best.checkpoint}: {wrong}; the best counts anew from here")
        state.best = None
    return Start("resume", settings, state, found.checkpoint, (*found.notes, where, *notes), epochs, identity)


def begun_from(checkpoint: Path, settings: Settings, epochs: int | None) -> Start:
    """A new run's start from a checkpoint folder, a run's `best` or `last`, or a run's folder (its best).

    From a run's best, the phases that this run completed count as done, even where its best came earlier: after the
    guide's 13 epochs, phase 3 is next. Raises InputError where there is no whole checkpoint.
    """
    if not checkpoint.is_dir():
        raise InputError(f"--checkpoint {checkpoint}: no such folder; give a run's `best` or a checkpoint's folder")
    asked_best = checkpoint.name == "best"
    if not _is_checkpoint(checkpoint):
        if not (checkpoint / "best").exists():
            raise InputError(f"--checkpoint {checkpoint} is neither a checkpoint nor a run with a `best`; give one")
        checkpoint, asked_best = checkpoint / "best", True
    folder = checkpoint.resolve()
    snapshot = read_snapshot(folder)
    settings, notes = reconcile_weights(snapshot.identity.settings, settings)
    was = snapshot.state
    state = TrainingState(
        schedule={},
        done_phase=was.done_phase,
        done_epoch=was.done_epoch,
        stopped_early=was.stopped_early,
        phases_ended=list(was.phases_ended),
        losses=was.losses,
    )
    notes.insert(0, f"a new run with the weights of {folder} and a fresh optimizer")
    if asked_best and (later := _completed_later(folder, was)):
        state.done_phase, state.stopped_early, state.phases_ended = later.phases_ended[-1], True, later.phases_ended
        state.losses = later.losses
        notes.append(f"its run went on to complete phase {state.done_phase} without a better one: that phase is done")
    state.losses = {number: known for number, known in state.losses.items() if int(number) in state.phases_ended}
    return Start("checkpoint", settings, state, folder, tuple(notes), epochs)


def _newest(run: Path) -> Found:
    checkpoints = Checkpoints(run, 1)
    last = (run / "last").resolve()
    if _is_checkpoint(last) and damage(last) is None:
        return Found(run, last, read_snapshot(last))
    candidates = checkpoints.newest_first()
    whole = checkpoints.newest_whole()
    if whole is None:
        if candidates or (run / "last").is_symlink():
            raise InputError(f"--resume: no checkpoint of {run} is whole; begin a new run in another --output")
        if not any((run / sign).exists() for sign in (LOCK, SETTINGS, "checkpoints")):
            raise InputError(f"--resume: {run} isn't a run's folder; begin one there without --resume")
        return Found(run, None, None, ("this run stopped before its first checkpoint: it begins anew",))
    note = f"{last.name}: {damage(last)}; falling back to {whole.name}, the newest whole checkpoint"
    if not (run / "last").is_symlink():
        note = f"`last` isn't there; going on from {whole.name}, the newest whole checkpoint"
    return Found(run, whole, read_snapshot(whole), (note,))


def _completed_later(folder: Path, was: TrainingState) -> TrainingState | None:
    """The state at the end of the checkpoint's run, if it has since completed a phase the checkpoint hasn't."""
    last = (folder.parent.parent / "last").resolve()
    if last == folder or not _is_checkpoint(last) or damage(last):
        return None
    later = read_snapshot(last).state
    return later if set(later.phases_ended) - set(was.phases_ended) else None


def _is_checkpoint(folder: Path) -> bool:
    return folder.resolve().parent.name == "checkpoints" or (folder / MANIFEST).exists()
