"""The methods that can compute a step of one length, and which comes next when memory runs short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from longrepo.engines.base import StepMethod


class MethodEstimate(Protocol):
    """A method as planned for sequences of `length` tokens: it needs `peak` bytes, and `disk_held` on disk. Asking
    for them may take seconds the first time."""

    @property
    def method(self) -> StepMethod: ...

    @property
    def length(self) -> int: ...

    @property
    def peak(self) -> int: ...

    @property
    def disk_held(self) -> int: ...


@dataclass(frozen=True)
class Methods:
    """The methods for one length in the planner's order of preference, the chosen one, and the bytes that a store may
    hold on disk (None: any number).

    Down means less memory: first another store with the same chunks, which changes no bit; then smaller chunks, the
    largest of them first; then whatever else needs less.
    """

    estimates: tuple[MethodEstimate, ...]
    chosen: MethodEstimate
    disk: int | None = None

    def of(self, method: StepMethod) -> MethodEstimate | None:
        return next((estimate for estimate in self.estimates if estimate.method == method), None)

    def start(self, method: StepMethod | None = None, ceiling: int | None = None) -> MethodEstimate:
        """The estimate of `method` (the chosen one if there is no method, or it isn't listed) if it is planned below
        `ceiling` bytes; else the next that is; else the one that needs least."""
        first = (self.of(method) if method else None) or self.chosen
        if ceiling is None or first.peak < ceiling:
            return first
        below = next((estimate for estimate in self._lower_estimates(first) if estimate.peak < ceiling), None)
        return below or min((first, *self._lower_estimates(first)), key=lambda estimate: estimate.peak)

    def lower(self, current: MethodEstimate, room: int | None = None) -> MethodEstimate | None:
        """The next estimate below `current`: within `room` bytes if any is, else the one that needs least; None if
        `current` is the lowest. Without `room` simply the next."""
        following = next(
            (estimate for estimate in self._lower_estimates(current) if room is None or estimate.peak <= room), None
        )
        return following or min(self._lower_estimates(current), key=lambda estimate: estimate.peak, default=None)

    def _lower_estimates(self, current: MethodEstimate) -> Iterator[MethodEstimate]:
        """Those that need less, in order; each is planned only when its turn comes."""

        def order(estimate: MethodEstimate) -> tuple[int, int]:
            if differ_in_store_only(estimate.method, current.method):
                return 0, 0
            smaller = estimate.method.step == "chunked" and (
                current.method.step == "plain" or estimate.method.chunk < current.method.chunk
            )
            return (1, -estimate.method.chunk) if smaller else (2, estimate.method.chunk)

        for estimate in sorted(self.estimates, key=order):
            if estimate.method != current.method and self._has_disk(estimate) and estimate.peak < current.peak:
                yield estimate

    def _has_disk(self, estimate: MethodEstimate) -> bool:
        return estimate.method.store != "disk" or self.disk is None or estimate.disk_held <= self.disk


def differ_in_store_only(one: StepMethod, other: StepMethod) -> bool:
    """Whether two methods give the same bits: they differ in the store alone."""
    return (one.step, one.chunk) == (other.step, other.chunk)
