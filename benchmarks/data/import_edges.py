"""Precision and recall of the import graph's edges against edges checked by hand or by a compiler (`import_edges.json`,
policy inside): imports, and uses of the same package without one.

python benchmarks/data/import_edges.py --repository scrapy/scrapy=FOLDER --repository curl/curl=FOLDER … [--output F]

A folder is a clone that holds the commit the file names. Every miss and every false edge is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from longrepo.repository.imports.graph import build_import_graph
from longrepo.repository.imports.statements import read_imports
from longrepo.repository.repository import Repository

CHECKED = Path(__file__).with_suffix(".json")


@dataclass
class Score:
    """`left_out`: edges checked by hand to or from files that a snapshot doesn't hold (empty, generated)."""

    sample: int
    kind: str
    language: str
    repository: str
    files: int = 0
    edges: int = 0
    found: int = 0
    left_out: int = 0
    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    snapshot_files: int = 0
    reading_s: float = 0.0
    resolving_s: float = 0.0

    @property
    def precision(self) -> float:
        return self.found / max(self.found + len(self.false), 1)

    @property
    def recall(self) -> float:
        return self.found / max(self.edges, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    arguments = parser.parse_args()
    folders = dict(one.split("=", 1) for one in arguments.repository)
    samples = json.loads(CHECKED.read_text())["samples"]
    if unknown := folders.keys() - {sample["repository"] for sample in samples}:
        parser.error(f"nothing was checked by hand in {', '.join(sorted(unknown))}")
    scores = [
        score(sample, Path(folders[sample["repository"]])) for sample in samples if sample["repository"] in folders
    ]
    show(scores)
    if arguments.output:
        rows = [asdict(one) | {"precision": one.precision, "recall": one.recall} for one in scores]
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


def score(sample: dict[str, Any], folder: Path) -> Score:
    """The graph of the whole snapshot, compared on the files of the sample."""
    result = Score(sample["sample"], sample.get("kind", "import"), sample["language"], sample["repository"])
    with Repository.open(folder) as repository:
        files = repository.snapshot(sample["commit"]).files
    start = time.perf_counter()
    statements = {file.path: read_imports(file) for file in files}
    read = time.perf_counter()
    graph = build_import_graph(files, statements)
    result.resolving_s, result.reading_s = time.perf_counter() - read, read - start
    result.snapshot_files = len(files)
    for path, targets in sample["files"].items():
        wanted = {target for target in targets if path in graph.imports and target in graph.imports}
        result.left_out += len(targets) - len(wanted)
        result.files += path in graph.imports
        found = {edge.path for edge in graph.edges(path) if edge.kind == result.kind}
        if result.kind != "import":
            named = {edge.path for edge in graph.edges(path) if edge.kind != "package member"}
            found |= wanted & named  # imported as well, or tested
        result.edges += len(wanted)
        result.found += len(wanted & found)
        result.missed += [f"{path} -> {target}" for target in sorted(wanted - found)]
        result.false += [f"{path} -> {target}" for target in sorted(found - wanted)]
    return result


def show(scores: list[Score]) -> None:
    console = Console()
    table = Table(title="edges of the import graph against edges checked by hand or by a compiler")
    for column in ("sample", "kind", "language", "repository"):
        table.add_column(column)
    for column in ("files", "edges", "precision", "recall", "not in snapshot", "all files", "reading s", "resolving s"):
        table.add_column(column, justify="right")
    for one in scores:
        counts = [str(one.files), str(one.edges), f"{one.precision:.3f}", f"{one.recall:.3f}", str(one.left_out)]
        times = [str(one.snapshot_files), f"{one.reading_s:.2f}", f"{one.resolving_s:.2f}"]
        table.add_row(str(one.sample), one.kind, one.language, one.repository, *counts, *times)
    console.print(table)
    for one in scores:
        for kind, edges in (("missed", one.missed), ("false", one.false)):
            for edge in edges:
                console.print(f"{kind}: {one.repository}: {edge}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
