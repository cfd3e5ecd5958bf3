"""A repository prepared as a whole, and its rows as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from longrepo.config.schema import Settings
from longrepo.data.prepare import PreparationTools, PreparedData, RepositorySpec, prepare
from longrepo.data.rows import SequenceRow
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.windows import build_windows
from longrepo.repository.repository import Repository
from longrepo.utils.cache import SqliteCache


@dataclass
class Case:
    """A prepared repository."""

    folder: Path
    prepared: PreparedData

    @cached_property
    def rows(self) -> list[SequenceRow]:
        return list(self.prepared.rows())

    def of(self, split: str, phase: int | None = None, kind: str | None = None) -> list[SequenceRow]:
        """The rows of a split, of a phase and a kind where one is named."""
        bands = {band["phase"]: band for band in self.prepared.header.bands}
        low, high = (bands[phase]["floor"], bands[phase]["cap"]) if phase else (0, 10**9)
        return [
            row
            for row in self.rows
            if row.split == split and low < len(row.input_ids) <= high and kind in (None, row.kind)
        ]

    @property
    def summary(self) -> dict[str, object]:
        """What the summary says of the first repository."""
        found: dict[str, object] = self.prepared.summary["repositories"][0]
        return found


def prepared(
    folder: Path | Sequence[Path],
    tokenizer: RepoTokenizer,
    settings: Settings,
    *,
    phases: int = 3,
    length: int = 2048,
    overlap: int | None = None,
    commit: str = "HEAD",
    weights: Sequence[float] | None = None,
    cache: SqliteCache | None = None,
    workers: int = 1,
) -> Case:
    """What `prepare` makes of one or more repositories, or with an `overlap` what `windows` does."""
    folders = [folder] if isinstance(folder, Path) else list(folder)
    tools = PreparationTools(tokenizer, cache or SqliteCache(), workers)
    with ExitStack() as stack:
        origins = [
            RepositorySpec(stack.enter_context(Repository.open(one)), commit, weight)
            for one, weight in zip(folders, weights or [1.0] * len(folders), strict=True)
        ]
        if overlap is None:
            made = prepare(origins, settings, tools, phases, length)
        else:
            made = build_windows(origins, settings, tools, length, overlap)
    return Case(folders[0], made)


def shown(tokenizer: RepoTokenizer, row: SequenceRow) -> str:
    """A row's text, marks spelled out."""
    return tokenizer.decode(row.input_ids.tolist())


def weighed(tokenizer: RepoTokenizer, row: SequenceRow, weight: float = 1.0) -> str:
    """The text of the tokens of one weight, each run of them on a line of its own."""
    (places,) = np.nonzero(abs(row.loss_weights - weight) < 1e-6)
    runs = np.split(row.input_ids[places], np.flatnonzero(np.diff(places) > 1) + 1)
    return "\n".join(tokenizer.decode(run.tolist()) for run in runs)
