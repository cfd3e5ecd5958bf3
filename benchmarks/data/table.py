"""The one table of benchmarks/data: what was to be shown, on which repository, the figure, the goal, met or not.

    python benchmarks/data/table.py FOLDER

FOLDER is reproduce.py's: machine.json, repositories.json, history.json, prepare.json, leaks.json, questions.json,
redaction.json. What isn't there has no rows.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

GIB = 2**30
Tree = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line: the row of the table that it belongs to, and whether its goal was met (None: it has none)."""

    number: int
    what: str
    on: str
    figure: str
    goal: str = ""
    met: bool | None = None


def history_rows(found: Tree, heads: Tree) -> Iterator[Row]:
    """Row 1: reading all commits' changes."""
    for name, one in found.items():
        rates = one["commits_per_second"]
        for other, least in (
            ("PyDriller", 10.0),
            ("GitPython", 10.0),
            ("bare git, one after the other", 0.6),
            ("bare git, both at once", 0.6),
        ):
            times = rates["longrepo"] / rates[other]
            figure = f"{times:.2f} × ({rates['longrepo']:,.0f} commits/s of {one['commits']:,})"
            yield Row(1, f"reading history, beside {other}", at(name, heads), figure, f"≥ {least:g} ×", times >= least)


def prepared_rows(found: Tree) -> list[Row]:
    """Rows 2, 3, 4 and 7: what prepare.py measured."""
    parts = found["parts"]
    rows: list[Row] = []
    for part, of_part in (
        ("throughput", throughput_rows),
        ("memory", memory_rows),
        ("memory, many commits", memory_rows),
        ("second run", second_run_rows),
        ("fill", fill_rows),
        ("identical", identical_rows),
    ):
        for name, one in parts.get(part, {}).items():
            rows += of_part(f"{name} ({one['head'][:10]}, {one['commits']:,} commits)", one)
    return rows


def throughput_rows(on: str, one: Tree) -> Iterator[Row]:
    rates = one["tokens_per_second"]
    for other, goal in (("tokenizer, all cores", 0.8), ("tokenizer, one core", None)):
        ratios = [mine / its for mine, its in zip(rates["preparing"], rates[other], strict=True)]
        ratio = statistics.median(ratios)
        speeds = f"{statistics.median(rates['preparing']) / 1e3:,.0f} of {statistics.median(rates[other]) / 1e3:,.0f}"
        figure = f"{ratio:.2f} × ({min(ratios):.2f}–{max(ratios):.2f}; {speeds} k tokens/s; {noise(one['runs'])})"
        met = None if goal is None else ratio >= goal
        yield Row(2, f"preparing, beside the {other}", on, figure, "≥ 0.8 ×" if goal else "", met)


def noise(runs: list[Tree]) -> str:
    """What else the machine did during runs."""
    return f"others kept {statistics.median(run['others'] for run in runs):.1f} cores busy"


def memory_rows(on: str, one: Tree) -> Iterator[Row]:
    run = one["run"]
    figure = (
        f"{run['pss'] / GIB:.2f} GiB (resident {run['rss'] / GIB:.2f}, largest process {run['largest'] / GIB:.2f}; "
        f"{run['processes']} processes, {run['seconds']:.0f} s, {one['changes']:,} changes)"
    )
    yield Row(2, f"peak memory, all processes, {one['settings']}", on, figure, "≤ 1 GiB", run["pss"] <= GIB)


def second_run_rows(on: str, one: Tree) -> Iterator[Row]:
    runs = [run for each in one["runs"].values() for run in each]
    seconds = {what: [run["seconds"] for run in runs] for what, runs in one["runs"].items()}
    new = f", {one['new commits']} with merged ones" if one["new commits"] > 10 else ""
    for what, goal in (("after 10 commits", 0.1), ("nothing new", None)):
        shares = [its / first for its, first in zip(seconds[what], seconds["first"], strict=True)]
        middle = statistics.median(shares)
        times = f"{statistics.median(seconds[what]):.1f} of {statistics.median(seconds['first']):.1f} s"
        figure = f"{middle:.1%} ({min(shares):.1%}–{max(shares):.1%}; {times}{new if goal else ''}; {noise(runs)})"
        met = None if goal is None else middle <= goal
        yield Row(3, f"second run, {what}", on, figure, "≤ 10 %" if goal else "", met)


def fill_rows(on: str, one: Tree) -> Iterator[Row]:
    on = f"{on}, {one['text files']:,} text files"
    phases = one["phases"].values()
    fills, within = [phase["fill"] for phase in phases], [phase["within"] for phase in phases]
    of = ", ".join(f"{phase['sequences']:,}" for phase in phases)
    yield Row(4, "fill by phase", on, percents(fills) + f" (of {of} sequences)", "≥ 90 %", min(fills) >= 0.9)
    yield Row(4, "within the guide's ranges", on, percents(within), "≥ 85 %", min(within) >= 0.85)
    lost = [phase["without a reason"] for phase in phases]
    used = percents([phase["used"] / max(phase["tokenized"], 1) for phase in phases])
    figure = f"{', '.join(map(str, lost))} (used {used})"
    yield Row(4, "tokens dropped without a reason", on, figure, "0", not any(lost))


def identical_rows(on: str, one: Tree) -> Iterator[Row]:
    sums = list(one["sha256"].values())
    same = sum(each == sums[0] for each in sums)
    figure = f"{same} of {len(sums)} runs: sha256 {sums[0][:12]}…"
    yield Row(7, "identical bytes", on, figure, "all", same == len(sums))


def leak_rows(found: Tree, heads: Tree) -> Iterator[Row]:
    """Row 5: {name: {"prepared" and "naive": {"scored lines", "leaks", "rows with a leak"}}}."""
    for name, one in found.items():
        for what, goal in (("prepared", "0"), ("naive", "> 0")):
            leaks = one[what]["leaks"]
            figure = f"{leaks:,} leaks in {one[what]['scored lines']:,} scored lines"
            said = "leaks, split by ancestry" if what == "prepared" else "leaks, naive random split"
            yield Row(5, said, at(name, heads), figure, goal, (leaks > 0) == (what == "naive"))


def question_rows(found: Tree, heads: Tree) -> Iterator[Row]:
    """Row 6: {name: {"kinds": {kind: {"asked", "confirmed"}}, …}}."""
    for name, one in found.items():
        asked = sum(kind["asked"] for kind in one["kinds"].values())
        confirmed = sum(kind["confirmed"] for kind in one["kinds"].values())
        figure = f"{confirmed:,} of {asked:,}, {len(one['kinds'])} kinds"
        yield Row(6, "questions confirmed", at(name, heads), figure, "100 %", confirmed == asked > 0)


def redaction_rows(found: Tree) -> Iterator[Row]:
    """Row 6: planted secrets and false redactions."""
    planted = found["planted"].values()
    left, count = sum(one["left"] for one in planted), sum(one["planted"] for one in planted)
    yield Row(6, "planted secrets left", "made here", f"{left} of {count:,}", "0", left == 0)
    real = found.get("real code", {})
    if real:
        lines, false = (sum(one[key] for one in real.values()) for key in ("lines", "false"))
        figure = f"{false / lines * 1e4:.2f} per 10,000 lines ({false} in {lines:,})"
        on = ", ".join(f"{name} ({one['commit'][:10]})" for name, one in real.items())
        yield Row(6, "false redactions", on, figure, "≤ 1", false / lines <= 1e-4)


def at(name: str, heads: Tree) -> str:
    name = name.removesuffix(".git")
    return f"{name} ({heads[name][:10]})" if name in heads else name


def percents(shares: list[float]) -> str:
    return ", ".join(f"{share:.1%}" for share in shares)


def all_rows(folder: Path) -> list[Row]:
    """Of everything that is there."""

    def load(name: str) -> Tree:
        file = folder / f"{name}.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    heads, prepared, redaction = load("repositories"), load("prepare"), load("redaction")
    rows = prepared_rows(prepared) if prepared else []
    simple: tuple[tuple[str, Callable[[Tree, Tree], Iterator[Row]]], ...] = (
        ("history", history_rows),
        ("leaks", leak_rows),
        ("questions", question_rows),
    )
    for name, of_file in simple:
        rows += of_file(load(name), heads)
    rows += redaction_rows(redaction) if redaction else []
    return sorted(rows, key=lambda row: row.number)


def show(rows: list[Row], machine: Tree) -> None:
    """Print them, with the machine, the versions and the command."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    caption = f"{machine['system']}, {machine['cores']} cores; {versions}\n{machine['command']}"
    table = Table(title="benchmarks/data", caption=caption)
    for column in ("", "what", "repository", "figure", "goal", "met"):
        table.add_column(column, overflow="fold")
    last = 0
    for row in rows:
        if row.number != last and last:
            table.add_section()
        met = "" if row.met is None else "yes" if row.met else "[bold]no[/]"
        table.add_row("" if row.number == last else str(row.number), row.what, row.on, row.figure, row.goal, met)
        last = row.number
    Console(width=max(Console().width, 150)).print(table)


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "machine.json").exists():
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    show(all_rows(folder), json.loads((folder / "machine.json").read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
