"""The interface through which long computations report their progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the steps of a computation, and each finished piece of counted work."""

    def step(self, what: str) -> None:
        """Report that a step begins."""

    def count(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Yield a function to call with the number of pieces that were just finished, of `total`."""


class NoProgress:
    """Discards all reports."""

    def step(self, what: str) -> None:
        """Do nothing."""

    @contextmanager
    def count(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Do nothing."""
        yield lambda _: None
