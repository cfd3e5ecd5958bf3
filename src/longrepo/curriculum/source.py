"""What the curriculum needs of a file of sequences, and the table it makes of it once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from longrepo.errors import InputError
from longrepo.sequences.sequence import DIFFICULTIES


class SequenceSource(Protocol):
    """A file of sequences, as `longrepo.sequences.store.read_sequences` returns it; tests use one in memory."""

    @property
    def content_sha256(self) -> str:
        """A hash of every token and weight: equal content, equal hash."""
        ...

    def __len__(self) -> int: ...

    def column(self, name: str) -> list[Any]:
        """One value a sequence: `difficulty`, `difficulty_score`, `split`, `files`, …"""
        ...

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every sequence, `[sequences]`."""
        ...

    def tokens(self, index: int) -> npt.NDArray[np.int32]:
        """Token ids of one sequence, `[tokens]`."""
        ...

    def weights(self, index: int) -> npt.NDArray[np.float32]:
        """The loss weight of each token as a target, `[tokens]`; 1 marks a target that validation counts."""
        ...


@dataclass(frozen=True)
class Catalogue:
    """What decides when a sequence is trained on, one entry a sequence: tokens, difficulty, score 0..1, split, the file
    of its target."""

    lengths: npt.NDArray[np.int64]
    difficulty: tuple[str, ...]
    score: npt.NDArray[np.float64]
    split: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.split)

    def indices(self, split: str, above: int = 0, at_most: int | None = None) -> list[int]:
        """The sequences of a split longer than `above` and of at most `at_most` tokens, in file order."""
        return [
            index
            for index, name in enumerate(self.split)
            if name == split and above < self.lengths[index] and (at_most is None or self.lengths[index] <= at_most)
        ]


def catalogue_of(source: SequenceSource) -> Catalogue:
    """Read the columns once. Raises InputError for a difficulty that has no place in the order."""
    difficulty = tuple(source.column("difficulty"))
    unknown = sorted(set(difficulty) - set(DIFFICULTIES))
    if unknown:
        raise InputError(f"the sequences have difficulty {unknown[0]!r}; expected one of {', '.join(DIFFICULTIES)}")
    return Catalogue(
        lengths=source.lengths(),
        difficulty=difficulty,
        score=np.array(source.column("difficulty_score"), dtype=np.float64),
        split=tuple(source.column("split")),
        files=tuple(files[-1] if files else "" for files in source.column("files")),
    )
