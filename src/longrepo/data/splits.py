"""Training, validation and test: split by commit ancestry, and by held-out files if history is too short for that.

Training is what commit T reaches along any parent; validation is what V reaches beyond T; test is what HEAD reaches
beyond V. T and V lie on the first-parent line. Never by date: an author's date may lie months before the merge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from longrepo.config.schema import DataSettings
from longrepo.repository.history import RecordStore
from longrepo.repository.repository import Repository
from longrepo.repository.types import CommitRecord
from longrepo.utils import hashing

MAX_HELD_OUT_COMMITS = 200  # in each split: more would only make the training snapshot older


@dataclass
class Splits:
    """Full commit ids: `train` is T, `validation` is V; both are HEAD if no commits are held out."""

    head: str
    train: str
    validation: str
    notes: list[str] = field(default_factory=list)

    def held_out(self, repository: Repository, split: str, limit: int, known: RecordStore) -> Iterator[CommitRecord]:
        """Return the commits of "validation" or "test" that change text, newest first."""
        tip, exclude = (self.validation, self.train) if split == "validation" else (self.head, self.validation)
        return usable_commits(repository, tip, exclude, limit, known) if tip != exclude else iter(())


def usable_commits(
    repository: Repository,
    tip: str,
    exclude: str | None,
    limit: int,
    known: RecordStore,
    left_out: Counter[str] | None = None,
) -> Iterator[CommitRecord]:
    """Return up to `limit` commits that change a usable file, newest first; `left_out` counts the others by reason."""
    records = repository.log(tip, exclude=exclude, left_out=left_out, known=known)
    return islice((record for record in records if record.changes), limit)


def split_by_ancestry(
    repository: Repository, data: DataSettings, commit: str, known: RecordStore, done: Callable[[int], None]
) -> Splits:
    """Choose T and V so that about `validation_share` and `test_share` of the commits up to `commit` come after them.

    `done` is called for each commit.
    """
    head = repository.resolve(commit)
    if data.max_commits == 0:
        return Splits(head, head, head, notes=["data.max_commits is 0: no commits are read, files alone are held out"])

    counted: set[str] = set()
    for record in usable_commits(repository, head, None, data.max_commits, known):
        counted.add(record.id)
        done(1)
    total = len(counted)
    for_test, for_validation = (
        min(MAX_HELD_OUT_COMMITS, round(total * share)) for share in (data.test_share, data.validation_share)
    )
    if not for_test or not for_validation:
        return Splits(head, head, head, notes=[f"{total} usable commits are too few to hold any out"])
    line = repository.first_parents(head, 10 * data.max_commits)

    def beyond(index: int) -> int:
        return len(counted.intersection(repository.beyond(head, line[index])))

    at_test = _first_true(1, len(line) - 1, lambda index: beyond(index) >= for_test)
    at_train = at_test and _first_true(
        at_test + 1, len(line) - 1, lambda index: beyond(index) >= for_test + for_validation
    )
    if not at_train or not at_test:
        return Splits(head, head, head, notes=["the first-parent line is too short to hold commits out"])
    return Splits(head, line[at_train], line[at_test])


def _first_true(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """Return the smallest number in low..high for which the monotone `holds` is true, None if there is none. The steps
    double at first: the answer is near the front, and calls far back are the expensive ones."""
    if low > high:
        return None
    step, at = 1, low
    while not holds(at):
        if at == high:
            return None
        low = at + 1
        at = min(high, at + step)
        step *= 2
    while low < at:
        middle = (low + at) // 2
        if holds(middle):
            at = middle
        else:
            low = middle + 1
    return at


def choose_held_out_files(
    sizes: dict[str, int], share: float, tokens: int, seed: int, taken: Sequence[str] = ()
) -> list[str]:
    """Choose files to hold out, in the order of a hash of the path, until they hold `tokens` tokens: at least one, at
    most `share` of all tokens, never one of `taken`; none if fewer than three files would be left to train on.

    `sizes` is path → tokens of every file that may be chosen. The smaller half is skipped: a target needs text.
    """
    left = {path: size for path, size in sizes.items() if path not in set(taken)}
    if len(left) < 4:
        return []
    middle = sorted(left.values())[len(left) // 2]
    order = sorted(
        (path for path, size in left.items() if size >= middle), key=lambda path: hashing.seeded_int(seed, "held", path)
    )
    bound = share * sum(left.values())
    chosen: list[str] = []
    held = 0
    for path in order[: max(1, len(left) // 3)]:
        if held >= tokens or (chosen and held + left[path] > bound):
            break
        chosen.append(path)
        held += left[path]
    return chosen
