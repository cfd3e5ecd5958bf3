"""Completions at held-out lines, and how similar they are to what was written.

Three tasks, decoded greedily: the next line, the next block, and a line in the middle.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rapidfuzz.distance import Levenshtein

from longrepo.data.template import completion_text
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.engines.base import Engine
from longrepo.evaluation.blocks import EvalData, HeldOutBlock
from longrepo.evaluation.context_loss import (
    CROSS_FILE_CLASSES,
    LineClassifier,
    PromptLayout,
    TargetSpan,
    lay_out_fim_prompt,
    lay_out_prompt,
)
from longrepo.evaluation.results import Example, FigureParts
from longrepo.evaluation.scoring import Measurement, MeasurementRow, Measurements, generate_both
from longrepo.utils import hashing

_IDENTIFIER = re.compile(r"[^\W\d]\w*")


def similarity(wanted: str, written: str) -> dict[str, float]:
    """Return the similarity of two texts by three metrics, 0 to 1, higher is nearer (CrossCodeEval, arXiv 2310.11248).

    `exact`: 1 if equal; `edit`: 1 - edits / characters of the longer; `identifiers`: F1 of the words that may be names,
    counted with repetition.
    """
    return {
        "exact": float(wanted == written),
        "edit": Levenshtein.normalized_similarity(wanted, written),
        "identifiers": _f1(Counter(_IDENTIFIER.findall(wanted)), Counter(_IDENTIFIER.findall(written))),
    }


def _f1(wanted: Counter[str], written: Counter[str]) -> float:
    total = wanted.total() + written.total()
    return 2 * (wanted & written).total() / total if total else 1.0


MAX_BLOCK_ROWS = 6
SPARE_TOKENS = 8  # more tokens than were written: a completion may differ in length; each costs a decoding step
_MIN_LINE_LENGTH = 8  # characters: a shorter line says little
_EXAMPLE_ROWS = 12  # rows of the prompt shown in an example


@dataclass(frozen=True)
class CompletionPoint:
    """A held-out line to complete. `place`: cross_file if it names what other files define, else in_file."""

    held: HeldOutBlock
    row: int
    place: str


def completion_measurements(
    data: EvalData, length: int, tasks: Sequence[str], wanted: int, seed: int
) -> Iterator[Measurement]:
    """Yield a measurement per task at up to `wanted` points, cross-file and in-file ones in turn, each behind `length`
    tokens of related context."""
    for point in _choose_points(data, wanted, seed):
        for task in tasks:
            key = f"completion/{task}/{length}/{point.held.key}/{point.row}"
            yield Measurement(key, partial(_measure_completion, data.tokenizer, point, task, length, seed), length)


def _choose_points(data: EvalData, wanted: int, seed: int) -> list[CompletionPoint]:
    found: dict[str, list[CompletionPoint]] = {"cross_file": [], "in_file": []}
    for held in data.held:
        classes, rows = LineClassifier(held), held.target.of.text.split("\n")
        taken: set[str] = set()
        for row in sorted(held.rows, key=lambda row: hashing.seeded_int(seed, "complete", held.key, row)):
            place = "cross_file" if classes.of(row) in CROSS_FILE_CLASSES else "in_file"
            if place not in taken and len(rows[row].strip()) >= _MIN_LINE_LENGTH:
                taken.add(place)
                found[place].append(CompletionPoint(held, row, place))
    for points in found.values():
        points.sort(key=lambda point: hashing.seeded_int(seed, "complete", point.held.key))
    turns = max(map(len, found.values()))
    return [points[turn] for turn in range(turns) for points in found.values() if turn < len(points)][:wanted]


def _measure_completion(
    tokenizer: RepoTokenizer, point: CompletionPoint, task: str, length: int, seed: int, engine: Engine
) -> Measurements:
    last, prompt_of = TASKS[task]
    held, of, end = point.held, point.held.target.of, last(point)
    place = TargetSpan(held, of, of.row_token(point.row), of.row_token(end))
    if end <= point.row:
        return Measurements()
    size = place.end - place.at
    layout = prompt_of(TargetSpan(held, of, place.at, place.end), length - SPARE_TOKENS, "related", seed, tokenizer)
    if layout is None:
        return Measurements()
    wanted = of.slice_text(place.at, place.end).strip("\n")
    rows = wanted.count("\n") + 1
    base, tuned = (
        first_rows(completion_text(tokenizer, ids), rows)
        for ids in generate_both(engine, layout.ids[: layout.start], size + SPARE_TOKENS)
    )
    wanted = first_rows(wanted, rows)
    scores = [similarity(wanted, one) for one in (base, tuned)]
    before = of.slice_text(0, place.at).split("\n")[-_EXAMPLE_ROWS:]
    after = of.slice_text(place.end, len(of)).split("\n")[: _EXAMPLE_ROWS // 2] if task == "fim" else []
    parts: FigureParts = {"task": task, "place": point.place, "length": length}
    example = Example(
        "completion", parts, of.path, held.commit, "\n".join(before), wanted, "\n".join(after), base, tuned, *scores
    )
    return Measurements([*_completion_rows(parts, held.group, *scores)], [example])


def _completion_rows(
    parts: FigureParts, group: str, base: Mapping[str, float], tuned: Mapping[str, float]
) -> Iterator[MeasurementRow]:
    for place in (parts["place"], "all"):
        for metric, value in base.items():
            yield MeasurementRow("completion", metric, {**parts, "place": place}, group, 1, value, tuned[metric])


def first_rows(text: str, rows: int) -> str:
    """Return `rows` rows of a text, from the first that isn't empty, without white space at their ends."""
    return "\n".join(row.rstrip() for row in text.lstrip("\n").split("\n")[:rows]).strip()


def _end_of_line(point: CompletionPoint) -> int:
    return point.row + 1


def _end_of_block(point: CompletionPoint) -> int:
    """Return the row after the last held-out row of the block; rows too short to count don't end it. A point that
    stands alone is no block: its own row is returned."""
    rows, hashes = set(point.held.rows), point.held.target.of.row_hashes
    last = point.row
    for row in range(point.row + 1, min(point.row + MAX_BLOCK_ROWS, len(hashes))):
        if row in rows:
            last = row
        elif hashes[row]:
            break
    return last + 1 if last > point.row else point.row


_MakePrompt = Callable[[TargetSpan, int, str, int, RepoTokenizer], PromptLayout | None]
TASKS: dict[str, tuple[Callable[[CompletionPoint], int], _MakePrompt]] = {
    "line": (_end_of_line, lay_out_prompt),
    "block": (_end_of_block, lay_out_prompt),
    "fim": (_end_of_line, lay_out_fim_prompt),
}
