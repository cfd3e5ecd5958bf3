"""What do the sequences of whole repositories teach? Prepares each and counts what `inspect --lint` finds, by rule.

    python benchmarks/data/lint.py REPO [REPO …] --work FOLDER [--phases 2] [--model NAME]

Prepared with the embedded model's tokenizer and the demo's lengths, unless another is named. FOLDER keeps the sequences
and each repository's findings; what stands there of the same commit and preparation is not done again. Prints a column
for each repository, and how much was checked in all. Exit status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from longrepo import api
from longrepo.data.dataset import read_sequences
from longrepo.data.lint import LINT_RULES, lint_sequences
from longrepo.data.metadata import PREPARATION_VERSION, tokenizer_of
from longrepo.reports.sequences import phases_of
from longrepo.repository.repository import Repository

DEMO = Path(__file__).parents[2] / "examples" / "demo.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--phases", type=int, default=2)
    parser.add_argument("--model", default=None)
    given = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for repository in given.repositories:
        name = repository.name.removesuffix(".git")
        found[name] = findings(repository, given.work / name, given.phases, given.model)
        total, rows, seconds = (found[name][key] for key in ("findings", "sequences", "seconds"))
        print(f"{name}: {total:,} findings in {rows:,} sequences, {seconds:.0f} s", file=sys.stderr)
    print_findings(found)
    return int(any(one["findings"] for one in found.values()))


def findings(repository: Path, folder: Path, phases: int, model: str | None) -> dict[str, Any]:
    """The findings in a repository's sequences, from the folder if it has them."""
    with Repository.open(repository) as opened:
        made_from = {"commit": opened.resolve(), "preparation": PREPARATION_VERSION, "phases": phases, "model": model}
    kept = folder / "lint.json"
    if kept.is_file() and (known := json.loads(kept.read_text()))["made_from"] == made_from:
        return known
    started = time.monotonic()
    done = api.prepare(repository, folder, config=DEMO, phases=phases, model=model)
    file = read_sequences(done.sequences)
    report = lint_sequences(file, tokenizer_of(file.header, model), range(len(file)))
    said = {"made_from": made_from, "seconds": time.monotonic() - started, **report.as_dict(phases_of(file))}
    kept.write_text(json.dumps(said, indent=1) + "\n")
    return said


def print_findings(found: dict[str, dict[str, Any]]) -> None:
    """Print the findings by rule and repository, and how many things each rule looked at."""
    table = Table(title="findings", box=None, padding=(0, 1, 0, 0))
    for name in ("rule", *found, "all", "of"):
        table.add_column(name, justify="left" if name == "rule" else "right", no_wrap=True)
    for rule in LINT_RULES:
        counts = [one["rules"][rule]["found"] for one in found.values()]
        checked = sum(one["rules"][rule]["checked"] for one in found.values())
        table.add_row(rule, *[f"{count:,}" for count in (*counts, sum(counts), checked)])
    table.add_row("sequences", *[f"{one['sequences']:,}" for one in found.values()], style="dim")
    Console(width=max(100, 22 + 9 * len(found))).print(table)


if __name__ == "__main__":
    sys.exit(main())
