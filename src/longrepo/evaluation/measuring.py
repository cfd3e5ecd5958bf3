"""How much is measured, and the walk through it: what is done is kept, what was done before is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from longrepo.engines.adaptive import Adaptive
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
    """How many samples: prepared `sequences` of each length (None: all), held-out `blocks` of lines, points of
    `completions` with the `tasks` at each, `questions`, `needles` at each of `depths` (percent), `files` of another
    repository; at `every_length`, or at the longest."""

    name: str
    sequences: int | None
    blocks: int
    completions: int
    tasks: tuple[str, ...]
    questions: int
    needles: int
    depths: tuple[int, ...]
    files: int
    every_length: bool = False


FULL = Amount("full", None, 32, 48, tuple(completion.TASKS), 64, 4, (0, 25, 50, 75, 100), 40, every_length=True)
QUICK = Amount("quick", 4, 4, 3, ("line", "fim"), 2, 1, (50,), 4)
GLANCE = Amount("glance", None, 4, 3, ("line",), 0, 0, (), 0)  # what the pipeline ends with


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
    chosen = lengths if amount.every_length else [longest]
    yield from context.units(material, chosen, seed)
    yield from completion.units(material, longest, amount.tasks, amount.completions, seed)
    yield from questions.units(material, longest, amount.questions, seed)
    yield from needle.units(material, chosen, amount.depths, amount.needles, seed)
    for one in others:
        yield from other.units(one.trees, one.commit, longest, amount.files, seed)


def measure(adaptive: Adaptive, units: Sequence[Unit], store: Store, tick: Callable[[], None]) -> list[Measured]:
    """What each unit gives, at the positions of its length; `tick` once a unit."""
    found: list[Measured] = []
    for unit in units:
        if unit.key not in store:
            adaptive.hold(unit.length)
            store.add(unit.key, unit.run(adaptive.engine))
        found.append(store[unit.key])
        tick()
    return found


def summed(found: Sequence[Measured], seed: int) -> tuple[list[Comparison], list[Figure], list[Example]]:
    """What the rows say, and the examples."""
    rows = list(chain.from_iterable(one.rows for one in found))
    return comparisons_of(rows), figures_of(rows, seed), [example for one in found for example in one.examples]
