"""--resume, --checkpoint, settings diff.

Where settings differ from a checkpoint's: which value holds, and why, key by key.

`--resume` goes on with a run; `--checkpoint` begins a new one with a checkpoint's weights and place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from longrepo.config.load import impossible_combinations, path_in
from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.training.checkpoint import LOCK, MANIFEST, SETTINGS, Checkpoints, damage, read_snapshot
from longrepo.training.plan import Start
from longrepo.training.state import Snapshot, TrainingState

FURTHER = "further_phases"  # a list of sections, compared one by one
_INDEX = re.compile(r"\[\d+\]")

_BASE = "its adapter was trained on that base"
_SHAPE = "its adapter is of that kind"
_POSITIONS = "the run's positions stay what they were; --checkpoint begins a run at others"
_PLACE = "the place within an epoch counts in it"
_ADAPTER = {
    "model.name": _BASE,
    "model.revision": _BASE,
    "model.quantization": _BASE,
    "model.double_quantization": _BASE,
    "data.structure_tokens": "the adapter holds their rows or doesn't",
    "lora.r": _SHAPE,
    "lora.alpha": _SHAPE,
    "lora.target_modules": _SHAPE,
    "training.weights": "its checkpoints hold an adapter or a whole model",
}
# The checkpoint's value holds for these when a run goes on.
_RUN = _ADAPTER | {
    "context.method": _POSITIONS,
    "context.target_length": _POSITIONS,
    "context.window": _POSITIONS,
    "context.factor": _POSITIONS,
    "context.long_factors": _POSITIONS,
    "lora.dropout": "the run's dropout stays what it was",
    "training.seed": "the order of sequences and the dropout follow from it",
    "training.precision": "the run's arithmetic stays what it was",
    "training.batch_size_reference": _PLACE,
    "training.gradient_accumulation_steps": _PLACE,
    "training.max_tokens_per_epoch": _PLACE,
    "training.max_updates": "the learning rate's decay counts on it",
    "data.replay_share": _PLACE,
    "long_context.strict_difficulty": _PLACE,
    "long_context.phase1_max_length": _PLACE,
    "long_context.phase2_min_length": _PLACE,
    "long_context.phase2_max_length": _PLACE,
    "long_context.phase3_min_length": _PLACE,
    "long_context.phase3_max_length": _PLACE,
    "long_context.further_phases[].min_length": _PLACE,
    "long_context.further_phases[].max_length": _PLACE,
    "long_context.further_phases[].replay_share": _PLACE,
    "long_context.further_phases[].context": _POSITIONS,
    "training.max_validation_sequences": "losses compare only on one validation set",
}
_CHOSEN = "the run's time budget chose its epochs at the start"
_BY_BUDGET = {
    "training.time_budget_hours": _CHOSEN,
    "long_context.phase1_epochs": _CHOSEN,
    "long_context.phase2_epochs": _CHOSEN,
    "long_context.phase3_epochs": _CHOSEN,
    "long_context.further_phases[].epochs": _CHOSEN,
}
# The new value holds, and the weights are the same as without the change.
_HARMLESS = (
    "training.save_every_steps",
    "training.keep_last",
    "training.report_to",
    "training.use_gradient_checkpointing",
    "memory.budget_gb",
    "memory.store",
    "memory.max_disk_gb",
)
_BUILDING = ("data.", "model.max_position_embeddings")  # read when sequences are built, not here


def reconcile_run(old: Mapping[str, Any], new: Settings, chosen_by_budget: bool) -> tuple[Settings, list[str]]:
    """The settings a resumed run goes on with, and a line for each difference that matters."""
    kept = _RUN | (_BY_BUDGET if chosen_by_budget else {})
    settings, notes = _keep(old, new, kept)
    changed = []
    for key, was, now in differences(old, settings):
        if key in _HARMLESS:
            notes.append(f"{key}: {now} holds, was {was}; the result stays the same")
        elif not key.startswith(_BUILDING):
            notes.append(f"{key}: {now} holds, was {was}; it may be changed in mid-run")
            changed.append(key)
    if changed:
        notes.append("from here on this run differs from one that was never interrupted")
    return settings, notes


def reconcile_weights(old: Mapping[str, Any], new: Settings) -> tuple[Settings, list[str]]:
    """The settings of a new run that begins with a checkpoint's weights."""
    return _keep(old, new, _ADAPTER)


def differences(old: Mapping[str, Any], new: Settings) -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) wherever they differ; a key unknown to the old one counts as unchanged."""
    for section, values in new.model_dump(mode="json").items():
        yield from _differing(section, old.get(section, {}), values)


def _differing(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key, value in new.items():
        if key == FURTHER:
            for index, (was, now) in enumerate(zip_longest(old.get(key, ()), value)):
                place = f"{name}.{key}[{index}]"
                if was is None or now is None:
                    yield place, was or "not there", now or "not there"
                else:
                    yield from _differing(place, was, now)
        elif (was := old.get(key, value)) != value:
            yield f"{name}.{key}", was, value


def _keep(old: Mapping[str, Any], new: Settings, kept: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Raises InputError where what is kept and what is new can't both be."""
    tree, notes = new.model_dump(mode="json"), []
    for key, was, now in differences(old, new):
        if why := kept.get(_INDEX.sub("[]", key)):
            *above, last = path_in(key) or ()
            inside: Any = tree
            for part in above:
                inside = inside[part]
            inside[last] = was
            notes.append(f"{key}: the checkpoint's {was} holds, not {now}: {why}")
    settings = Settings.model_validate(tree)
    for key, problem in impossible_combinations(settings) if notes else ():
        raise InputError(f"{key}: {problem}, with what holds of the checkpoint's settings: {notes[0]}")
    return settings, notes


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
