"""Questions as a file of sequences holds them: what is shown, asked and answered in a row, and whether it is right."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longrepo.errors import InputError
from longrepo.sequences import chance
from longrepo.sequences.header import RepositoryFacts
from longrepo.sequences.questions.check import Checker, Verdict
from longrepo.sequences.questions.tree import holds
from longrepo.sequences.store import SequenceFile
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.tokens import SNIPPETS

_QUESTION, _ANSWER = "\nQUESTION: ", "\nANSWER:"


@dataclass(frozen=True)
class Asked:
    """A row's question and answer as text; `snippets`: number -> (path as shown, code)."""

    row: int
    question: str
    answer: str
    snippets: Mapping[int, tuple[str, str]]


def training_commit(facts: RepositoryFacts) -> str:
    """The commit whose files the questions are about."""
    return facts.validation_from or facts.head


def folders_of(file: SequenceFile, given: Sequence[Path]) -> dict[str, Path]:
    """Repository name in the header -> the given folder that holds its training commit. Raises InputError where none
    does."""
    found: dict[str, Path] = {}
    for facts in file.header.repositories:
        commit = training_commit(facts)
        folder = next((one for one in given if holds(one, commit)), None)
        if folder is None:
            raise InputError(f"no --repo holds the commit {commit[:10]} of {facts.name}; give the repository prepared")
        found[facts.name] = folder
    return found


def read_question(file: SequenceFile, row: int, tokenizer: RepoTokenizer) -> Asked:
    """What a row of kind qa shows, asks and answers. Raises InputError where it isn't in that format."""
    pieces = _pieces(file.tokens(row).tolist(), tokenizer)
    last = max((number for number, (_, text) in enumerate(pieces) if _ANSWER in text), default=-1)
    shown, _, asked = pieces[last][1].rpartition(_QUESTION)
    question, found, answer = asked.rpartition(_ANSWER)
    if last < 0 or not found:
        raise InputError(f"{file.path}: row {row} asks no question; make the sequences again")
    snippets: dict[int, tuple[str, str]] = {}
    for number, text in [*pieces[:last], (pieces[last][0], shown)]:
        if number is not None:
            path, _, code = text.partition("\n")
            snippets[number] = (path.strip(), code)
    rest = "".join(f" {SNIPPETS[number or 0]}{text}" for number, text in pieces[last + 1 :])
    return Asked(row, question, " ".join(f"{answer}{rest}".removesuffix(_end(tokenizer)).split()), snippets)


def check_rows(
    file: SequenceFile,
    tokenizer: RepoTokenizer,
    folders: Mapping[str, Path],
    limit: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[tuple[Asked, Verdict]]:
    """The verdict on every question of the file, or on `limit` of them, always the same ones; in the order of rows."""
    repositories = file.column("repository")
    found: list[tuple[Asked, Verdict]] = []
    by_repository: defaultdict[str, list[Asked]] = defaultdict(list)
    for row in question_rows(file, limit):
        by_repository[repositories[row]].append(read_question(file, row, tokenizer))
    for facts in file.header.repositories:
        asked = by_repository.pop(facts.name, [])
        with Checker(folders[facts.name], training_commit(facts)) as checker:
            checker.look_up([one.question for one in asked])
            for one in asked:
                found.append((one, checker.check(one.question, one.answer, one.snippets)))
                done()
    unknown = "of a repository that the header doesn't name"
    found += [(one, Verdict(False, "", unknown)) for asked in by_repository.values() for one in asked]
    return sorted(found, key=lambda pair: pair[0].row)


def question_rows(file: SequenceFile, limit: int | None = None) -> list[int]:
    """The rows of kind qa, or `limit` of them."""
    rows = [row for row, kind in enumerate(file.column("kind")) if kind == "qa"]
    return sorted(sorted(rows, key=lambda row: chance.number("check", row))[:limit])


def _pieces(ids: list[int], tokenizer: RepoTokenizer) -> list[tuple[int | None, str]]:
    """(number of the snippet, text after its mark), first what stands before any mark."""
    numbers = {tokenizer.structure_ids[name]: n for n, name in enumerate(SNIPPETS) if name in tokenizer.structure_ids}
    if not numbers:  # the marks are text
        marks = re.split(r"<\|SNIPPET_(\d+)\|>", tokenizer.decode(ids))
        return [(None, marks[0]), *((int(n), text) for n, text in zip(marks[1::2], marks[2::2], strict=True))]
    cuts = [at for at, id in enumerate(ids) if id in numbers]
    pieces: list[tuple[int | None, str]] = [(None, tokenizer.decode(ids[: cuts[0]] if cuts else ids))]
    for start, stop in zip(cuts, [*cuts[1:], len(ids)], strict=True):
        pieces.append((numbers[ids[start]], tokenizer.decode(ids[start + 1 : stop])))
    return pieces


def _end(tokenizer: RepoTokenizer) -> str:
    return tokenizer.decode([tokenizer.end_id])
