"""How a long computation says where it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Is told each step, and of counted work each piece that is done."""

    def step(self, what: str) -> None:
        """A step begins."""

    def count(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Counted work: call what is yielded with how many pieces were done."""

    def stopped(self) -> None:
        """Ctrl-C has ended the work before anything was written."""


class NoProgress:
    """Nobody listens."""

    def step(self, what: str) -> None:
        """Nothing."""

    @contextmanager
    def count(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Nothing."""
        yield lambda _: None

    def stopped(self) -> None:
        """Nothing."""
