"""Sequences as prepared; forgetting.

Base against tuned on the held-out sequences as prepared: the loss of the same target tokens, length by length.

What was forgotten: the plain loss of another repository's files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from longrepo.curriculum.sampler import SequenceSource
from longrepo.data.repo_tree import Trees
from longrepo.data.text import PROSE, TARGET_WEIGHT
from longrepo.engines.base import Engine
from longrepo.evaluation.results import Comparison
from longrepo.evaluation.scoring import Ids, Measured, Row, Unit, mean_interval, score_both
from longrepo.utils import hashing

__all__ = ["Comparison", "compare", "comparisons_of", "units"]
PREPARED = "prepared"  # the measure of its rows, which become comparisons and no figures


def compare(
    engine: Engine,
    source: SequenceSource,
    caps: Sequence[int],
    split: str = "test",
    tick: Callable[[], None] = lambda: None,
) -> list[Comparison]:
    """One Comparison for each cap (touching ranges) that has sequences of the split; `tick` after each sequence."""
    found: list[Row] = []
    for unit in units(source, caps, split):
        found += unit.run(engine).rows
        tick()
    return comparisons_of(found)


def units(source: SequenceSource, caps: Sequence[int], split: str = "test", most: int | None = None) -> Iterator[Unit]:
    """One for each sequence of the split that a cap holds, cap by cap, for `most` of them at each."""
    commits, files = source.column("commits"), source.column("files")
    held_out = [index for index, name in enumerate(source.column("split")) if name == split]
    ranges: dict[int, list[int]] = {cap: [] for cap in sorted(caps)}
    for index in held_out:
        length = len(source.tokens(index))
        cap = next((cap for cap in ranges if length <= cap), None)
        if cap is not None:
            ranges[cap].append(index)
    for cap, indices in ranges.items():
        for index in indices[:most]:
            group = (commits[index] or files[index] or [str(index)])[-1]
            yield Unit(f"{PREPARED}/{cap}/{index}", partial(_measure, source, index, cap, group), cap)


def comparisons_of(rows: Iterable[Row]) -> list[Comparison]:
    """The comparisons, length by length, among the rows of other measures."""
    ranges: dict[int, list[Row]] = {}
    for row in rows:
        if row.measure == PREPARED:
            ranges.setdefault(int(row.parts["cap"]), []).append(row)
    return [_compare_range(cap, some) for cap, some in ranges.items()]


def _measure(source: SequenceSource, index: int, cap: int, group: str, engine: Engine) -> Measured:
    ids, targets = np.asarray(source.tokens(index)), np.asarray(source.weights(index)) >= TARGET_WEIGHT
    targets[:1] = False  # nothing predicts it
    if not targets.any():
        return Measured()
    losses = score_both(engine, ids, targets).at(targets)
    parts = {"cap": cap, "length": len(ids)}
    return Measured([Row(PREPARED, "loss", parts, group, int(targets.sum()), *losses.sums())])


def _compare_range(cap: int, rows: Sequence[Row]) -> Comparison:
    base, tuned, targets = (sum(getattr(row, name) for row in rows) for name in ("base", "tuned", "count"))
    low, high = mean_interval(
        [row.tuned - row.base for row in rows], [row.count for row in rows], [row.group for row in rows]
    )
    return Comparison(
        longest=max(int(row.parts["length"]) for row in rows),
        cap=cap,
        sequences=len(rows),
        targets=round(targets),
        groups=len({row.group for row in rows}),
        base=base / targets,
        tuned=tuned / targets,
        difference=(tuned - base) / targets,
        low=low,
        high=high,
    )


_LEAST = 64  # tokens of a file worth scoring


def other_units(trees: Trees, commit: str, length: int, wanted: int, seed: int) -> Iterator[Unit]:
    """The beginning of `wanted` files of code, `length` tokens at most each, as plain text without marks."""
    texts = trees.at(commit).texts
    code = [path for path, text in texts.items() if len(text) >= _LEAST and text.language not in PROSE]
    name = trees.repository.name
    for path in sorted(code, key=lambda path: hashing.number(seed, "other", path))[:wanted]:
        ids = texts[path].ids[:length]
        yield Unit(f"other/{length}/{name}/{commit[:12]}/{path}", partial(_measure_other, name, path, ids), length)


def _measure_other(name: str, path: str, ids: Ids, engine: Engine) -> Measured:
    both = score_both(engine, ids, np.arange(len(ids)) > 0)
    return Measured([Row("other", "loss", {"repository": name}, path, len(ids) - 1, *both.sums())])
