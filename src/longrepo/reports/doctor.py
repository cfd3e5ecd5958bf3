"""Findings as a list for a terminal, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longrepo.memory.doctor.finding import Finding

MARKS = {"ok": "[green]✓[/green]", "note": "[yellow]![/yellow]", "problem": "[red]✗[/red]"}
TOPIC_WIDTH = 9  # characters of the longest topic


def print_findings(findings: Iterable[Finding], console: Console) -> list[Finding]:
    """Print each as it is found, what to do below it, and a last line that says how it stands; return them all."""
    seen = []
    with console.status("looking"):
        for finding in findings:
            table = Table.grid(padding=(0, 1))
            table.add_column(width=1)
            table.add_column(width=TOPIC_WIDTH)
            table.add_column(overflow="fold")
            remedy = f"\n[dim]→ {escape(finding.remedy)}[/dim]" if finding.remedy else ""
            table.add_row(MARKS[finding.status], finding.topic, escape(finding.what) + remedy)
            console.print(table)
            seen.append(finding)
    console.print(f"\n{verdict(seen)}")
    return seen


def verdict(findings: Sequence[Finding]) -> str:
    """How it stands, in one sentence."""
    problems = [finding.topic for finding in findings if finding.status == "problem"]
    if not problems:
        return "The main job would run."
    return f"The main job would not run: {', '.join(dict.fromkeys(problems))}."


def as_json(findings: Sequence[Finding]) -> str:
    """`{"runs": bool, "findings": [{status, topic, what, remedy}]}`."""
    runs = all(finding.status != "problem" for finding in findings)
    return json.dumps({"runs": runs, "findings": [asdict(finding) for finding in findings]}, indent=2)
