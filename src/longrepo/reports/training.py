"""Training and the pipeline in the terminal: phases, epochs and progress bars; stages, choices and what to do next.

Progress bars go to standard error, and only if that is a terminal.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from longrepo.config.schema import ContextSettings
from longrepo.reports.html.page import Headline, format_duration
from longrepo.rope.apply import describe_context
from longrepo.training.events import EpochRecord, PhaseRecord, RunProgress, UpdateRecord

if TYPE_CHECKING:
    from longrepo.data.metadata import Header
    from longrepo.evaluation.results import Evaluation
    from longrepo.training.launch import TrainedRun


LINE_SECONDS = 60.0  # between two lines of progress if there is no terminal


class TerminalReporter:
    """Writes to standard error: standard output is for results. `verbose` adds a line per update."""

    def __init__(
        self, console: Console | None = None, verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.verbose = verbose
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._clock, self._last_line = clock, clock()
        self._progress: RunProgress | None = None

    def note(self, text: str) -> None:
        self._print(f"· {escape(text)}")

    def phase(self, record: PhaseRecord) -> None:
        self._print("")
        self._print(
            f"[bold]phase {record.phase}[/bold]  epochs {record.first_epoch}-{record.last_epoch}, sequences of "
            f"{record.longer_than + 1}-{record.max_length} tokens, learning rate {record.learning_rate:.2e} "
            f"({record.lr_multiplier:g} x base)"
        )
        replay = f", {record.replayed} of them replayed shorter ones" if record.replayed else ""
        self._print(f"  {record.sequences} sequences{replay}; {record.updates} updates in the phase")
        if record.context:
            self._print(f"  positions: {describe_context(ContextSettings.model_validate(record.context))}")
        self._print(
            f"  validation loss before it {record.validation.loss:.4f}{_lengths_text(record.validation.by_length)}"
        )

    def update(self, record: UpdateRecord) -> None:
        if self.verbose:
            self._print(
                f"  update {record.update} ({record.position}/{record.updates}): loss {record.loss:.4f}, learning rate "
                f"{record.learning_rate:.2e}, gradient norm {record.gradient_norm:.3f}, "
                f"{record.tokens / max(record.seconds, 1e-9):.0f} tokens/s"
            )

    def progress(self, progress: RunProgress) -> None:
        self._progress = progress
        self._show_progress(f"loss {progress.loss:.3f}")

    def validating(self, done: int, of: int) -> None:
        self._show_progress(f"validating {done}/{of}")

    def epoch(self, record: EpochRecord) -> None:
        star = "  [bold]best[/bold]" if record.best else ""
        lengths = _lengths_text(record.validation.by_length)
        self._print(
            f"[bold]epoch {record.epoch}[/bold]  train {record.train_loss:.4f}  validation "
            f"{record.validation.loss:.4f}  perplexity {record.perplexity:.2f}{star}{lengths}"
        )
        counts = ", ".join(f"{count} {name}" for name, count in record.by_difficulty.items() if count)
        out = ", ".join(f"{count} by {reason}" for reason, count in record.left_out.items() if count)
        self._print(
            f"  {record.sequences} sequences ({counts}; {record.replayed} replayed)"
            + (f"; left out: {out}" if out else "")
        )
        self._print(
            f"  gradient norm {record.gradient_norm_min:.3f} / {record.gradient_norm_mean:.3f} / "
            f"{record.gradient_norm_max:.3f} (min/mean/max); {record.tokens} tokens at "
            f"{record.tokens_per_second:.0f}/s; {_memory_text(record)}"
        )

    def saved(self, folder: Path, best: bool) -> None:
        if self.verbose:
            self._print(f"  saved {escape(folder.name)}" + (" (best)" if best else ""))

    def close(self) -> None:
        """Remove the progress bar from the screen, at the end of a run."""
        self._end_bar()

    def _print(self, text: str) -> None:
        (self._bar.console if self._bar else self.console).print(text)

    def _show_progress(self, what: str) -> None:
        """One bar for the whole run; without a terminal a line a minute."""
        if self.console.is_terminal:
            self._update_bar(what)
        elif self._clock() - self._last_line >= LINE_SECONDS:
            self._last_line = self._clock()
            self._print(f"  {_progress_text(self._progress, what)}")

    def _update_bar(self, what: str) -> None:
        if self._bar is None:
            columns = (BarColumn(), TextColumn("{task.percentage:3.0f} %  {task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(what, total=1.0)
        assert self._task is not None
        share = self._progress.share if self._progress else 0.0
        self._bar.update(
            self._task, description=_progress_text(self._progress, what, with_share=False), completed=share
        )

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def _progress_text(progress: RunProgress | None, what: str, with_share: bool = True) -> str:
    """The share, the place, and the time left: `34 %  phase 2, epoch 7 of 13, update 12 of 40, loss 1.2; 2 h left`."""
    if progress is None:
        return what
    share = f"{progress.share:.0%}  ".replace("%", " %") if with_share else ""
    left = "" if progress.seconds_left is None else f"; about {format_duration(progress.seconds_left)} left"
    place = f"phase {progress.phase}, epoch {progress.epoch} of {progress.epochs}"
    return f"{share}{place}, update {progress.position} of {progress.updates}, {what}{left}"


def _memory_text(record: EpochRecord) -> str:
    use = record.memory
    planned = f", planned {use.planned / 2**30:.2f} ({use.method})" if use.planned else ""
    skipped = f"; {use.skipped} sequences skipped: no target among their first {use.cut_to} tokens"
    return f"peak memory {use.used / 2**30:.2f} GiB{planned}" + (skipped if use.skipped else "")


def _lengths_text(by_length: dict[str, float]) -> str:
    if len(by_length) < 2:
        return ""
    return "  (" + ", ".join(f"{name}: {loss:.4f}" for name, loss in by_length.items()) + ")"


class JsonReporter:
    """Writes each event of a training as a line of JSON to standard output, for programs that watch it."""

    def note(self, text: str) -> None:
        self.write("note", {"text": text})

    def phase(self, record: PhaseRecord) -> None:
        self.write("phase", asdict(record))

    def update(self, record: UpdateRecord) -> None:
        self.write("update", asdict(record))

    def progress(self, progress: RunProgress) -> None:
        self.write("progress", asdict(progress))

    def validating(self, done: int, of: int) -> None:
        self.write("validating", {"done": done, "of": of})

    def epoch(self, record: EpochRecord) -> None:
        self.write("epoch", asdict(record))

    def saved(self, folder: Path, best: bool) -> None:
        self.write("saved", {"checkpoint": str(folder), "best": best})

    def close(self) -> None:
        """Nothing is left to write."""

    def write(self, event: str, content: dict[str, Any]) -> None:
        """Write one event; a number that JSON can't hold (infinity) becomes null."""
        print(json.dumps(_finite({"event": event, **content}), ensure_ascii=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_CURVE_COMMANDS = {
    "tensorboard": "  curves: tensorboard --logdir {run}\n",
    "trackio": "  curves: trackio show --project longrepo\n",
    "wandb": "  curves: project longrepo on Weights & Biases\n",
    "mlflow": "  curves: mlflow ui, experiment longrepo\n",
    "none": "",
}
_FORMAT_OWNERS = {"adapter": "PEFT's", "model": "transformers'"}


class PipelineReporter:
    """Writes to standard output; the training's own lines go to standard error."""

    def __init__(self, verbose: bool = False) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.verbose = verbose

    @property
    def progress(self) -> TerminalProgress:
        """The progress of a stage."""
        return TerminalProgress(self.verbose)

    @contextmanager
    def training(self) -> Iterator[TerminalReporter]:
        """The reporter of the training stage."""
        reporter = TerminalReporter(verbose=self.verbose)
        try:
            yield reporter
        finally:
            reporter.close()

    def stage(self, number: int, of: int, name: str, note: str = "") -> None:
        self.console.print(f"\n[bold]{number}/{of} {name}[/bold]" + (f"  {escape(note)}" if note else ""))

    def note(self, text: str) -> None:
        self.console.print(f"· {escape(text)}")

    def choices(self, choices: Sequence[tuple[str, str, str]]) -> None:
        """Print choices, each as (key, value, reason)."""
        table = Table.grid(padding=(0, 2))
        for key, value, reason in choices:
            table.add_row(f"  {key}", escape(value), f"[dim]{escape(reason)}[/dim]")
        self.console.print(table)

    def prepared(self, header: Header, summary: dict[str, Any], sequences: Path, seconds: float) -> None:
        """Print what the sequences were made of, and how many there are."""
        from longrepo.reports.sequences import show_preparation

        show_preparation(self.console, header, summary, str(sequences), seconds)

    def trained(self, run: TrainedRun) -> None:
        """Print the folder of the adapter or model, if it was written now."""
        if run.trained and not run.already_finished:
            print(f"{run.trained.name}: {run.trained}")

    def compared(self, evaluation: Evaluation) -> None:
        """Print base against tuned, and notes on the figures."""
        from longrepo.reports.evaluation import group_name, print_changes, print_comparison

        print_comparison(evaluation.comparisons, self.console, group_name(evaluation))
        print_changes(evaluation, self.console)
        for note in evaluation.notes:
            self.note(note)

    def use(self, trained: Path, base: str, run: Path, report_to: str) -> None:
        """Print where the adapter or model is, and what to do with it."""
        self.console.print(
            f"\n[bold]{trained.name}:[/bold] {escape(str(trained))}\n"
            f"  in {_FORMAT_OWNERS[trained.name]} format; how to load it: {escape(str(trained / 'README.md'))}\n"
            f"  base model: {escape(base)}\n"
            f"{_CURVE_COMMANDS[report_to].format(run=escape(str(run)))}"
            f"  more samples, questions, a planted definition: longrepo evaluate {escape(str(run))}"
        )

    def figures(self, headlines: Sequence[Headline], page: Path) -> None:
        """Print the most important figures, and the page with the others."""
        self.console.print("\n[bold]result[/bold]")
        table = Table.grid(padding=(0, 2))
        for one in headlines:
            table.add_row(f"  {one.value}", escape(one.label))
        self.console.print(table)
        self.console.print(f"[bold]page:[/bold] {escape(str(page))}")


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar; call the yielded function once for each piece done."""
    with TerminalProgress().count(what, total) as done:
        yield lambda: done(1)


class TerminalProgress:
    """Shows steps and counted work with the time left: the `Progress` of a command. With `verbose`, steps are lines."""

    def __init__(self, verbose: bool = False) -> None:
        self._console = Console(stderr=True)
        self._verbose = verbose

    def step(self, what: str) -> None:
        """Print a line, with `--verbose`."""
        if self._verbose:
            self._console.print(f"… {what}", style="dim", highlight=False)

    @contextmanager
    def count(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar during the work."""
        self.step(what)
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        disable = not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=disable) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
