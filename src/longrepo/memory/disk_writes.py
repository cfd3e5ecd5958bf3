"""Plan how many bytes a run writes to the disk, and keep to `memory.disk_write_gb`: a laptop's SSD wears out.

Two things write: the store of chunked steps on disk, each sequence anew, and the checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from longrepo.errors import InputError
from longrepo.memory.budget import GIB
from longrepo.memory.estimate import MethodEstimate

CHECKPOINT_BYTES = 12  # per trained parameter: itself and Adam's two moments, in float32


@dataclass(frozen=True)
class PhaseWork:
    """What a phase has ahead: tokens to train on in all its epochs, and checkpoints to write."""

    tokens: int
    saves: int


def stored_bytes(estimate: MethodEstimate, tokens: int, batch: int) -> int:
    """Bytes that a method writes to its store for `tokens` tokens, in micro-batches of `batch` sequences."""
    if estimate.method.store != "disk":
        return 0
    return int(estimate.disk_written * tokens / (estimate.length * batch))


@dataclass
class DiskWrites:
    """The bytes that a run writes. `limit`: of `memory.disk_write_gb`, None: any number; `before`: written by the run
    before it was interrupted; `trained`: parameters that a checkpoint holds; `count`: counts what each phase has ahead
    (asked only if something limits it or writes)."""

    limit: int | None
    before: int
    batch: int
    trained: int
    count: Callable[[], Mapping[int, PhaseWork]]
    chosen: dict[int, MethodEstimate] = field(default_factory=dict)  # methods by phase

    @cached_property
    def work(self) -> Mapping[int, PhaseWork]:
        """What each phase has ahead."""
        return self.count()

    def check_checkpoints(self) -> None:
        """Raise InputError if the checkpoints alone write more than is allowed."""
        if self.limit is not None and (least := self.before + self._checkpoints()) > self.limit:
            raise InputError(
                f"memory.disk_write_gb: the checkpoints alone write {least / GIB:.1f} GiB over the run, "
                f"{self.limit / GIB:.1f} are allowed: raise it, or save less often (training.save_every_steps=0)"
            )

    def allow(self, number: int, estimate: MethodEstimate) -> bool:
        """Whether a phase may be computed by this method: what it writes is within what the others leave."""
        if self.limit is None or estimate.method.store != "disk":
            return True
        others = {phase: one for phase, one in self.chosen.items() if phase != number}
        return self.before + self._total(others | {number: estimate}) <= self.limit

    def refusal(self, number: int, estimates: Sequence[MethodEstimate], room: str) -> str:
        """Say that a phase fits only by methods that write too much. `room`: the memory it must fit."""
        assert self.limit is not None
        least = min(stored_bytes(one, self.work[number].tokens, self.batch) for one in estimates)
        left = self.limit - self.before - self._total({n: one for n, one in self.chosen.items() if n != number})
        return (
            f"memory.disk_write_gb: phase {number} fits {room} only with a store on disk, which writes "
            f"{least / GIB:.1f} GiB over the run, and {max(left, 0) / GIB:.1f} are left of {self.limit / GIB:.1f}: "
            "raise it, give the run more memory (memory.budget_gb) or less to do (fewer epochs, "
            "training.max_tokens_per_epoch)"
        )

    def line(self) -> str | None:
        """Say what the run writes in all; None if nothing limits it and no store is on disk."""
        if self.limit is None and all(one.method.store != "disk" for one in self.chosen.values()):
            return None
        before = f" beside {self.before / GIB:.1f} GiB before" if self.before else ""
        of = f" of {self.limit / GIB:.1f} GiB allowed" if self.limit is not None else ""
        return (
            f"disk: the run writes up to {self._total(self.chosen) / GIB:.2f} GiB{before}{of} (steps' store and "
            "checkpoints)"
        )

    def _checkpoints(self) -> int:
        return sum(one.saves for one in self.work.values()) * self.trained * CHECKPOINT_BYTES

    def _total(self, chosen: Mapping[int, MethodEstimate]) -> int:
        stored = (stored_bytes(one, self.work[number].tokens, self.batch) for number, one in chosen.items())
        return self._checkpoints() + sum(stored)
