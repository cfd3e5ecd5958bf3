"""The state of a run: all that a resume needs besides weights and the optimizer's state, as one readable JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from longrepo.curriculum.schedule import Phase, Schedule

STATE_FORMAT = 1


@dataclass
class PhaseLosses:
    """Validation losses of a phase in nats: at its start (None before it was measured) and after each epoch."""

    start: float | None = None
    epochs: list[float] = field(default_factory=list)

    @property
    def last(self) -> float | None:
        """The most recent loss."""
        return self.epochs[-1] if self.epochs else self.start

    def rescaled(self, now: float) -> PhaseLosses:
        """Scale the losses to another base, on which the current weights score `now`. In proportion, because the gate
        and early stopping only ask by what share they fell."""
        assert self.start is not None and self.last is not None
        ratio = now / self.last if self.last else 1.0
        return PhaseLosses(self.start * ratio, [loss * ratio for loss in self.epochs])


@dataclass
class BestCheckpoint:
    """The lowest validation loss, and the checkpoint that holds its weights. It is comparable with losses at the same
    positions (`context`: the settings that aren't at their default) on the same `lengths`."""

    loss: float
    epoch: int
    checkpoint: str
    context: dict[str, Any] = field(default_factory=dict)
    lengths: list[str] = field(default_factory=list)


@dataclass
class EpochTotals:
    """Sums over the updates of the epoch in progress, so that its record is complete after a resume."""

    loss: float = 0.0  # sum of weight * nll, nats
    weight: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    updates: int = 0
    norm_sum: float = 0.0
    norm_min: float | None = None
    norm_max: float | None = None
    peak_memory: int = 0  # bytes
    skipped: int = 0  # sequences that lost all loss weight by being cut
    steps_down: list[str] = field(default_factory=list)

    def add(self, loss: float, weight: float, tokens: int, seconds: float, norm: float) -> None:
        """Count one update."""
        self.loss += loss
        self.weight += weight
        self.tokens += tokens
        self.seconds += seconds
        self.updates += 1
        self.norm_sum += norm
        self.norm_min = norm if self.norm_min is None else min(self.norm_min, norm)
        self.norm_max = norm if self.norm_max is None else max(self.norm_max, norm)


@dataclass
class PhaseMemory:
    """A phase's method, its planned and its highest measured memory in bytes (0: not known)."""

    method: dict[str, str | int]
    planned: int = 0
    used: int = 0


@dataclass
class MemoryState:
    """What a run has learned about memory, kept to its end: the methods of its phases, the lowest planned peak that
    failed (`ceiling`: no such peak is planned again), and what was given up with `memory.allow_lossy`."""

    phases: dict[str, PhaseMemory] = field(default_factory=dict)
    ceiling: int | None = None  # bytes
    frozen: list[str] = field(default_factory=list)  # LoRA modules that are trained no further
    relief: int = 0  # bytes of gradients and moments that freezing gave back
    max_length: int | None = None  # tokens; longer sequences are cut
    steps: list[dict[str, Any]] = field(default_factory=list)  # every step down, as in metrics.jsonl

    def for_other_engine(self) -> MemoryState:
        """Keep what another engine can use: what was given up. Methods and peaks are planned again."""
        return replace(self, phases={}, ceiling=None)

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> MemoryState:
        """Raises KeyError or TypeError if the tree isn't such a state."""
        values = dict(tree)
        values["phases"] = {number: PhaseMemory(**phase) for number, phase in values["phases"].items()}
        return MemoryState(**values)


@dataclass
class TrainingState:
    """A run's position and history. `phase`, `epoch_in_phase` (from 1) and `position` (updates done in that epoch) say
    what comes next; `done_phase` and `done_epoch` which epoch was finished last (0: none)."""

    schedule: dict[str, int]  # epochs of each phase, as chosen at the start
    schedule_from: Literal["settings", "time budget"] = "settings"
    max_tokens_per_epoch: int | None = None  # chosen by a time budget that one epoch of each phase exceeds
    phase: int = 1
    epoch_in_phase: int = 1
    position: int = 0
    update: int = 0
    epochs_left: int | None = None  # of --epochs N; None: all of the schedule
    ended: bool = False  # the schedule has nothing after what was done
    done_phase: int = 0
    done_epoch: int = 0
    stopped_early: bool = False
    phases_ended: list[int] = field(default_factory=list)
    losses: dict[str, PhaseLosses] = field(default_factory=dict)
    best: BestCheckpoint | None = None
    former_bests: list[BestCheckpoint] = field(default_factory=list)  # later phases' losses aren't comparable
    so_far: EpochTotals = field(default_factory=EpochTotals)
    records: int = 0  # lines of metrics.jsonl written up to here
    verdicts: dict[str, str] = field(default_factory=dict)  # of `auto`, by the phase that was judged
    memory: MemoryState = field(default_factory=MemoryState)
    opened: int = 0  # the phase whose record was written last
    tokens: int = 0  # trained on in this run
    disk_written: int = 0  # bytes: by the store of chunked steps as planned, by checkpoints as written

    @property
    def finished(self) -> bool:
        """Whether the run has done all that was requested."""
        return self.ended or self.epochs_left == 0

    @property
    def begun(self) -> bool:
        """Whether the phase in progress has been validated at its start."""
        losses = self.losses.get(str(self.phase))
        return losses is not None and losses.start is not None

    def losses_of(self, phase: int) -> PhaseLosses:
        return self.losses.setdefault(str(phase), PhaseLosses())

    def advance(self, schedule: Schedule, stop_phase: bool) -> bool:
        """Count the epoch in progress as done and move on. Return whether its phase has ended."""
        phase = schedule.phase(self.phase)
        self.done_phase, self.done_epoch, self.stopped_early = self.phase, self.epoch_in_phase, stop_phase
        self.position, self.so_far = 0, EpochTotals()
        if self.epochs_left is not None:
            self.epochs_left -= 1
        if not stop_phase and self.epoch_in_phase < phase.epochs:
            self.epoch_in_phase += 1
            return False
        self.phases_ended.append(self.phase)
        self.enter(schedule.following(self.phase))
        return True

    def enter(self, phase: Phase | None, epoch: int = 1) -> None:
        """Move to the start of an epoch of a phase, or to the end (None)."""
        self.position, self.so_far, self.ended = 0, EpochTotals(), phase is None
        if phase is not None:
            self.phase, self.epoch_in_phase = phase.number, epoch

    def resume_in(self, schedule: Schedule) -> None:
        """Find the same place in a schedule that may have other epochs: continue in the phase that was in progress, or
        in the one finished last if it now has epochs left, or in the one after it."""
        in_progress = self.position > 0 and schedule.has(self.phase)
        if in_progress and self.epoch_in_phase <= schedule.phase(self.phase).epochs:
            return
        done = schedule.phase(self.done_phase) if schedule.has(self.done_phase) else None
        if done is not None and not self.stopped_early and self.done_epoch < done.epochs:
            self.phases_ended = [number for number in self.phases_ended if number != done.number]
            self.enter(done, self.done_epoch + 1)
        else:
            self.enter(schedule.following(self.done_phase))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> TrainingState:
        """Raises KeyError or TypeError if the tree isn't such a state."""
        values = dict(tree)
        values["losses"] = {number: PhaseLosses(**losses) for number, losses in values["losses"].items()}
        values["best"] = BestCheckpoint(**values["best"]) if values["best"] else None
        values["former_bests"] = [BestCheckpoint(**best) for best in values.get("former_bests", ())]
        if verdict := values.pop("phase3_verdict", None):  # of runs of earlier versions
            values["verdicts"] = {"3": verdict}
        values["so_far"] = EpochTotals(**values["so_far"])
        if "memory" in values:  # not in runs of earlier versions
            values["memory"] = MemoryState.from_json(values["memory"])
        state = TrainingState(**values)
        if "opened" not in values and state.begun:  # a state of an earlier version
            state.opened = state.phase
        return state


@dataclass(frozen=True)
class RunIdentity:
    """What a run consists of, compared key by key when it is resumed."""

    settings: dict[str, Any]  # resolved, as in settings.yaml
    settings_hashes: dict[str, str]
    sequences: str  # the path as given
    data_sha256: str
    tokenizer_sha256: str | None
    engine: str
    versions: dict[str, str]


@dataclass(frozen=True)
class CheckpointSnapshot:
    """One checkpoint's `state.json`."""

    identity: RunIdentity
    state: TrainingState

    def as_json(self) -> dict[str, Any]:
        return {"format": STATE_FORMAT, **asdict(self.identity), "state": self.state.as_json()}

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> CheckpointSnapshot:
        """Raises KeyError, TypeError or ValueError if the tree isn't a snapshot of this format."""
        values = dict(tree)
        if values.pop("format") != STATE_FORMAT:
            raise ValueError(f"expected format {STATE_FORMAT}")
        state = TrainingState.from_json(values.pop("state"))
        return CheckpointSnapshot(RunIdentity(**values), state)


def perplexity(loss: float) -> float:
    """Return exp(loss), or infinity if that exceeds a float."""
    return math.exp(loss) if loss < 700 else math.inf
