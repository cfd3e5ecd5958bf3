"""A training run in the terminal: a banner a phase, a few lines an epoch, a progress bar where there is a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from longrepo.config.schema import ContextSettings
from longrepo.context.recorded import said
from longrepo.training.reporter import EpochRecord, PhaseRecord, UpdateRecord


class TerminalReporter:
    """Writes to standard error, so that standard output stays free for results; `verbose` adds a line an update."""

    def __init__(self, console: Console | None = None, verbose: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.verbose = verbose
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def note(self, text: str) -> None:
        self._print(f"· {escape(text)}")

    def phase(self, record: PhaseRecord) -> None:
        self._end_bar()
        self._print("")
        self._print(
            f"[bold]phase {record.phase}[/bold]  epochs {record.first_epoch}-{record.last_epoch}, sequences of "
            f"{record.longer_than + 1}-{record.max_length} tokens, learning rate {record.learning_rate:.2e} "
            f"({record.lr_multiplier:g} x base)"
        )
        replay = f", {record.replayed} of them replayed shorter ones" if record.replayed else ""
        self._print(f"  {record.sequences} sequences{replay}; {record.updates} updates in the phase")
        if record.context:
            self._print(f"  positions: {said(ContextSettings.model_validate(record.context))}")
        self._print(f"  validation loss before it {record.validation.loss:.4f}{_lengths(record.validation.by_length)}")

    def update(self, record: UpdateRecord) -> None:
        if self.verbose:
            self._print(
                f"  update {record.update} ({record.position}/{record.updates}): loss {record.loss:.4f}, learning rate "
                f"{record.learning_rate:.2e}, gradient norm {record.gradient_norm:.3f}, "
                f"{record.tokens / max(record.seconds, 1e-9):.0f} tokens/s"
            )
        self._progress(f"epoch {record.epoch}, loss {record.loss:.3f}", record.position, record.updates)

    def validating(self, done: int, of: int) -> None:
        self._progress("validation", done, of)

    def epoch(self, record: EpochRecord) -> None:
        self._end_bar()
        star = "  [bold]best[/bold]" if record.best else ""
        lengths = _lengths(record.validation.by_length)
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
            f"{record.tokens_per_second:.0f}/s; {_memory(record)}"
        )

    def saved(self, folder: Path, best: bool) -> None:
        if self.verbose:
            self._print(f"  saved {escape(folder.name)}" + (" (best)" if best else ""))

    def close(self) -> None:
        """Take a progress bar off the screen; what ends a run calls it."""
        self._end_bar()

    def _print(self, text: str) -> None:
        (self._bar.console if self._bar else self.console).print(text)

    def _progress(self, what: str, done: int, of: int) -> None:
        if not self.console.is_terminal:
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(what, total=of)
        assert self._task is not None
        if self._bar.tasks[0].total != of:
            self._bar.reset(self._task, total=of)
        self._bar.update(self._task, description=what, completed=done)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def _memory(record: EpochRecord) -> str:
    use = record.memory
    planned = f", planned {use.planned / 2**30:.2f} ({use.method})" if use.planned else ""
    skipped = f"; {use.skipped} sequences skipped: nothing counts in their first {use.cut_to} tokens"
    return f"peak memory {use.used / 2**30:.2f} GiB{planned}" + (skipped if use.skipped else "")


def _lengths(by_length: dict[str, float]) -> str:
    if len(by_length) < 2:
        return ""
    return "  (" + ", ".join(f"{name}: {loss:.4f}" for name, loss in by_length.items()) + ")"
