"""What the pipeline decides by itself, each decision with its reason. What a person set is never overruled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longrepo.config.schema import Settings
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.planned import Planned

WORTH_A_PHASE = 8  # training sequences; fewer are learned by heart in an epoch or two
UPDATES_PER_EPOCH = 8  # at least, or warm-up and decay have no room
UPDATES_PER_PHASE = 100  # what the guide's epochs come to on a repository of some hundred sequences


@dataclass(frozen=True)
class Choice:
    """`key` is the dotted settings key, or a plain word where no key stands behind the choice."""

    key: str
    value: Any
    reason: str


class Chooser:
    """Collects choices over a Settings tree; `settings` is the tree with all of them applied."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.choices: list[Choice] = []
        self._given = {
            f"{section}.{key}"
            for section in settings.model_fields_set
            for key in getattr(settings, section).model_fields_set
        }

    def given(self, key: str) -> bool:
        """Whether a person set `section.key`, in a file or on the command line."""
        return key in self._given

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Set `section.key` unless a person did; record it either way, so that the reason for not doing it is seen."""
        section, name = key.split(".")
        part = getattr(self.settings, section)
        if self.given(key):
            self.choices.append(Choice(key, getattr(part, name), "as you set it"))
            return
        part = part.model_copy(update={name: value})
        self.settings = self.settings.model_copy(update={section: part})
        self.choices.append(Choice(key, value, reason))


def choose_lengths(
    chooser: Chooser, max_positions: int, budget: Budget, first_fit: Callable[[int], Planned | None]
) -> None:
    """Which phases the memory and the model's positions allow. `first_fit`: the cheapest method that fits for sequences
    of so many tokens, or None."""
    caps = chooser.settings.long_context
    room = f"{budget.bytes / GIB:.1f} GiB ({budget.reason})"
    asked = chooser.given("model.max_position_embeddings")
    length = chooser.settings.model.max_position_embeddings
    if asked and caps.phase2_max_length > length:
        chooser.choose("long_context.phase2_epochs", 0, f"you asked for {length:,} tokens")
    elif first_fit(caps.phase2_max_length) is None:
        chooser.choose("long_context.phase2_epochs", 0, f"no way to compute a step fits {room}")
    if asked and caps.phase3_max_length > length:
        enabled, reason = False, f"you asked for {length:,} tokens"
    elif caps.phase3_max_length > max_positions:
        enabled, reason = False, f"the base was trained to {max_positions:,} positions"
    elif (fit := first_fit(caps.phase3_max_length)) is None:
        enabled, reason = False, f"no way to compute a step fits {room}"
    else:
        enabled, reason = True, f"a step needs {fit.peak / GIB:.1f} GiB of {room}: {fit.method}"
    chooser.choose("long_context.phase3_enabled", enabled, reason)


def choose_amounts(chooser: Chooser, training_sequences: Mapping[int, int]) -> None:
    """Epochs and accumulation from how many training sequences each phase has (`{1: 296, 2: 154, …}`)."""
    enabled = [1, 2, 3] if chooser.settings.long_context.phase3_enabled is not False else [1, 2]
    worth = [number for number in enabled if training_sequences.get(number, 0) >= WORTH_A_PHASE]
    fewest = min((training_sequences[number] for number in worth), default=WORTH_A_PHASE)
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
    for number in enabled:
        _choose_epochs(chooser, number, training_sequences.get(number, 0), rows * steps)


def _choose_epochs(chooser: Chooser, number: int, sequences: int, window: int) -> None:
    key = f"phase{number}_epochs"
    guide = getattr(chooser.settings.long_context, key)
    if sequences < WORTH_A_PHASE:
        if number == 3:
            reason = f"{sequences} training sequences in phase 3: not worth a phase"
            chooser.choose("long_context.phase3_enabled", False, reason)
        else:
            chooser.choose(f"long_context.{key}", 0, f"{sequences} training sequences: not worth a phase")
        return
    updates = -(-sequences // window)
    epochs = min(guide, max(2, -(-UPDATES_PER_PHASE // updates)))
    reason = f"{sequences} sequences, {updates} updates an epoch, about {UPDATES_PER_PHASE} a phase"
    chooser.choose(f"long_context.{key}", epochs, reason if epochs < guide else f"the guide's value; {reason}")


def latest(choices: Iterable[Choice]) -> list[tuple[str, str, str]]:
    """(key, value, reason) of the last word on each key, in the order the keys first came up."""
    last = {choice.key: choice for choice in choices}
    return [(choice.key, str(choice.value), choice.reason) for choice in last.values()]
