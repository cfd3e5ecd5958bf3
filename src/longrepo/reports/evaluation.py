"""Base against tuned, as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from longrepo.evaluation.compare import Comparison


def print_comparison(comparisons: Sequence[Comparison], console: Console) -> None:
    """One row a length range, and a sentence that says what it means."""
    table = Table(title="Held-out loss, nats per target token (lower is better)", title_justify="left")
    for name in ("tokens", "sequences", "targets", "base", "tuned", "difference, 95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparisons:
        interval = f"{row.low:+.3f} to {row.high:+.3f}" if row.groups > 1 else "one commit: none"
        table.add_row(
            f"≤ {row.cap:,}",
            f"{row.sequences} of {row.groups}",
            f"{row.targets:,}",
            f"{row.base:.3f}",
            f"{row.tuned:.3f}",
            f"{row.difference:+.3f}, {interval}",
        )
    console.print(table)
    console.print(verdict(comparisons))


def verdict(comparisons: Sequence[Comparison]) -> str:
    """What the table says, in one sentence."""
    if not comparisons:
        return "There is no held-out sequence to compare on."
    better = [row for row in comparisons if row.difference < 0]
    sure = [row for row in better if row.certain]
    if len(better) == len(comparisons):
        word = "at every length" if len(sure) == len(comparisons) else f"at every length, beyond chance at {len(sure)}"
        return f"Tuned is below base {word} (sequences of so many independent commits or files)."
    lengths = ", ".join(f"{row.cap:,}" for row in comparisons if row.difference >= 0)
    return f"Tuned is NOT below base up to {lengths} tokens: more data, more epochs or a higher rate may help."
