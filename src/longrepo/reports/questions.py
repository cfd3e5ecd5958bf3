"""What `check-questions` prints: how many answers of each kind were confirmed, and those that weren't."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longrepo.sequences.questions.check import Verdict
from longrepo.sequences.questions.rows import Asked


def print_checked(checked: list[tuple[Asked, Verdict]]) -> None:
    """Print a row for each kind of question, and every answer that was refuted."""
    console = Console()
    asked = Counter(verdict.kind or "unknown" for _, verdict in checked)
    confirmed = Counter(verdict.kind or "unknown" for _, verdict in checked if verdict.confirmed)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("questions", "asked", "confirmed", "refuted"):
        table.add_column(name, justify="left" if name == "questions" else "right", no_wrap=True)
    for kind in sorted(asked):
        table.add_row(kind, *(f"{n:,}" for n in (asked[kind], confirmed[kind], asked[kind] - confirmed[kind])))
    totals = (len(checked), confirmed.total(), len(checked) - confirmed.total())
    table.add_row("all", *(f"{n:,}" for n in totals), style="bold")
    console.print(table)
    for one, verdict in checked:
        if not verdict.confirmed:
            said = f"row {one.row}: {one.question} {one.answer} – refuted: {verdict.why}"
            console.print(Text("".join(c if c.isprintable() else "\ufffd" for c in said)), soft_wrap=True)
