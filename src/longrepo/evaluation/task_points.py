"""A task at a place: a prompt, the text that a held-out commit has there, and how an answer is judged.

A point is measured twice, independently: by the loss of the wanted text, which is cheap, and by what both models write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from longrepo.data.template import completion_text
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.engines.base import Engine
from longrepo.evaluation.completion import SPARE_TOKENS
from longrepo.evaluation.context_loss import loss_row
from longrepo.evaluation.results import Example, FigureParts
from longrepo.evaluation.scoring import (
    IdArray,
    MaskArray,
    Measurement,
    MeasurementRow,
    Measurements,
    generate_both,
    score_both,
)
from longrepo.utils import hashing

_BEFORE_ROWS, _AFTER_ROWS = 12, 6  # rows of text shown in an example


@dataclass(frozen=True)
class TaskPrompt:
    """A prompt with the wanted text behind it. `ids` `[tokens]`, the wanted text from `start` on; `scored`: a mask of
    its tokens that count, `[tokens - start]`."""

    ids: IdArray
    start: int
    scored: MaskArray

    @staticmethod
    def of(prompt: IdArray, wanted: IdArray) -> TaskPrompt:
        """Return a prompt whose wanted text counts wholly."""
        return TaskPrompt(np.concatenate([prompt, wanted]), len(prompt), np.ones(len(wanted), bool))


@dataclass(frozen=True)
class TaskPoint:
    """A place to solve a task at. `parts`: of the figures that it counts in; `key`: no other point of the measure has
    it; `group`: points of one depend on each other. `lay_out` takes the most tokens of prompt and wanted text; None: it
    doesn't fit. `read` returns what of a generated text is the answer, and `judge` scores it: metric to 0–1."""

    measure: str
    key: str
    parts: Sequence[FigureParts]
    group: str
    path: str
    commit: str
    before: str
    wanted: str
    after: str
    lay_out: Callable[[int], TaskPrompt | None]
    read: Callable[[str], str]
    judge: Callable[[str], Mapping[str, float]]

    def scoring(self, length: int) -> Measurement:
        """Return the measurement of its loss."""
        return Measurement(f"{self.measure}/loss/{length}/{self.key}", partial(_score, self, length), length)

    def writing(self, length: int, tokenizer: RepoTokenizer) -> Measurement:
        """Return the measurement of what both models write."""
        run = partial(_write, self, length, tokenizer)
        return Measurement(f"{self.measure}/text/{length}/{self.key}", run, length)


def _score(point: TaskPoint, length: int, engine: Engine) -> Measurements:
    prompt = point.lay_out(length - SPARE_TOKENS)
    if prompt is None or not prompt.scored.any():
        return Measurements()
    wanted = np.zeros(len(prompt.ids), bool)
    wanted[prompt.start :] = prompt.scored
    losses = score_both(engine, prompt.ids, wanted).at(wanted)
    return Measurements([loss_row(point.measure, parts, point.group, losses) for parts in _with_length(point, length)])


def _write(point: TaskPoint, length: int, tokenizer: RepoTokenizer, engine: Engine) -> Measurements:
    prompt = point.lay_out(length - SPARE_TOKENS)
    if prompt is None:
        return Measurements()
    most = len(prompt.scored) + SPARE_TOKENS
    written = generate_both(engine, prompt.ids[: prompt.start], most)
    base, tuned = (point.read(completion_text(tokenizer, ids)) for ids in written)
    scores = [dict(point.judge(one)) for one in (base, tuned)]
    every = _with_length(point, length)
    rows = [
        MeasurementRow(point.measure, metric, parts, point.group, 1, scores[0][metric], scores[1][metric])
        for parts in every
        for metric in scores[0]
    ]
    example = Example(
        point.measure, every[0], point.path, point.commit, point.before, point.wanted, point.after, base, tuned, *scores
    )
    return Measurements(rows, [example])


def _with_length(point: TaskPoint, length: int) -> list[FigureParts]:
    return [{**parts, "length": length} for parts in point.parts]


def shown_before(of: TokenizedText, character: int) -> str:
    """Return the last rows of a text before a character, for an example."""
    return "\n".join(of.text[:character].split("\n")[-_BEFORE_ROWS:])


def shown_after(of: TokenizedText, character: int) -> str:
    """Return the first rows of a text from a character on, for an example."""
    return "\n".join(of.text[character:].split("\n")[:_AFTER_ROWS])


def in_turns(points: Iterable[tuple[str, Iterator[TaskPoint]]], wanted: int, *seed: object) -> list[TaskPoint]:
    """Return up to `wanted` points, one of each group in turn, the groups (and what they yield) in an order that `seed`
    draws; no more are made than are wanted."""
    turn = [points for _, points in sorted(points, key=lambda one: hashing.seeded_int(*seed, one[0]))]
    chosen: list[TaskPoint] = []
    while turn and len(chosen) < wanted:
        going: list[Iterator[TaskPoint]] = []
        for points_of_group in turn:
            point = next(points_of_group, None) if len(chosen) < wanted else None
            if point is not None:
                chosen.append(point)
                going.append(points_of_group)
        turn = going
    return chosen
