"""The tables of the benchmark on a real base, from the rows that its measurings stored. Differences and intervals are
those of `results.compared`: relative, over repositories, then seeds, then commits."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import Compared, compared

from longrepo.evaluation.context_loss import CROSS_FILE_CLASSES

Row = Mapping[str, Any]


class Task(NamedTuple):
    """A quantity: rows of a measure and metric whose parts have these values (one of several, if it is a tuple)."""

    says: str
    measure: str
    metric: str
    parts: Mapping[str, object]

    def fits(self, row: Row) -> bool:
        """Whether a row is part of it."""
        if (row["measure"], row["metric"]) != (self.measure, self.metric):
            return False
        wanted = ((row["parts"].get(name), value) for name, value in self.parts.items())
        return all(found in value if isinstance(value, tuple) else found == value for found, value in wanted)


LINES = Task("next lines, loss", "context", "loss", {"context": "related"})
CROSS_FILE = Task("… cross-file", "line", "loss", {"context": "related", "class": CROSS_FILE_CLASSES})
NEUTRAL = Task("neutral code, loss (forgetting)", "neutral", "loss", {"language": "all"})
TASKS = (
    LINES,
    CROSS_FILE,
    Task("… behind 128 tokens", "short", "loss", {}),
    Task("middles at scopes, loss", "fim", "loss", {"scope": "all"}),
    Task("… exact (higher is better)", "fim", "exact", {"scope": "all"}),
    Task("… edit similarity (higher is better)", "fim", "edit", {"scope": "all"}),
    Task("next edit, loss", "next_edit", "loss", {}),
    Task("… edit similarity (higher is better)", "next_edit", "edit", {}),
    Task("commit message, loss", "commit_message", "loss", {}),
    Task("callee, loss", "api_use", "loss", {"what": "callee", "place": "all"}),
    Task("… exact (higher is better)", "api_use", "exact", {"what": "callee", "place": "all"}),
    Task("arguments, loss", "api_use", "loss", {"what": "arguments", "place": "all"}),
    NEUTRAL,
)
AGAINST = {
    "base": "the base",
    "plain": "plain chunks",
    "plain_no_fim": "plain chunks, no FIM",
    "ours_scaled": "ours at 0.6 of its strength",
    "same_language": "another repository's, same language",
    "other_language": "another repository's, another language",
}


@dataclass(frozen=True)
class Measured:
    """One adapter, or the base, on the lines of one repository. `context`: in place of that of a task's lines."""

    repository: str
    arm: str
    seed: int
    rows: Sequence[Row]
    side: str = "tuned"
    context: str = ""

    def sums(self, task: Any) -> dict[str, tuple[float, float]]:
        """Commit -> (tokens or samples, sum)."""
        if self.context and task.measure == "context":
            task = task._replace(parts={"context": self.context})
        found: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for row in self.rows:
            if task.fits(row):
                found[row["group"]][0] += row["count"]
                found[row["group"]][1] += row[self.side]
        return {group: (count, total) for group, (count, total) in found.items()}


def read_measured(work: Path) -> list[Measured]:
    """Return everything that the latest measuring of each repository found."""
    latest: dict[str, dict[str, Any]] = {}
    for file in (work / "done").glob("measure--*.json"):
        record = json.loads(file.read_text())
        name = record["job"]["place"]["name"]
        if name not in latest or record["job"]["seed"] > latest[name]["job"]["seed"]:
            latest[name] = record
    found = []
    for name, record in sorted(latest.items()):
        for number, (arm, seed, store) in enumerate(record["stores"]):
            rows = _rows(work / "runs" / store)
            found.append(Measured(name, arm, seed, rows))
            if not number:
                found.append(Measured(name, "base", 0, rows, "base"))
    return found


def _rows(store: Path) -> list[Row]:
    lines = store.read_text(encoding="utf-8").splitlines()[1:]
    return [row for line in lines for row in json.loads(line)["rows"]]


def show_real(work: Path) -> None:
    """Print every table that there are results for."""
    every = read_measured(work)
    for title, lines in (
        ("`ours` against each", against_table(every)),
        ("By repository", repository_table(every)),
        ("Retrieval", retrieval_table(every)),
        ("Forgetting: neutral code, against the base", forgetting_table(every)),
        ("What a run is", _runs(work)),
        ("Notes", _notes(work)),
    ):
        print(f"\n### {title}\n", *lines, sep="\n")


def against_table(every: Sequence[Measured]) -> Iterator[str]:
    """A row for each task: what `ours` changes against the base and each control."""
    names = [name for name in AGAINST if any(one.arm == name for one in every)]
    yield from _head("task", "base", "ours", *(AGAINST[name] for name in names))
    for task in TASKS:
        found = [_compare(every, name, "ours", task) for name in names]
        if found and found[0]:
            yield _line(task.says, _value(found[0].first), _value(found[0].second), *map(_percent, found))


def repository_table(every: Sequence[Measured]) -> Iterator[str]:
    """The main figures of each repository alone."""
    names = [name for name in AGAINST if any(one.arm == name for one in every)]
    yield from _head("repository", "commits", "tokens", "lines", *(AGAINST[name] for name in names))
    for repository in dict.fromkeys(one.repository for one in every):
        there = [one for one in every if one.repository == repository]
        for task in (LINES, CROSS_FILE):
            found = [_compare(there, name, "ours", task) for name in names]
            if found and (one := found[0]):
                yield _line(repository, one.commits, f"{one.tokens:,}", task.says, *map(_percent, found))


def retrieval_table(every: Sequence[Measured]) -> Iterator[str]:
    """BM25 with the untuned base, with the tuned one, and tuning with related files against it."""
    yield from _head("next lines, loss", "first", "second", "change")
    kinds = (("base", "none"), ("base", "retrieved"), ("ours", "related"), ("ours", "retrieved"))
    for first, second in ((0, 1), (1, 2), (1, 3)):
        sides = [
            [Measured(*_parts(one), side=one.side, context=context) for one in every if one.arm == arm]
            for arm, context in (kinds[first], kinds[second])
        ]
        if found := compared(sides[0], sides[1], LINES):  # type: ignore[arg-type]
            says = " → ".join(f"{arm}, {context}" for arm, context in (kinds[first], kinds[second]))
            yield _line(says, _value(found.first), _value(found.second), _percent(found))


def _parts(one: Measured) -> tuple[str, str, int, Sequence[Row]]:
    return one.repository, one.arm, one.seed, one.rows


def forgetting_table(every: Sequence[Measured]) -> Iterator[str]:
    """What each arm forgot, beside what it gained."""
    yield from _head("arm", "neutral code", "own next lines")
    for name in ("ours", *AGAINST):
        if name != "base" and any(one.arm == name for one in every):
            yield _line(name, *(_percent(_compare(every, "base", name, task)) for task in (NEUTRAL, LINES)))


def _compare(every: Sequence[Measured], first: str, second: str, task: Task) -> Compared | None:
    arms = [[one for one in every if one.arm == name and one.sums(task)] for name in (first, second)]
    with warnings.catch_warnings():  # nothing right under the first arm: no ratio
        warnings.simplefilter("ignore", RuntimeWarning)
        return compared(arms[0], arms[1], task) if all(arms) else None  # type: ignore[arg-type]


def _runs(work: Path) -> Iterator[str]:
    yield from _head("run", "tokens", "updates", "training seconds", "validation loss")
    for file in sorted((work / "done").glob("train--*.json")):
        one = json.loads(file.read_text())
        if "tokens" in one:
            loss = f"{one['validation']:.4f}" if one["validation"] else ""
            yield _line(file.stem[7:], f"{one['tokens']:,}", one["updates"], f"{one['training_seconds']:.0f}", loss)


def _notes(work: Path) -> Iterator[str]:
    every = (json.loads(file.read_text()) for file in sorted((work / "done").glob("measure--*.json")))
    yield from dict.fromkeys(f"- {note}" for one in every for note in one["notes"])


def _head(*columns: str) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


_value: Callable[[float], str] = "{:.3f}".format


def _percent(found: Compared | None) -> str:
    if found is None:
        return ""
    one = found.percent
    if not np.isfinite(one.value):
        return f"{found.first:.3f} to {found.second:.3f}"
    return f"{one.value:+.1f} % [{one.low:+.1f}, {one.high:+.1f}]"
