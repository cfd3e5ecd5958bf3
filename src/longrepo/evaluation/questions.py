"""Questions on the repository that training didn't ask, answered by completion and checked by an independent route."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from longrepo.data.packing import Band
from longrepo.data.questions.generate import ChangeFact, Question, Source, left_out, questions
from longrepo.data.questions.write import QuestionWriter, training_commit
from longrepo.data.repo_tree import RELATED
from longrepo.data.splits import usable
from longrepo.data.template import Draft, Sizes
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.engines.base import Engine
from longrepo.evaluation.blocks import Material, Repo
from longrepo.evaluation.completion import tidy
from longrepo.evaluation.results import Example
from longrepo.evaluation.scoring import Measured, Row, Unit, write_both

SPARE = 8  # tokens beyond the expected answer
_PHASE = 3  # as many snippets as the longest sequences show
_COMMITS = 1000  # looked at for questions about changes
_COMMIT = re.compile(r"Which files did commit ([0-9a-f]{8}) ")


def units(material: Material, length: int, wanted: int, seed: int) -> Iterator[Unit]:
    """Up to `wanted` questions, the kinds taking turns, each behind snippets that fill `length` tokens."""
    for number, repo in enumerate(material.repositories):
        share = wanted // len(material.repositories) + (number < wanted % len(material.repositories))
        for question, draft in _asked(material, repo, length, share, seed) if share else ():
            key = f"question/{length}/{repo.facts.name}/{question.text}"
            yield Unit(key, partial(_measure, material.tokenizer, repo, question, draft), length)


def _asked(material: Material, repo: Repo, length: int, wanted: int, seed: int) -> Sequence[tuple[Question, Draft]]:
    tree, texts = repo.trained, repo.texts
    sources = [Source(path, text.text, text.language, text.outline) for path, text in texts.items()]
    outside = left_out(repo.trees.repository.path, tree.commit, texts)
    # Of each kind as many as training may have asked and more: those are passed over.
    changes = changes_of(repo, material.seen.asked)
    every, _ = questions(sources, tree.graph, changes, seed, len(material.seen.asked) + wanted, outside)
    for text in texts.values():
        text.forget_outline()
    writer = QuestionWriter(Sizes(material.tokenizer), texts, lambda path: tree.graph.related(path, RELATED), 0.0, seed)
    band = Band(_PHASE, 0, 0, length)
    found: list[tuple[Question, Draft]] = []
    for question in every:
        if len(found) == wanted:
            break
        if question.text not in material.seen.asked and (draft := writer.write(question, band)):
            found.append((question, draft))
    return found


def changes_of(repo: Repo, asked: Iterable[str]) -> Iterator[ChangeFact]:
    """What the newest commits that training may have read did to files that stand there still, but for those that it
    asked about: their messages are redacted here."""
    known = {found.group(1) for question in asked if (found := _COMMIT.match(question))}
    reader = repo.trees.reader
    for record in usable(repo.trees.repository, training_commit(repo.facts), None, _COMMITS, reader.cache):
        if record.id[:8] in known:
            continue
        message = reader.message(record.message)
        for change in record.changes:
            if change.before and change.after and change.before != change.after:
                yield ChangeFact(record.id, change.path, message, record.files)


def _measure(tokenizer: RepoTokenizer, repo: Repo, question: Question, draft: Draft, engine: Engine) -> Measured:
    ids, _ = draft.arrays()
    answer = draft.parts[-1]
    wanted = _line(tokenizer.decode(ids[answer.at : answer.at + answer.end].tolist()))
    written = write_both(engine, ids[: answer.at], answer.end + SPARE)
    base, tuned = (_line(tokenizer.decode(one)) for one in written)
    scores = [
        {"exact": float(one == wanted), "right": float(repo.checker.check(question.text, one).confirmed)}
        for one in (base, tuned)
    ]
    group = question.needs[0][0]
    rows = [
        Row("question", metric, {"kind": kind}, group, 1, scores[0][metric], scores[1][metric])
        for kind in ("all", question.kind)
        for metric in scores[0]
    ]
    example = Example(
        "question", {"kind": question.kind}, group, "", question.text, wanted, "", base, tuned, scores[0], scores[1]
    )
    return Measured(rows, [example])


def _line(text: str) -> str:
    """An answer as it is compared: its first row, single blanks."""
    return " ".join(tidy(text, 1).split())
