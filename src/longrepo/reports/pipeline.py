"""The pipeline in the terminal: what stage runs, what was chosen and why, and how to use what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longrepo.reports.html.headlines import Headline

_CURVES = {
    "tensorboard": "  curves: tensorboard --logdir {run}\n",
    "trackio": "  curves: trackio show --project longrepo\n",
    "none": "",
}
_FORMATS = {"adapter": "PEFT's", "model": "transformers'"}


class PipelineReporter:
    """Writes to standard output; the training's own lines go to standard error."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    def stage(self, number: int, of: int, name: str, note: str = "") -> None:
        self.console.print(f"\n[bold]{number}/{of} {name}[/bold]" + (f"  {escape(note)}" if note else ""))

    def note(self, text: str) -> None:
        self.console.print(f"· {escape(text)}")

    def choices(self, choices: Sequence[tuple[str, str, str]]) -> None:
        """What was chosen: (key, value, reason) each."""
        table = Table.grid(padding=(0, 2))
        for key, value, reason in choices:
            table.add_row(f"  {key}", escape(value), f"[dim]{escape(reason)}[/dim]")
        self.console.print(table)

    def use(self, trained: Path, base: str, run: Path, report_to: str) -> None:
        """Where the adapter is, or the model whose weights were all trained, and what to do with it."""
        self.console.print(
            f"\n[bold]{trained.name}:[/bold] {escape(str(trained))}\n"
            f"  in {_FORMATS[trained.name]} format; how to load it: {escape(str(trained / 'README.md'))}\n"
            f"  base model: {escape(base)}\n"
            f"{_CURVES[report_to].format(run=escape(str(run)))}"
            f"  more samples, questions, a planted definition: longrepo evaluate {escape(str(run))}"
        )

    def figures(self, headlines: Sequence[Headline], page: Path) -> None:
        """The most important ones, and where the rest stands."""
        self.console.print("\n[bold]what it bought[/bold]")
        table = Table.grid(padding=(0, 2))
        for one in headlines:
            table.add_row(f"  {one.value}", escape(one.label))
        self.console.print(table)
        self.console.print(f"[bold]page:[/bold] {escape(str(page))}")
