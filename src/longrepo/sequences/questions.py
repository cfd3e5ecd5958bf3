"""Questions whose answer is read from the syntax tree or from git, never guessed.

Each names the snippet that must be shown (`needs`): for "where is X defined" the piece of the file that defines it. A
question is dropped where the repository gives it no single answer, or where it would answer itself.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from longrepo.repository.imports import ImportGraph
from longrepo.repository.model import TextFile
from longrepo.repository.syntax import Definition, calls, definitions
from longrepo.sequences import chance
from longrepo.sequences.chains import Link

_LEAST_NAME = 4  # letters: shorter names say too little about what is meant
_FEW = 3  # files in an answer at most


@dataclass(frozen=True)
class Question:
    """`needs`: (path, character) pairs that the shown pieces must hold, the one with the answer first. `answer` holds
    `{snippet}` where the number of the snippet with the answer goes."""

    kind: str
    text: str
    answer: str
    needs: tuple[tuple[str, int], ...]


def questions(
    files: Sequence[TextFile], graph: ImportGraph, links: Iterable[Link], seed: int
) -> tuple[list[Question], Counter[str]]:
    """Questions on training files and changes, the kinds taking turns; and those dropped, by reason."""
    dropped: Counter[str] = Counter()
    defined: defaultdict[str, list[tuple[TextFile, Definition]]] = defaultdict(list)
    for file in files:
        for one in definitions(file):
            defined[one.name].append((file, one))
    only: dict[str, tuple[TextFile, Definition]] = {}
    for name, places in defined.items():
        if len(places) > 1:
            dropped["name defined more than once"] += 1
        elif len(name) < _LEAST_NAME or name.startswith("__"):
            dropped["name too short or reserved"] += 1
        else:
            only[name] = places[0]
    texts = {file.path: file.text for file in files}
    by_kind = [
        list(_where(only)),
        list(_signature(only, dropped)),
        list(_callers(files, only, dropped)),
        list(_importers(graph, texts, dropped)),
        list(_changes(links, texts)),
    ]
    for found in by_kind:
        found.sort(key=lambda one: chance.number(seed, one.kind, one.text))
    turns = max(map(len, by_kind))
    return [found[turn] for turn in range(turns) for found in by_kind if turn < len(found)], dropped


def _where(only: Mapping[str, tuple[TextFile, Definition]]) -> Iterator[Question]:
    for name, (file, one) in only.items():
        answer = f"{file.path}, in {{snippet}}"
        yield Question("where", f"In which file is the {one.kind} {name} defined?", answer, ((file.path, one.start),))


def _signature(only: Mapping[str, tuple[TextFile, Definition]], dropped: Counter[str]) -> Iterator[Question]:
    for name, (file, one) in only.items():
        if one.kind not in ("function", "method"):
            continue
        if "(" not in one.signature or "()" in one.signature:
            dropped["signature without parameters"] += 1
            continue
        answer = f"{one.signature}, in {{snippet}}"
        yield Question("signature", f"What is the signature of {name}?", answer, ((file.path, one.start),))


def _callers(
    files: Sequence[TextFile], only: Mapping[str, tuple[TextFile, Definition]], dropped: Counter[str]
) -> Iterator[Question]:
    callers: defaultdict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    for file in files:
        lines = file.text.split("\n")
        for call in calls(file):
            if call.name in only and call.inside and call.inside != call.name:
                at = sum(len(line) + 1 for line in lines[: call.line - 1])
                callers[call.name].setdefault((file.path, call.inside), at)
    for name, found in callers.items():
        if len(found) != 1:
            dropped["called from more than one place"] += 1
            continue
        ((path, inside), at) = next(iter(found.items()))
        file, one = only[name]
        if path == file.path:
            dropped["caller in the file of the definition"] += 1
            continue
        yield Question(
            "caller",
            f"Which function calls {name}, and in which file?",
            f"{inside} in {path}, in {{snippet}}",
            ((path, at), (file.path, one.start)),
        )


def _importers(graph: ImportGraph, texts: Mapping[str, str], dropped: Counter[str]) -> Iterator[Question]:
    for path, importers in graph.imported_by.items():
        known = [one for one in importers if one in texts]
        if not known or path not in texts:
            continue
        if len(known) > _FEW:
            dropped["imported by too many files to list"] += 1
            continue
        needs = (*((one, 0) for one in known), (path, 0))
        yield Question("importers", f"Which files import {path}?", ", ".join(known), needs)


def _changes(links: Iterable[Link], texts: Mapping[str, str]) -> Iterator[Question]:
    """What a commit changed: its message is asked about, its files that still exist are the answer."""
    by_commit: defaultdict[str, dict[str, str]] = defaultdict(dict)
    files: dict[str, int] = {}
    for link in links:
        files[link.commit] = link.files
        if link.path in texts:
            by_commit[link.commit][link.path] = link.message
    for commit, changed in by_commit.items():
        if len(changed) > _FEW or len(changed) < files[commit]:  # part of the truth is no answer
            continue
        subject = json.dumps(next(iter(changed.values())).split("\n")[0][:120], ensure_ascii=False)
        needs = tuple((path, 0) for path in changed)
        yield Question(
            "change", f"Which files did commit {commit[:8]} {subject} change?", ", ".join(sorted(changed)), needs
        )
