"""Are the answers right? Questions on whole repositories at HEAD, each checked by another route than it was made.

    python benchmarks/data/questions.py REPO [REPO …] [--sample 300] [--seed 1] [--show 10] [--output questions.json]

Prints how many of each kind were confirmed, of those that could be checked, a column for each repository, and, to see
that the check bites, how many of them were refuted once each got the next one's answer. Exit status 1 if any answer was
refuted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longrepo.data.questions.definition_questions import Question
from longrepo.data.questions.generate import make_questions
from longrepo.data.questions.sources import ChangedFile, SourceFile, read_excluded_files, read_subjects
from longrepo.data.questions.verify import AnswerChecker
from longrepo.repository.imports.graph import build_import_graph
from longrepo.repository.outline import build_outline
from longrepo.repository.repository import Repository
from longrepo.utils import hashing

SNIPPET = "<|SNIPPET_0|>"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", nargs="+", type=Path)
    parser.add_argument("--sample", type=int, default=300, help="questions a repository and kind; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=10, help="refuted ones to print")
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    confirmed: defaultdict[str, Counter[str]] = defaultdict(Counter)
    asked: defaultdict[str, Counter[str]] = defaultdict(Counter)
    swapped: defaultdict[str, Counter[str]] = defaultdict(Counter)
    notes: list[str] = []
    for folder in given.repositories:
        with Repository.open(folder) as repository:
            name = Path(folder.parent.name if folder.name == "repo" else folder.name).name
            made, commit, note = make(repository, given.seed, given.sample or None)
        began = time.perf_counter()
        refuted = check(folder, commit, made, asked[name], confirmed[name], swapped[name])
        notes.append(f"{name}: {note}; checked in {time.perf_counter() - began:.1f} s")
        for one, why in sorted(refuted, key=lambda pair: hashing.seeded_int(given.seed, pair[0].text))[: given.show]:
            print(f"refuted ({name}, {one.kind}): {one.text} {one.answer}: {why}", file=sys.stderr)
    table = Table(title="questions confirmed, of those checked")
    table.add_column("kind")
    for name in asked:
        table.add_column(name, justify="right")
    for kind in sorted({kind for one in asked.values() for kind in one}):
        table.add_row(kind, *[f"{confirmed[name][kind]}/{asked[name][kind]}" for name in asked])
    table.add_row("all", *[f"{confirmed[name].total()}/{asked[name].total()}" for name in asked], style="bold")
    wrong = [f"{swapped[name]['refuted']}/{swapped[name].total()}" for name in asked]
    table.add_row("another's answer, refuted", *wrong, style="dim")
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    if given.output:
        figures = {
            name: {"kinds": {kind: {"asked": asked[name][kind], "confirmed": confirmed[name][kind]} for kind in kinds}}
            | {"another's answer": dict(swapped[name])}
            for name, kinds in asked.items()
        }
        given.output.write_text(json.dumps(figures, indent=1) + "\n")
    return int(any(confirmed[name] != asked[name] for name in asked))


def make(repository: Repository, seed: int, limit: int | None) -> tuple[list[Question], str, str]:
    """Questions on a repository at HEAD, its commit, and what that took."""
    commit = repository.resolve()
    files = repository.snapshot(commit).files
    sources = [
        SourceFile(file.path, file.text, file.language, build_outline(file.text, file.language)) for file in files
    ]
    graph = build_import_graph(files)
    changes = [
        ChangedFile(one.id, change.path, one.message, one.files)
        for one in repository.log(commit)
        for change in one.changes
    ]
    outside = read_excluded_files(repository.path, commit, [file.path for file in files])
    began = time.perf_counter()
    made, _ = make_questions(sources, graph, changes, seed, limit, outside, read_subjects(repository.path, commit))
    definitions = sum(len(one.outline.definitions) for one in sources)
    calls = sum(len(one.outline.calls) for one in sources)
    seconds = time.perf_counter() - began
    note = f"{len(files)} files, {definitions} definitions, {calls} calls; {len(made)} made in {seconds:.2f} s"
    return made, commit, note


def check(
    folder: Path,
    commit: str,
    made: list[Question],
    asked: Counter[str],
    confirmed: Counter[str],
    swapped: Counter[str],
) -> list[tuple[Question, str]]:
    """The refuted ones with the reason; counts by kind."""
    refuted = []
    by_kind: defaultdict[str, list[Question]] = defaultdict(list)
    for one in made:
        by_kind[one.kind].append(one)
    with AnswerChecker(folder, commit) as checker:
        checker.look_up([one.text for one in made])
        for kind, ones in by_kind.items():
            for one, other in zip(ones, [*ones[1:], ones[0]], strict=True):
                verdict = checker.check(one.text, one.answer.replace("{snippet}", SNIPPET))
                if verdict.result == "not checked":
                    continue
                asked[kind] += 1
                confirmed[kind] += verdict.confirmed
                if not verdict.confirmed:
                    refuted.append((one, verdict.why))
                if other.answer != one.answer:
                    wrong = checker.check(one.text, other.answer.replace("{snippet}", SNIPPET))
                    swapped[wrong.result] += 1
    return refuted


if __name__ == "__main__":
    sys.exit(main())
