"""`--resume` continues a run; `--checkpoint` begins a new one with a checkpoint's weights and place.

If settings differ from the checkpoint's, each key has a rule for which value is used, and the run says which and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from longrepo.config.loader import find_impossible_combinations, parse_key
from longrepo.config.schema import Settings, structure_tokens_name
from longrepo.errors import InputError
from longrepo.training.checkpoint import (
    LOCK_FILE,
    MANIFEST,
    SETTINGS_FILE,
    CheckpointFolder,
    find_damage,
    read_snapshot,
)
from longrepo.training.plan import RunStart
from longrepo.training.state import CheckpointSnapshot, TrainingState

LORA_MODULES = "lora.target_modules"
FURTHER_PHASES_KEY = "further_phases"  # a list of sections, compared one by one
_LIST_INDEX = re.compile(r"\[\d+\]")

_BASE_REASON = "the adapter was trained on that base"
_SHAPE_REASON = "the adapter has that shape"
_POSITIONS_REASON = "a run keeps its positions; --checkpoint begins a run at others"
_PLACE_REASON = "the place within an epoch depends on it"
_FIXED_BY_ADAPTER = {
    "model.name": _BASE_REASON,
    "model.revision": _BASE_REASON,
    "model.quantization": _BASE_REASON,
    "model.double_quantization": _BASE_REASON,
    "data.structure_tokens": "the adapter was trained with these marks",
    "data.fim": "the adapter was trained with these tokens",
    "lora.r": _SHAPE_REASON,
    "lora.alpha": _SHAPE_REASON,
    LORA_MODULES: _SHAPE_REASON,
    "training.weights": "its checkpoints hold either an adapter or a whole model",
}
# `auto` means what the run began with; what LoRA's comes to is compared once the base is known.
_CHOSEN_AT_START = (LORA_MODULES, "data.structure_tokens")
# A resumed run uses the checkpoint's value for these.
_FIXED_BY_RUN = _FIXED_BY_ADAPTER | {
    "context.method": _POSITIONS_REASON,
    "context.target_length": _POSITIONS_REASON,
    "context.window": _POSITIONS_REASON,
    "context.factor": _POSITIONS_REASON,
    "context.long_factors": _POSITIONS_REASON,
    "lora.dropout": "a run keeps its dropout",
    "training.seed": "the order of sequences and the dropout follow from it",
    "training.precision": "a run keeps its arithmetic",
    "training.batch_size_reference": _PLACE_REASON,
    "training.gradient_accumulation_steps": _PLACE_REASON,
    "training.max_tokens_per_epoch": _PLACE_REASON,
    "training.max_updates": "the learning rate's decay depends on it",
    "data.replay_share": _PLACE_REASON,
    "long_context.strict_difficulty": _PLACE_REASON,
    "data.recipe": _PLACE_REASON,
    "long_context.phase1_max_length": _PLACE_REASON,
    "long_context.phase2_min_length": _PLACE_REASON,
    "long_context.phase2_max_length": _PLACE_REASON,
    "long_context.phase3_min_length": _PLACE_REASON,
    "long_context.phase3_max_length": _PLACE_REASON,
    "long_context.further_phases[].min_length": _PLACE_REASON,
    "long_context.further_phases[].max_length": _PLACE_REASON,
    "long_context.further_phases[].replay_share": _PLACE_REASON,
    "long_context.further_phases[].context": _POSITIONS_REASON,
    "training.max_validation_sequences": "losses are comparable only on one validation set",
}
_BUDGET_REASON = "the time budget chose the epochs at the start"
_FIXED_BY_TIME_BUDGET = {
    "training.time_budget_hours": _BUDGET_REASON,
    "long_context.phase1_epochs": _BUDGET_REASON,
    "long_context.phase2_epochs": _BUDGET_REASON,
    "long_context.phase3_epochs": _BUDGET_REASON,
    "long_context.further_phases[].epochs": _BUDGET_REASON,
}
# The new value is used, and the weights are the same as without the change.
_HARMLESS_SETTINGS = (
    "training.save_every_steps",
    "training.keep_last",
    "training.report_to",
    "training.use_gradient_checkpointing",
    "memory.budget_gb",
    "memory.store",
    "memory.max_disk_gb",
    "memory.disk_write_gb",
)
_DATA_SETTINGS = ("data.", "model.max_position_embeddings")  # used when sequences are built, not here


def merge_resumed_settings(old: Mapping[str, Any], new: Settings, chosen_by_budget: bool) -> tuple[Settings, list[str]]:
    """Return the settings of a resumed run, and a line for each difference that matters."""
    fixed = _FIXED_BY_RUN | (_FIXED_BY_TIME_BUDGET if chosen_by_budget else {})
    settings, notes = _keep_old_values(old, new, fixed)
    changed = []
    for key, was, now in diff_settings(old, settings):
        if key in _HARMLESS_SETTINGS:
            notes.append(f"{key}: {now} holds, was {was}; the result stays the same")
        elif not key.startswith(_DATA_SETTINGS):
            notes.append(f"{key}: {now} holds, was {was}; it may be changed in mid-run")
            changed.append(key)
    if changed:
        notes.append("from here on this run differs from one that was never interrupted")
    return settings, notes


def merge_checkpoint_settings(old: Mapping[str, Any], new: Settings) -> tuple[Settings, list[str]]:
    """Return the settings of a new run that begins with a checkpoint's weights, and a line for each that differs."""
    return _keep_old_values(old, new, _FIXED_BY_ADAPTER)


def diff_settings(old: Mapping[str, Any], new: Settings) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old value, new value) for each difference; a key that the old settings lack counts as unchanged."""
    for section, values in new.model_dump(mode="json").items():
        yield from _diff_value(section, old.get(section, {}), values)


def _diff_value(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key, value in new.items():
        if key == FURTHER_PHASES_KEY:
            for index, (was, now) in enumerate(zip_longest(old.get(key, ()), value)):
                place = f"{name}.{key}[{index}]"
                if was is None or now is None:
                    yield place, was or "not there", now or "not there"
                else:
                    yield from _diff_value(place, was, now)
        else:
            was = structure_tokens_name(old.get(key, value)) if key == "structure_tokens" else old.get(key, value)
            if was != value:
                yield f"{name}.{key}", was, value


def _keep_old_values(old: Mapping[str, Any], new: Settings, fixed: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Use the old value of each key in `fixed`. Raises InputError if that is impossible with the new settings."""
    tree, notes = new.model_dump(mode="json"), []
    for key, was, now in diff_settings(old, new):
        if why := fixed.get(_LIST_INDEX.sub("[]", key)):
            *above, last = parse_key(key) or ()
            inside: Any = tree
            for part in above:
                inside = inside[part]
            inside[last] = was
            if now != "auto" or key not in _CHOSEN_AT_START:
                notes.append(f"{key}: the checkpoint's {was} holds, not {now}: {why}")
    settings = Settings.model_validate(tree)
    for key, problem in find_impossible_combinations(settings) if notes else ():
        raise InputError(f"{key}: {problem}, with what holds of the checkpoint's settings: {notes[0]}")
    return settings, notes


@dataclass(frozen=True)
class ResumableRun:
    """A run to resume: its folder, and the checkpoint to continue from (None if it never saved one)."""

    run: Path
    checkpoint: Path | None
    snapshot: CheckpointSnapshot | None
    notes: tuple[str, ...] = ()


def find_run(resume: str, output: Path | None) -> ResumableRun:
    """Find the run of `--resume auto` (the one in `output`) or `--resume DIR` (a run, pointer or checkpoint folder).

    `auto` and a run's folder fall back from a damaged checkpoint to the newest intact one and say so; a checkpoint
    that is named itself must be intact. Raises InputError if there is nothing to resume.
    """
    if resume == "auto":
        if output is None:
            raise InputError("--resume auto needs the run's folder: give it with --output")
        if not output.is_dir():
            raise InputError(f"--resume auto: {output} doesn't exist; begin that run without --resume")
        return _newest_checkpoint(output)
    folder = Path(resume)
    if not folder.is_dir():
        raise InputError(f"--resume {resume}: no such folder; give a run's folder or a checkpoint's, or auto")
    checkpoint = folder.resolve()
    found = (
        ResumableRun(checkpoint.parent.parent, checkpoint, None)
        if _is_checkpoint(checkpoint)
        else _newest_checkpoint(folder)
    )
    if found.snapshot is None and found.checkpoint is not None:
        found = ResumableRun(found.run, found.checkpoint, read_snapshot(found.checkpoint))
    if output is not None and output.resolve() != found.run.resolve():
        raise InputError(
            f"--output {output} is not the run of --resume {resume} ({found.run}): leave --output out, or begin a new "
            "run there with --checkpoint"
        )
    return found


def resume_start(found: ResumableRun, settings: Settings, data_sha256: str, epochs: int | None) -> RunStart:
    """Start exactly where the checkpoint was saved. Raises InputError for other sequences."""
    if found.snapshot is None:
        return RunStart("new", settings, notes=found.notes, epochs=epochs)
    identity, state = found.snapshot.identity, found.snapshot.state
    if identity.data_sha256 != data_sha256:
        raise InputError(
            f"the sequences are not those this run was trained on ({identity.sequences}): resume with that file, or "
            f"begin a new run from its weights with --checkpoint {found.run / 'best'}"
        )
    settings, notes = merge_resumed_settings(identity.settings, settings, state.schedule_from == "time budget")
    place = f"going on from {found.checkpoint} (update {state.update})"
    if state.best is not None and (wrong := find_damage(found.run / "checkpoints" / state.best.checkpoint)):
        notes.append(
            f"the best checkpoint so far, {state.best.checkpoint}: {wrong}; the best is chosen again from here on"
        )
        state.best = None
    return RunStart("resume", settings, state, found.checkpoint, (*found.notes, place, *notes), epochs, identity)


def start_from_checkpoint(checkpoint: Path, settings: Settings, epochs: int | None) -> RunStart:
    """Start a new run from a checkpoint folder, a run's `best` or `last`, or a run's folder (its best).

    From a run's best, the phases that this run completed count as done, even if its best came earlier: after the
    guide's 13 epochs, phase 3 is next. Raises InputError if there is no intact checkpoint.
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
    settings, notes = merge_checkpoint_settings(snapshot.identity.settings, settings)
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
    if asked_best and (later := _later_phase_end(folder, was)):
        state.done_phase, state.stopped_early, state.phases_ended = later.phases_ended[-1], True, later.phases_ended
        state.losses = later.losses
        notes.append(f"its run went on to complete phase {state.done_phase} without a better one: that phase is done")
    state.losses = {number: known for number, known in state.losses.items() if int(number) in state.phases_ended}
    return RunStart("checkpoint", settings, state, folder, tuple(notes), epochs)


def _newest_checkpoint(run: Path) -> ResumableRun:
    checkpoints = CheckpointFolder(run, 1)
    last = (run / "last").resolve()
    if _is_checkpoint(last) and find_damage(last) is None:
        return ResumableRun(run, last, read_snapshot(last))
    candidates = checkpoints.newest_first()
    whole = checkpoints.newest_intact()
    if whole is None:
        if candidates or (run / "last").is_symlink():
            raise InputError(f"--resume: every checkpoint of {run} is damaged; begin a new run in another --output")
        if not any((run / sign).exists() for sign in (LOCK_FILE, SETTINGS_FILE, "checkpoints")):
            raise InputError(f"--resume: {run} isn't a run's folder; begin one there without --resume")
        return ResumableRun(run, None, None, ("this run stopped before its first checkpoint: it starts over",))
    note = f"{last.name}: {find_damage(last)}; falling back to {whole.name}, the newest intact checkpoint"
    if not (run / "last").is_symlink():
        note = f"`last` is missing; going on from {whole.name}, the newest intact checkpoint"
    return ResumableRun(run, whole, read_snapshot(whole), (note,))


def _later_phase_end(folder: Path, was: TrainingState) -> TrainingState | None:
    """The last state of the checkpoint's run, if it has since completed a phase that the checkpoint hasn't."""
    last = (folder.parent.parent / "last").resolve()
    if last == folder or not _is_checkpoint(last) or find_damage(last):
        return None
    later = read_snapshot(last).state
    return later if set(later.phases_ended) - set(was.phases_ended) else None


def _is_checkpoint(folder: Path) -> bool:
    return folder.resolve().parent.name == "checkpoints" or (folder / MANIFEST).exists()
