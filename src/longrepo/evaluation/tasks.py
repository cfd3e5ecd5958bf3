"""The tasks that people have beside the next line: which are measured, at how many places, and in what order.

All losses come before the first text is written: a measurement that is stopped early has every task's loss.
"""

from __future__ import annotations

from collections.abc import Iterator

from longrepo.evaluation.blocks import EvalData
from longrepo.evaluation.change_tasks import MAX_EDIT_TOKENS, edit_points, message_points
from longrepo.evaluation.scope_tasks import CALL_PARTS, api_points, fim_points, held_out_spans
from longrepo.evaluation.scoring import Measurement
from longrepo.evaluation.task_points import TaskPoint
from longrepo.repository.scopes import SCOPES

TASK_MEASURES = ("fim", "next_edit", "commit_message", "api_use")
TASK_TOKENS = 2048  # of a prompt with its answer, as editors ask; longer ones are for the losses by context
_NO_COMMITS = "no commits are held out, so no next edits and commit messages are measured"
_MISSING = {
    "fim": "middles: no held-out line is of a language with a grammar",
    "next_edit": f"next edits: no held-out commit adds a new line within {MAX_EDIT_TOKENS} tokens",
    "commit_message": "commit messages: no held-out commit changes a file and has a subject of two words or more",
    "api_use": "calls: no held-out line calls a function that the repository defines",
}


def task_measurements(data: EvalData, longest: int, scored: int, written: int, seed: int) -> Iterator[Measurement]:
    """Yield the losses at up to `scored` places of each task (of middles: of each scope; of calls: of callee and
    arguments), then what is written at the first `written` of them, behind at most TASK_TOKENS tokens."""
    if not scored:
        return
    length = min(longest, TASK_TOKENS)
    kinds = _task_points(data, scored, seed)
    _note_missing(data, kinds)
    order = {held.group: number for number, held in enumerate(data.held)}  # so that few trees are read twice
    every = [points for some in kinds.values() for points in some]
    scored_points, written_points = (
        sorted((one for points in every for one in points[:most]), key=lambda one: order.get(one.group, -1))
        for most in (scored, written)
    )
    yield from (point.scoring(length) for point in scored_points)
    yield from (point.writing(length, data.tokenizer) for point in written_points)


def _task_points(data: EvalData, wanted: int, seed: int) -> dict[str, list[list[TaskPoint]]]:
    """Return the points of each task that can be measured, by kind."""
    found: dict[str, list[list[TaskPoint]]] = {}
    blocks = held_out_spans(data)
    if data.tokenizer.fim is not None:
        found["fim"] = [fim_points(data, blocks, scope, wanted, seed) for scope in SCOPES]
    if data.commits:
        found["next_edit"] = [edit_points(data, wanted, seed)]
        found["commit_message"] = [message_points(data, wanted, seed)]
    return {**found, "api_use": [api_points(data, blocks, what, wanted, seed) for what in CALL_PARTS]}


def _note_missing(data: EvalData, kinds: dict[str, list[list[TaskPoint]]]) -> None:
    if data.held:
        data.notes += [_NO_COMMITS] if "next_edit" not in kinds else []
        data.notes += [f"{_MISSING[task]}, so nothing is measured" for task, some in kinds.items() if not any(some)]
