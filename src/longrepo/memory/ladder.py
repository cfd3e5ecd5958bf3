"""A phase's rungs: the methods a step can be computed by, and which comes next when one needs too much memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from longrepo.engines.method import Method


class Rung(Protocol):
    """A method as planned for sequences of `length` tokens: it needs `peak` bytes, and `disk_held` on disk. Asking
    for them may take seconds the first time."""

    @property
    def method(self) -> Method: ...

    @property
    def length(self) -> int: ...

    @property
    def peak(self) -> int: ...

    @property
    def disk_held(self) -> int: ...


@dataclass(frozen=True)
class Ladder:
    """The rungs of one length in the planner's order of preference, the one it chose, and the bytes that a store may
    hold on disk (None: any number).

    Down means less memory: first another store with the same chunks, which changes no bit; then smaller chunks, the
    largest of them first; then whatever else needs less.
    """

    rungs: tuple[Rung, ...]
    chosen: Rung
    disk: int | None = None

    def of(self, method: Method) -> Rung | None:
        return next((rung for rung in self.rungs if rung.method == method), None)

    def start(self, method: Method | None = None, ceiling: int | None = None) -> Rung:
        """The rung of `method` (without one, or where it isn't among the rungs, the chosen one) if it is planned
        below `ceiling` bytes; else the next that is; where none is, the one that needs least."""
        first = (self.of(method) if method else None) or self.chosen
        if ceiling is None or first.peak < ceiling:
            return first
        below = next((rung for rung in self._down_from(first) if rung.peak < ceiling), None)
        return below or min((first, *self._down_from(first)), key=lambda rung: rung.peak)

    def lower(self, current: Rung, room: int | None = None) -> Rung | None:
        """The next rung that needs less than `current`: within `room` bytes if any is, else the one that needs least;
        None where `current` is the lowest. Without `room` simply the next."""
        following = next((rung for rung in self._down_from(current) if room is None or rung.peak <= room), None)
        return following or min(self._down_from(current), key=lambda rung: rung.peak, default=None)

    def _down_from(self, current: Rung) -> Iterator[Rung]:
        """Those that need less, in order; each is planned only when its turn comes."""

        def order(rung: Rung) -> tuple[int, int]:
            if same_chunks(rung.method, current.method):
                return 0, 0
            smaller = rung.method.step == "chunked" and (
                current.method.step == "plain" or rung.method.chunk < current.method.chunk
            )
            return (1, -rung.method.chunk) if smaller else (2, rung.method.chunk)

        for rung in sorted(self.rungs, key=order):
            if rung.method != current.method and self._has_disk(rung) and rung.peak < current.peak:
                yield rung

    def _has_disk(self, rung: Rung) -> bool:
        return rung.method.store != "disk" or self.disk is None or rung.disk_held <= self.disk


def same_chunks(one: Method, other: Method) -> bool:
    """Whether two methods give the same bits: they differ in the store alone."""
    return (one.step, one.chunk) == (other.step, other.chunk)
