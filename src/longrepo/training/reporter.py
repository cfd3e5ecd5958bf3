"""What the loop tells, as values; how it looks is `longrepo.reports`' business."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Validation:
    """Mean nll (nats) over target tokens of the fixed validation set: all, and by the phase whose length it is."""

    loss: float
    by_length: dict[str, float]  # "≤1024", "≤2048", … -> nats
    tokens: int  # target tokens


@dataclass(frozen=True)
class PhaseRecord:
    """A phase begins: its epochs (global, from 1), lengths and learning rate, and the validation loss before it."""

    phase: int
    first_epoch: int
    last_epoch: int
    longer_than: int
    max_length: int
    learning_rate: float
    lr_multiplier: float
    sequences: int  # in its first epoch
    replayed: int
    updates: int  # in the whole phase
    validation: Validation
    context: dict[str, Any] = field(default_factory=dict)  # its positions: settings that aren't at their default


@dataclass(frozen=True)
class UpdateRecord:
    phase: int
    epoch: int
    update: int  # from 1, over the whole run
    position: int  # of updates in the epoch done
    updates: int  # in the epoch
    loss: float  # weighted mean nll of the window, nats
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    memory: dict[str, Any] = field(default_factory=dict)  # the guard's samples of it, folded


@dataclass(frozen=True)
class StepDownRecord:
    """From here on a step needs less memory. `changes`: nothing ("store"), rounding ("chunks"), or the result:
    LoRA modules are trained no further ("frozen"), long sequences are cut ("cut"). Planned peaks in bytes."""

    phase: int
    update: int  # the first it holds for
    why: str
    changes: Literal["store", "chunks", "frozen", "cut"]
    before: str
    after: str
    planned_before: int
    planned_after: int
    text: str  # all of it in a sentence


@dataclass(frozen=True)
class MemoryUse:
    """How an epoch was computed at its end, and what that is planned to need and was seen to use, in bytes."""

    method: str
    planned: int | None
    used: int
    steps_down: list[str]
    frozen: list[str]
    cut_to: int | None  # tokens
    skipped: int  # sequences left without a loss weight where they were cut


@dataclass(frozen=True)
class EpochRecord:
    phase: int
    epoch: int
    update: int
    longer_than: int
    max_length: int
    learning_rate: float  # of its last update
    lr_multiplier: float
    train_loss: float
    validation: Validation
    perplexity: float  # exp(validation loss)
    gradient_norm_min: float
    gradient_norm_mean: float
    gradient_norm_max: float
    sequences: int  # included, replayed ones with them
    replayed: int
    by_difficulty: dict[str, int]
    left_out: dict[str, int]  # by reason
    tokens: int
    tokens_per_second: float
    peak_memory: int  # bytes
    best: bool
    memory: MemoryUse


class Reporter(Protocol):
    """Told of everything a person may want to see while a run goes on."""

    def note(self, text: str) -> None:
        """A decision and its reason, or something to know."""
        ...

    def phase(self, record: PhaseRecord) -> None: ...

    def update(self, record: UpdateRecord) -> None: ...

    def validating(self, done: int, of: int) -> None: ...

    def epoch(self, record: EpochRecord) -> None: ...

    def saved(self, folder: Path, best: bool) -> None: ...
