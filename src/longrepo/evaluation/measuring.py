"""How much is measured, and the walk through it: what is done is kept, what was done before is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from longrepo.engines.base import Engine
from longrepo.evaluation import completion, context, needle, other, questions
from longrepo.evaluation.compare import comparisons_of
from longrepo.evaluation.figures import figures_of
from longrepo.evaluation.held import Material
from longrepo.evaluation.measured import Measured, Unit
from longrepo.evaluation.result import Comparison, Example, Figure
from longrepo.evaluation.store import Store
from longrepo.evaluation.trees import Trees


@dataclass(frozen=True)
class Amount:
    """How many samples: held-out `blocks` of lines, points of `completions`, `questions`, `needles` at each of
    `depths` (percent) and length, `files` of another repository."""

    name: str
    blocks: int
    completions: int
    questions: int
    needles: int
    depths: tuple[int, ...]
    files: int


FULL = Amount("full", 32, 48, 64, 4, (0, 25, 50, 75, 100), 40)
QUICK = Amount("quick", 6, 4, 6, 1, (0, 50, 100), 6)


@dataclass(frozen=True)
class Other:
    """Another repository, at a commit."""

    trees: Trees
    commit: str


def block_size(lengths: Sequence[int], most: int = 400) -> int:
    """Tokens a held-out block spans at most: it must leave room for context at the shortest length."""
    return min(most, min(lengths) * 2 // 5)


def plan(
    material: Material, lengths: Sequence[int], amount: Amount, seed: int, others: Sequence[Other] = ()
) -> Iterator[Unit]:
    """All that is to be measured beyond the sequences as prepared. Completions and questions at the longest length."""
    longest = max(lengths)
    yield from context.units(material, lengths, seed)
    yield from completion.units(material, longest, amount.completions, seed)
    yield from questions.units(material, longest, amount.questions, seed)
    needle_lengths = lengths if amount is FULL else [longest]
    yield from needle.units(material, needle_lengths, amount.depths, amount.needles, seed)
    for one in others:
        yield from other.units(one.trees, one.commit, longest, amount.files, seed)


def measure(engine: Engine, units: Sequence[Unit], store: Store, tick: Callable[[], None]) -> list[Measured]:
    """What each unit gives; `tick` once a unit."""
    found: list[Measured] = []
    for unit in units:
        if unit.key not in store:
            store.add(unit.key, unit.run(engine))
        found.append(store[unit.key])
        tick()
    return found


def summed(found: Sequence[Measured], seed: int) -> tuple[list[Comparison], list[Figure], list[Example]]:
    """What the rows say, and the examples."""
    rows = list(chain.from_iterable(one.rows for one in found))
    return comparisons_of(rows), figures_of(rows, seed), [example for one in found for example in one.examples]
