"""Bars for work of known size, on standard error, where somebody is watching a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show `what`; call what is yielded once for each piece done."""
    with Terminal().count(what, total) as done:
        yield lambda: done(1)


class Terminal:
    """Shows steps and counted work with the time that is left: the `Watch` of a command. Where nobody is watching,
    steps become lines if `verbose` asks for them."""

    def __init__(self, verbose: bool = False) -> None:
        self._console = Console(stderr=True)
        self._verbose = verbose

    def step(self, what: str) -> None:
        """A line, with `--verbose`."""
        if self._verbose:
            self._console.print(f"… {what}", style="dim", highlight=False)

    @contextmanager
    def count(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar while the work lasts."""
        self.step(what)
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        disable = not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=disable) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
