"""Base against tuned on held-out sequences as they were prepared, length by length, and on another repository's files.

The second, a plain loss without marks, shows what tuning made the model forget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from longrepo.curriculum.sampler import SequenceSource
from longrepo.data.repo_tree import RepoTrees
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.engines.base import Engine
from longrepo.evaluation.results import Comparison
from longrepo.evaluation.scoring import IdArray, Measurement, MeasurementRow, Measurements, mean_interval, score_both
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.utils import hashing

PREPARED = "prepared"  # the measure of rows that become comparisons, not figures


def prepared_measurements(
    source: SequenceSource, caps: Sequence[int], split: str = "test", most: int | None = None
) -> Iterator[Measurement]:
    """Yield a measurement for each sequence of the split within a cap, cap by cap, at most `most` for each."""
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
            yield Measurement(f"{PREPARED}/{cap}/{index}", partial(_measure_prepared, source, index, cap, group), cap)


def make_comparisons(rows: Iterable[MeasurementRow]) -> list[Comparison]:
    """Return the comparisons, length by length; rows of other measures are ignored."""
    ranges: dict[int, list[MeasurementRow]] = {}
    for row in rows:
        if row.measure == PREPARED:
            ranges.setdefault(int(row.parts["cap"]), []).append(row)
    return [_compare_range(cap, some) for cap, some in ranges.items()]


def _measure_prepared(source: SequenceSource, index: int, cap: int, group: str, engine: Engine) -> Measurements:
    ids, targets = np.asarray(source.tokens(index)), np.asarray(source.weights(index)) >= TARGET_WEIGHT
    targets[:1] = False  # nothing predicts the first token
    if not targets.any():
        return Measurements()
    losses = score_both(engine, ids, targets).at(targets)
    parts = {"cap": cap, "length": len(ids)}
    return Measurements([MeasurementRow(PREPARED, "loss", parts, group, int(targets.sum()), *losses.sums())])


def _compare_range(cap: int, rows: Sequence[MeasurementRow]) -> Comparison:
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


MIN_FILE_TOKENS = 64  # tokens of a file worth scoring


def forgetting_measurements(
    trees: RepoTrees, commit: str, length: int, wanted: int, seed: int
) -> Iterator[Measurement]:
    """Yield a measurement for each of `wanted` files of code: its first `length` tokens, plain text without marks."""
    texts = trees.at(commit).texts
    code = [
        path for path, text in texts.items() if len(text) >= MIN_FILE_TOKENS and text.language not in PROSE_LANGUAGES
    ]
    name = trees.repository.name
    for path in sorted(code, key=lambda path: hashing.seeded_int(seed, "other", path))[:wanted]:
        ids = texts[path].ids[:length]
        yield Measurement(
            f"other/{length}/{name}/{commit[:12]}/{path}", partial(_measure_forgetting, name, path, ids), length
        )


def _measure_forgetting(name: str, path: str, ids: IdArray, engine: Engine) -> Measurements:
    both = score_both(engine, ids, np.arange(len(ids)) > 0)
    return Measurements([MeasurementRow("other", "loss", {"repository": name}, path, len(ids) - 1, *both.sums())])
