"""Questions about the repository that training didn't ask, answered by both models and checked independently."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from longrepo.data.packing import Band
from longrepo.data.questions.definition_questions import Question
from longrepo.data.questions.generate import make_questions
from longrepo.data.questions.sources import ChangedFile, SourceFile, read_excluded_files, read_subjects
from longrepo.data.questions.write import QuestionWriter, training_commit
from longrepo.data.repo_tree import MAX_RELATED_FILES
from longrepo.data.splits import usable_commits
from longrepo.data.template import SequenceBuilder, TemplateSizes
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.engines.base import Engine
from longrepo.evaluation.blocks import EvalData, EvalRepository
from longrepo.evaluation.completion import first_rows
from longrepo.evaluation.results import Example
from longrepo.evaluation.scoring import Measurement, MeasurementRow, Measurements, generate_both

SPARE_TOKENS = 8  # more tokens than the expected answer has
_QUESTION_PHASE = 3  # with as many snippets as the longest sequences show
_MAX_COMMITS = 1000  # commits read for questions about changes
_COMMIT_QUESTION = re.compile(r"Which files did commit ([0-9a-f]{8}) ")


def question_measurements(data: EvalData, length: int, wanted: int, seed: int) -> Iterator[Measurement]:
    """Yield up to `wanted` questions, the kinds in turn, each behind snippets that fill `length` tokens."""
    for number, repo in enumerate(data.repositories):
        share = wanted // len(data.repositories) + (number < wanted % len(data.repositories))
        for question, builder in _choose_questions(data, repo, length, share, seed) if share else ():
            key = f"question/{length}/{repo.facts.name}/{question.text}"
            yield Measurement(key, partial(_measure_question, data.tokenizer, repo, question, builder), length)


def _choose_questions(
    data: EvalData, repo: EvalRepository, length: int, wanted: int, seed: int
) -> Sequence[tuple[Question, SequenceBuilder]]:
    tree, texts = repo.trained, repo.texts
    hides = repo.trees.reader.hides
    sources = [SourceFile(path, text.text, text.language, text.outline, hides(path)) for path, text in texts.items()]
    outside = read_excluded_files(repo.trees.repository.path, tree.commit, texts)
    # More of each kind than training can have asked: the questions it did ask are skipped.
    changes = changes_by_commit(repo, data.seen.asked)
    subjects = read_subjects(repo.trees.repository.path, tree.commit)
    every, _ = make_questions(sources, tree.graph, changes, seed, len(data.seen.asked) + wanted, outside, subjects)
    for text in texts.values():
        text.forget_outline()
    writer = QuestionWriter(
        TemplateSizes(data.tokenizer), texts, lambda path: tree.graph.related(path, MAX_RELATED_FILES), 0.0, seed
    )
    band = Band(_QUESTION_PHASE, 0, 0, length)
    found: list[tuple[Question, SequenceBuilder]] = []
    for question in every:
        if len(found) == wanted:
            break
        if question.text not in data.seen.asked and (builder := writer.write(question, band)):
            found.append((question, builder))
    return found


def changes_by_commit(repo: EvalRepository, asked: Iterable[str]) -> Iterator[ChangedFile]:
    """Yield the changes of the newest training commits to files that still exist, with redacted messages; commits that
    training asked about are skipped."""
    known = {found.group(1) for question in asked if (found := _COMMIT_QUESTION.match(question))}
    reader = repo.trees.reader
    for record in usable_commits(repo.trees.repository, training_commit(repo.facts), None, _MAX_COMMITS, reader.cache):
        if record.id[:8] in known:
            continue
        message = reader.message(record.message)
        for change in record.changes:
            if change.before and change.after and change.before != change.after:
                yield ChangedFile(record.id, change.path, message, record.files)


def _measure_question(
    tokenizer: RepoTokenizer, repo: EvalRepository, question: Question, builder: SequenceBuilder, engine: Engine
) -> Measurements:
    ids, _ = builder.arrays()
    answer = builder.parts[-1]
    wanted = _normalize_answer(tokenizer.decode(ids[answer.at : answer.at + answer.end].tolist()))
    written = generate_both(engine, ids[: answer.at], answer.end + SPARE_TOKENS)
    base, tuned = (_normalize_answer(tokenizer.decode(one)) for one in written)
    scores = [{"exact": float(one == wanted)} for one in (base, tuned)]
    if repo.checker.check(question.text, wanted).result != "not checked":
        for score, one in zip(scores, (base, tuned), strict=True):
            score["right"] = float(repo.checker.check(question.text, one).confirmed)
    group = question.needs[0][0]
    rows = [
        MeasurementRow("question", metric, {"kind": kind}, group, 1, scores[0][metric], scores[1][metric])
        for kind in ("all", question.kind)
        for metric in scores[0]
    ]
    example = Example(
        "question", {"kind": question.kind}, group, "", question.text, wanted, "", base, tuned, scores[0], scores[1]
    )
    return Measurements(rows, [example])


def _normalize_answer(text: str) -> str:
    """Return an answer in the form in which it is compared: its first row, single blanks."""
    return " ".join(first_rows(text, 1).split())
