"""Where settings differ from a checkpoint's: which value holds, and why, key by key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from longrepo.config.combinations import impossible_combinations
from longrepo.config.keys import path_in
from longrepo.config.schema import Settings
from longrepo.errors import InputError

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
