"""Tasks on held-out commits, in the form of training's commit sequences: the next edit of a file given what the commit
is for, and the subject of a commit given its hunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np

from longrepo.data.commits import CommitPack, StepRun, add_start_states, is_large_data
from longrepo.data.marks import COMMIT_START, FILE_END, FILE_START
from longrepo.data.template import CommitStep, TemplateSizes, encode_text, write_file, write_step
from longrepo.data.text import path_tokens
from longrepo.data.workers import SkippedText, StepRequest
from longrepo.evaluation.blocks import EvalData, EvalRepository
from longrepo.evaluation.completion import first_rows, similarity
from longrepo.evaluation.scope_tasks import end_token
from longrepo.evaluation.scoring import MaskArray
from longrepo.evaluation.task_points import TaskPoint, TaskPrompt, in_turns
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.repository.types import CommitRecord
from longrepo.utils import hashing

MAX_EDIT_TOKENS = 256
_MAX_HUNK_TOKENS = 512  # of a hunk up to the end of the edit: the rest of the prompt shows the file
_MAX_MESSAGE_TOKENS = 256
MAX_SUBJECT_TOKENS = 48
_REQUEST_NUMBER = re.compile(r"\s*\(#\d+\)$")  # of a pull request, as a subject ends with it: nobody can know it
_MIN_SUBJECT_WORDS = 2
_MIN_ROOM = 32  # tokens of a file's hunks that are worth their head
_MAX_FILES = 8  # of a commit whose hunks are shown
_HEAD = len(" 12345678 ")  # characters before the message in a step's text
_DIFF_PATH = "changes.diff"
_TITLE = re.compile(r"@@ -(\d+)")


@dataclass(frozen=True)
class HeldOutChange:
    """A file's change by a held-out commit; `path` as training shows it."""

    path: str
    step: CommitStep


def _changes(repo: EvalRepository, record: CommitRecord, seed: int) -> Iterator[HeldOutChange]:
    """Yield the changes of a commit's files, code before prose."""
    reader = repo.trees.reader
    changed = [one for one in record.changes if one.before and one.after and one.before != one.after]
    order = sorted(
        changed,
        key=lambda one: (
            reader.rules.language_of(one.path) in PROSE_LANGUAGES,
            hashing.seeded_int(seed, record.id, one.path),
        ),
    )
    for change in order:
        request = StepRequest(change.path, record.id, record.message, change.before or "", change.after or "")
        (answer,) = reader.read([request], lambda _: None)
        if isinstance(answer, SkippedText) or not len(answer.text):
            continue
        if not is_large_data(answer.text.language, answer.facts["size"], reader.rules.of(change.path)):
            step = CommitStep(record.id, answer.text, answer.facts["message"], change.before or "")
            yield HeldOutChange(change.path, step)


def _code_commits(data: EvalData) -> list[tuple[EvalRepository, CommitRecord]]:
    """Return the commits that change code; if none does, all: versions of dependencies can't be foreseen."""
    found = []
    for repo, record in data.commits:
        rules = repo.trees.reader.rules
        rules.load(change.path for change in record.changes)
        if any(one.before and rules.language_of(one.path) not in PROSE_LANGUAGES for one in record.changes):
            found.append((repo, record))
    return found or data.commits


def edit_points(data: EvalData, wanted: int, seed: int) -> list[TaskPoint]:
    """Return up to `wanted` next edits: of each changed file the first run of changed rows that adds a line which
    training never showed and is short enough."""
    commits = [(record.id, _edits_of(data, repo, record, seed)) for repo, record in _code_commits(data)]
    return in_turns(commits, wanted, seed, "edit")


def _edits_of(data: EvalData, repo: EvalRepository, record: CommitRecord, seed: int) -> Iterator[TaskPoint]:
    for change in _changes(repo, record, seed):
        edit = next(_edits(data, change.step), None)
        if edit is not None:
            yield _edit_point(repo, change.path, edit)


@dataclass(frozen=True)
class HeldOutEdit:
    """A run of changed rows. `step`: from its hunk's title to the row after it; the wanted tokens are `at`..`step.end`,
    `scored` a mask of those of new lines."""

    step: CommitStep
    at: int
    scored: MaskArray
    shown: str
    wanted: str


def _edits(data: EvalData, step: CommitStep) -> Iterator[HeldOutEdit]:
    """Yield the runs of changed rows that can be asked for."""
    of = step.of
    rows = of.text.split("\n")
    fresh = data.seen.shown.fresh(of.row_hashes[len(rows) :])  # without signs
    head = of.text[: int(of.starts[step.message])].count("\n") if step.message < len(of) else len(rows)
    title = 0
    for kind, some in groupby(range(head, len(rows)), key=lambda row: _kind_of(rows[row])):
        run = list(some)
        if _TITLE.match(rows[run[-1]]):
            title = run[-1]
        end = min(run[-1] + 2, len(rows) - 1)
        new = [row for row in run if rows[row].startswith("+") and fresh[row]]
        first, at, stop = (of.row_token(row) for row in (title, run[0], end))
        if kind != "changed" or not new or not 0 < stop - at <= MAX_EDIT_TOKENS or stop - first > _MAX_HUNK_TOKENS:
            continue
        scored = np.zeros(stop - at, bool)
        for row in new:
            scored[of.row_token(row) - at : of.row_token(row + 1) - at] = True
        message = of.cut_in(0, min(step.message, _MAX_MESSAGE_TOKENS))[0] if step.message else 0
        cut = replace(step, start=first, end=stop, message=message)
        shown = [of.text[_HEAD : int(of.starts[step.message])].rstrip(), *rows[title : run[0]]]
        yield HeldOutEdit(cut, at, scored, "\n".join(shown) + "\n", "\n".join(rows[run[0] : end]))


def _kind_of(row: str) -> str:
    return "title" if _TITLE.match(row) else "changed" if row[:1] in ("+", "-") else "context"


def _edit_point(repo: EvalRepository, path: str, edit: HeldOutEdit) -> TaskPoint:
    wanted = edit.wanted.split("\n")
    return TaskPoint(
        measure="next_edit",
        key=f"{repo.facts.name}/{edit.step.commit[:12]}/{path}/{edit.step.start}",
        parts=({},),
        group=edit.step.commit,
        path=repo.trees.reader.shown_path(path),
        commit=edit.step.commit,
        before=edit.shown,
        wanted=edit.wanted,
        after="",
        lay_out=partial(_lay_out_edit, repo, path, edit),
        read=lambda text: "\n".join(text.split("\n")[: len(wanted)]),
        judge=partial(_judge_edit, edit.wanted),
    )


def _lay_out_edit(repo: EvalRepository, path: str, edit: HeldOutEdit, length: int) -> TaskPrompt | None:
    reader, step = repo.trees.reader, edit.step
    sizes = TemplateSizes(reader.tokenizer, repo.facts.name)
    room = length - sizes.ends - sizes.step(step) - sizes.path_frame(reader.path_ids(path))
    if room < 0:
        return None
    run = StepRun(path, [step], room)
    add_start_states([CommitPack([run])], reader, lambda _: None)
    builder = sizes.begin()
    if run.state is not None:
        write_file(builder, run.state, 0.0)
    write_step(builder, step, 0.0)
    part = next(one for one in reversed(builder.parts) if one.of is step.of)
    start = part.at + edit.at - part.start
    ids = builder.arrays()[0][: start + len(edit.scored)]
    return TaskPrompt(ids, start, edit.scored)


def _sides(text: str) -> tuple[list[str], list[str]]:
    """Return the rows of a hunk before and after it, white space at their ends aside. A row without a sign, as a blank
    row may be written, is in both."""
    rows = [row.rstrip() for row in text.split("\n")]
    return [row[1:] for row in rows if not row.startswith("+")], [row[1:] for row in rows if not row.startswith("-")]


def _judge_edit(wanted: str, written: str) -> Mapping[str, float]:
    (old, new), (old_written, new_written) = _sides(wanted), _sides(written)
    edit = similarity("\n".join(new), "\n".join(new_written))["edit"]
    return {"exact": float((old, new) == (old_written, new_written)), "edit": edit}


def message_points(data: EvalData, wanted: int, seed: int) -> list[TaskPoint]:
    """Return up to `wanted` commits whose subject is asked for, given the hunks of their first files."""
    commits = [(record.id, _messages_of(repo, record, seed)) for repo, record in _code_commits(data)]
    return in_turns(commits, wanted, seed, "message")


def _messages_of(repo: EvalRepository, record: CommitRecord, seed: int) -> Iterator[TaskPoint]:
    if len(record.message.split("\n")[0].split()) < _MIN_SUBJECT_WORDS:
        return
    changes: list[HeldOutChange] = []
    for change in _changes(repo, record, seed):
        changes.append(change)
        if len(changes) == _MAX_FILES:
            break
    if not changes:
        return
    of = changes[0].step.of
    subject = _REQUEST_NUMBER.sub("", of.text[_HEAD:].split("\n")[0].rstrip())
    at, end = of.token_at(_HEAD), end_token(of, _HEAD + len(subject))
    if not 0 < end - at <= MAX_SUBJECT_TOKENS or len(subject.split()) < _MIN_SUBJECT_WORDS:
        return
    shown = changes[0].step
    yield TaskPoint(
        measure="commit_message",
        key=f"{repo.facts.name}/{record.id[:12]}",
        parts=({},),
        group=record.id,
        path=", ".join(repo.trees.reader.shown_path(one.path) for one in changes),
        commit=record.id,
        before="\n".join(of.slice_text(shown.message, shown.stop).split("\n")[:24]),
        wanted=subject,
        after="",
        lay_out=partial(_lay_out_message, repo, changes, (at, end)),
        read=partial(first_rows, rows=1),
        judge=partial(_judge_message, first_rows(subject, 1)),
    )


def _judge_message(wanted: str, written: str) -> Mapping[str, float]:
    scores = similarity(wanted.casefold(), written.casefold())
    return {name: scores[name] for name in ("edit", "identifiers")}


def _lay_out_message(
    repo: EvalRepository, changes: Sequence[HeldOutChange], subject: tuple[int, int], length: int
) -> TaskPrompt:
    """Lay out the hunks as a file of their own, then a commit as far as its subject."""
    tokenizer, of = repo.trees.reader.tokenizer, changes[0].step.of
    sizes = TemplateSizes(tokenizer, repo.facts.name)
    path = path_tokens(tokenizer, _DIFF_PATH)
    room = length - sizes.ends - sizes.path_frame(path) - sizes.marks(COMMIT_START) - subject[1]
    builder = sizes.begin()
    builder.mark(FILE_START, 0.0)
    builder.plain(path, 0.0)
    for change in changes:
        step, shown = change.step, repo.trees.reader.shown_path(change.path)
        head = encode_text(tokenizer, f"--- a/{shown}\n+++ b/{shown}\n")
        free = room - len(head)
        if free < _MIN_ROOM:
            break
        end = step.of.cut_in(step.message, min(step.stop, step.message + free))[0]
        builder.plain(head, 0.0)
        builder.text(step.of, step.message, end, 0.0, False)
        room = free - (end - step.message)
    builder.mark(FILE_END, 0.0)
    builder.mark(COMMIT_START, 0.0)
    builder.text(of, 0, subject[0], 0.0, False)
    return TaskPrompt.of(builder.arrays()[0], of.ids[subject[0] : subject[1]])
