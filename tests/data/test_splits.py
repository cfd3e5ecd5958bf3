"""How many of the newest commits are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from longrepo.config.schema import DataSettings
from longrepo.data.splits import split_by_ancestry


@dataclass
class OneLine:
    """A repository of `commits` commits in one line, named by how many come after them."""

    commits: int

    def resolve(self, commit: str) -> str:
        return "0"

    def log(self, tip: str, **options: Any) -> Iterator[Any]:
        return (SimpleNamespace(id=str(number), changes=["a change"]) for number in range(self.commits))

    def first_parents(self, tip: str, limit: int) -> list[str]:
        return [str(number) for number in range(min(self.commits, limit))]

    def beyond(self, tip: str, commit: str) -> list[str]:
        return [str(number) for number in range(int(commit))]


@pytest.mark.parametrize("commits, held_out", [(40, 4), (1990, 199), (2000, 200), (2010, 200), (4000, 200)])
def test_a_tenth_of_the_commits_is_held_out_and_two_hundred_at_most(commits: int, held_out: int) -> None:
    """The newest for the test, as many before them for validation."""
    repository: Any = OneLine(commits)
    splits = split_by_ancestry(repository, DataSettings(max_commits=5000), "HEAD", None, lambda _: None)  # type: ignore[arg-type]
    assert (splits.validation, splits.train) == (str(held_out), str(2 * held_out))
