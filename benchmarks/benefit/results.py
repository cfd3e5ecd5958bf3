"""The results that are there, and differences between two arms with their intervals.

Losses are means over held-out tokens. A difference is relative, in percent of the first arm's loss, the same tokens and
seeds under both, averaged over repositories. Intervals: 95 %, percentile bootstrap of 2,000 resamples: repositories,
then the seeds of each, then the commits of each, all drawn with replacement (Davison & Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from arms import LENGTHS, folder_of

from longrepo.evaluation.context_loss import CROSS_FILE_CLASSES, LINE_CLASSES
from longrepo.evaluation.scoring import RESAMPLES, Interval

Array = npt.NDArray[np.float64]
ELSEWHERE = tuple(name for name in LINE_CLASSES if name not in CROSS_FILE_CLASSES)


class Lines(NamedTuple):
    """Which scored lines: behind which context, of which classes."""

    context: str
    length: int
    classes: Sequence[str] = LINE_CLASSES
    split: str = "test"


@dataclass(frozen=True)
class Result:
    """One run's file."""

    tree: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.tree[name]

    @property
    def chosen_by(self) -> float:
        """What a learning rate is chosen by: nats a token of the validation lines, the mean of both lengths."""
        each = [self.sums(Lines("related", length, split="validation")).values() for length in LENGTHS]
        return float(np.mean([sum(nats for _, nats in one) / sum(tokens for tokens, _ in one) for one in each]))

    def sums(self, lines: Lines) -> dict[str, tuple[float, float]]:
        """Commit -> (tokens, nats)."""
        found: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for context, length, group, name, tokens, nats in self.tree[lines.split]:
            if (context, length) == lines[:2] and name in lines.classes:
                found[group][0] += tokens
                found[group][1] += nats
        return {group: (tokens, nats) for group, (tokens, nats) in found.items()}


class Compared(NamedTuple):
    """A difference in percent; `first`, `second`: mean losses, nats a token."""

    first: float
    second: float
    percent: Interval
    repositories: int
    runs: int
    commits: int
    tokens: int


def read(work: Path) -> list[Result]:
    """All results, in the order of their names."""
    return [Result(json.loads(file.read_text())) for file in sorted(folder_of(work, "results").glob("*.json"))]


def compared(first: Sequence[Result], second: Sequence[Result], lines: Lines) -> Compared | None:
    """The second arm's loss against the first's, on the repositories and seeds that both have. An arm without seeds
    (the base) goes with every seed."""
    parts = list(_pairs(first, second, lines))
    if not parts:
        return None
    draw = np.random.default_rng(0)
    exact = np.array([[one.ratio(None), *one.losses] for one in parts])
    resampled = np.stack([one.ratio(draw) for one in parts], axis=1)
    which = draw.integers(0, len(parts), (RESAMPLES, len(parts)))
    low, high = np.nanpercentile(np.take_along_axis(resampled, which, 1).mean(axis=1), [2.5, 97.5])
    percent, left, right = exact.mean(axis=0).tolist()
    return Compared(
        left, right, Interval(percent, float(low), float(high)), len(parts), sum(len(one.a) for one in parts),
        sum(len(one.tokens) for one in parts), round(sum(one.tokens.sum() for one in parts)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Pair:
    """One repository: `tokens` `[commits]`, nats under each arm `a`, `b` `[seeds, commits]`."""

    tokens: Array
    a: Array
    b: Array

    @property
    def losses(self) -> tuple[float, float]:
        """Nats a token under each."""
        return tuple(float(one.mean(axis=0).sum() / self.tokens.sum()) for one in (self.a, self.b))  # type: ignore

    def ratio(self, draw: np.random.Generator | None) -> Any:
        """The difference in percent, or (given a generator) that of each resample, `[resamples]`."""
        seeds, commits = self.a.shape
        if draw is None:
            return 100 * (self.b.sum() / self.a.sum() - 1)
        by_seed = draw.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
        by_commit = draw.multinomial(commits, np.full(commits, 1 / commits), RESAMPLES)
        a, b = (np.einsum("rs,sc,rc->r", by_seed, one, by_commit) for one in (self.a, self.b))
        return 100 * (b / np.where(a > 0, a, np.nan) - 1)


def _pairs(first: Sequence[Result], second: Sequence[Result], lines: Lines) -> Iterator[_Pair]:
    for repository in dict.fromkeys(one.repository for one in second):
        left = {one.seed: one.sums(lines) for one in first if one.repository == repository}
        right = {one.seed: one.sums(lines) for one in second if one.repository == repository}
        seeds = [seed for seed in right if seed in left or 0 in left]
        if not seeds:
            continue
        commits = sorted(right[seeds[0]])
        if commits:
            tokens = np.array([right[seeds[0]][one][0] for one in commits])
            a = np.array([[left[seed if seed in left else 0][one][1] for one in commits] for seed in seeds])
            b = np.array([[right[seed][one][1] for one in commits] for seed in seeds])
            yield _Pair(tokens, a, b)
