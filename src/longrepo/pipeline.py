"""What the pipeline derives from repository and machine, and which stages are done.

What the pipeline decides by itself, each decision with its reason. What a person set is never overruled.

Stages that remember: each result lies in a folder named after everything it depends on.

A stage whose folder is whole is skipped; one whose inputs changed gets a new folder, so nothing is ever overwritten.

The whole way in one go: stages, what each derives, and what is skipped because it is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from longrepo.config.load import PathPart, parse_key
from longrepo.config.schema import NUMBERED_PHASES, PhaseConfig, Settings, phase_list
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.planner import StepEstimate
from longrepo.utils.files import write_text_file

MIN_PHASE_SEQUENCES = 8  # training sequences; fewer are learned by heart in an epoch or two
UPDATES_PER_EPOCH = 8  # at least, or warm-up and decay have no room
UPDATES_PER_PHASE = 100  # what the guide's epochs come to on a repository of some hundred sequences


@dataclass(frozen=True)
class SettingChoice:
    """`key` is the dotted settings key, or a plain word where no key stands behind the choice."""

    key: str
    value: Any
    reason: str


class SettingChooser:
    """Collects choices over a Settings tree; `settings` is the tree with all of them applied."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.choices: list[SettingChoice] = []
        self._given = set(_set_keys(settings, ""))

    def given(self, key: str) -> bool:
        """Whether a person set it, in a file or on the command line."""
        return key in self._given

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Set a setting unless a person did; record it either way, so that the reason for not doing it is seen."""
        path = parse_key(key) or ()
        if self.given(key):
            self.choices.append(SettingChoice(key, _value_at(self.settings, path), "as you set it"))
            return
        self.settings = _with_value(self.settings, path, value)
        self.choices.append(SettingChoice(key, value, reason))


def _set_keys(part: BaseModel, prefix: str) -> Iterator[str]:
    """The dotted keys that were set, those in lists of sections among them."""
    for key in part.model_fields_set:
        value = getattr(part, key)
        yield prefix + key
        if isinstance(value, BaseModel):
            yield from _set_keys(value, f"{prefix}{key}.")
        elif isinstance(value, tuple):
            for index, one in enumerate(value):
                if isinstance(one, BaseModel):
                    yield from _set_keys(one, f"{prefix}{key}[{index}].")


def _value_at(part: Any, path: Sequence[PathPart]) -> Any:
    for name in path:
        part = part[name] if isinstance(name, int) else getattr(part, name)
    return part


def _with_value(part: Any, path: Sequence[PathPart], value: Any) -> Any:
    """A copy of a section, or of a list of them, with one value changed."""
    if not path:
        return value
    first, *rest = path
    if isinstance(first, int):
        return (*part[:first], _with_value(part[first], rest, value), *part[first + 1 :])
    return part.model_copy(update={first: _with_value(getattr(part, first), rest, value)})


class FitCheck(Protocol):
    """How far positions reach, and what a step takes there; `longrepo.memory.planner.MemoryPlanner` with its budget."""

    def reach(self, phase: PhaseConfig) -> int:
        """Tokens. Raises InputError where the model can't be computed at the phase's positions."""
        ...

    def first(self, phase: PhaseConfig) -> StepEstimate | None:
        """The cheapest method that fits the phase's longest sequence; None where none does."""
        ...


def choose_lengths(chooser: SettingChooser, budget: Budget, fits: FitCheck) -> None:
    """Which phases after the first the memory and the model's positions allow."""
    room = f"{budget.bytes / GIB:.1f} GiB ({budget.reason})"
    asked = chooser.given("model.max_position_embeddings")
    length = chooser.settings.model.max_position_embeddings
    for phase in phase_list(chooser.settings.long_context)[1:]:
        if phase.is_further and phase.enabled is False:
            continue
        fit = None
        if asked and phase.max_length > length:
            why = f"you asked for {length:,} tokens"
        elif phase.number >= NUMBERED_PHASES and phase.max_length > (reach := fits.reach(phase)):
            why = f"the positions reach {reach:,}" if phase.context else f"the base was trained to {reach:,} positions"
        elif (fit := fits.first(phase)) is None:
            why = f"no way to compute a step fits {room}"
        else:
            why = f"a step needs {fit.peak / GIB:.1f} GiB of {room}: {fit.method}"
        if fit is None:
            _disable_phase(chooser, phase, why)
        elif phase.number >= NUMBERED_PHASES:
            chooser.choose(phase.setting("enabled"), phase.enabled or True, why)


def _disable_phase(chooser: SettingChooser, phase: PhaseConfig, why: str) -> None:
    key, _, value = phase.off.partition("=")
    chooser.choose(key, False if value == "false" else 0, why)


def choose_amounts(chooser: SettingChooser, training_sequences: Mapping[int, int]) -> None:
    """Epochs and accumulation from how many training sequences each phase has (`{1: 296, 2: 154, …}`)."""
    enabled = [phase for phase in phase_list(chooser.settings.long_context) if phase.enabled is not False]
    worth = [phase.number for phase in enabled if training_sequences.get(phase.number, 0) >= MIN_PHASE_SEQUENCES]
    fewest = min((training_sequences[number] for number in worth), default=MIN_PHASE_SEQUENCES)
    rows = chooser.settings.training.batch_size_reference
    wanted = chooser.settings.training.gradient_accumulation_steps
    steps = max(1, min(wanted, fewest // (rows * UPDATES_PER_EPOCH)))
    why = (
        "the guide's value"
        if steps == wanted
        else f"so that {fewest} sequences give {UPDATES_PER_EPOCH} updates an epoch"
    )
    chooser.choose("training.gradient_accumulation_steps", steps, why)
    steps = chooser.settings.training.gradient_accumulation_steps
    for phase in enabled:
        _choose_epochs(chooser, phase, training_sequences.get(phase.number, 0), rows * steps)


def _choose_epochs(chooser: SettingChooser, phase: PhaseConfig, sequences: int, window: int) -> None:
    if sequences < MIN_PHASE_SEQUENCES:
        _disable_phase(chooser, phase, f"{sequences} training sequences in phase {phase.number}: not worth a phase")
        return
    updates, guide = -(-sequences // window), phase.epochs
    epochs = min(guide, max(2, -(-UPDATES_PER_PHASE // updates)))
    reason = f"{sequences} sequences, {updates} updates an epoch, about {UPDATES_PER_PHASE} a phase"
    chooser.choose(phase.setting("epochs"), epochs, reason if epochs < guide else f"the guide's value; {reason}")


def latest_choices(choices: Iterable[SettingChoice]) -> list[tuple[str, str, str]]:
    """(key, value, reason) of the last word on each key, in the order the keys first came up."""
    last = {choice.key: choice for choice in choices}
    return [(choice.key, str(choice.value), choice.reason) for choice in last.values()]


STAGE_FILE = "stage.json"


class PipelineStage:
    """`folder` is `<output>/<name>-<fingerprint>`; `inputs` is everything the result depends on (JSON values)."""

    def __init__(self, output: Path, name: str, inputs: dict[str, Any]) -> None:
        self.name = name
        self._inputs = inputs
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
        self.folder = output / f"{name}-{digest}"

    @property
    def done(self) -> bool:
        """Whether the stage ended well before, with these very inputs."""
        try:
            return bool(json.loads((self.folder / STAGE_FILE).read_text(encoding="utf-8"))["inputs"] == self._inputs)
        except (OSError, ValueError, KeyError):
            return False

    def finish(self, **results: Any) -> None:
        """Mark the folder as whole."""
        content = {"stage": self.name, "inputs": self._inputs, **results}
        write_text_file(self.folder / STAGE_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")
