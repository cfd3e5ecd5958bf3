"""A sequence in the making: slices of texts and the marks between them, made into arrays only when it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.sequence import TARGET_WEIGHT, Kind
from longrepo.sequences.text import Numbers, TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer

Weights = float | NDArray[np.float32]


class Part(NamedTuple):
    """Tokens `start`..`end` of a text, which begin at token `at` of the sequence."""

    of: TokenizedText
    start: int
    end: int
    at: int
    target: bool


@dataclass
class Draft:
    """Tokens and weights, filled from the front. `roles` counts tokens: target, context, structure."""

    tokenizer: RepoTokenizer
    parts: list[Part] = field(default_factory=list)
    roles: Counter[str] = field(default_factory=Counter)
    _pieces: list[Numbers] = field(default_factory=list)
    _weights: list[Weights] = field(default_factory=list)
    _length: int = 0

    def __len__(self) -> int:
        return self._length

    def mark(self, name: str, weight: float) -> None:
        """A structure token; where the tokenizer has none (`data.structure_tokens: false`), its name as text."""
        self.plain(self.tokenizer.mark_ids(name), weight)

    def plain(self, ids: Numbers, weight: float) -> None:
        """Tokens that hold the sequence together (marks, paths, labels)."""
        self._add(ids, weight, "structure")

    def text(self, of: TokenizedText, start: int, end: int, weight: Weights, target: bool) -> None:
        """Tokens start..end of a text, with one weight or one a token; `target` says that they count as used."""
        if start < end:
            self.parts.append(Part(of, start, end, self._length, target))
            self._add(of.ids[start:end], weight, "target" if target else "context")

    def end(self, weight: float = TARGET_WEIGHT) -> None:
        """The end token, once, last."""
        self.plain(self.tokenizer.end_ids, weight)

    def _add(self, ids: Numbers, weight: Weights, role: str) -> None:
        self._pieces.append(ids)
        self._weights.append(weight)
        self._length += len(ids)
        self.roles[role] += len(ids)

    def arrays(self) -> tuple[Numbers, NDArray[np.float32]]:
        """Token ids and loss weights, `[tokens]` each; nothing predicts the first token, so its weight is 0."""
        ids = np.concatenate([np.zeros(0, np.int32), *self._pieces])
        each = [0.0 if isinstance(weight, np.ndarray) else weight for weight in self._weights]
        sizes = [len(piece) for piece in self._pieces]
        weights = np.repeat(np.array(each, np.float32), sizes)
        at = 0
        for size, weight in zip(sizes, self._weights, strict=True):
            if isinstance(weight, np.ndarray):
                weights[at : at + size] = weight
            at += size
        weights[:1] = 0.0
        return ids, weights

    def target_tokens(self) -> int:
        """Tokens of full weight."""
        total, first = 0, True
        for piece, weight in zip(self._pieces, self._weights, strict=True):
            if isinstance(weight, np.ndarray):
                total += int(np.count_nonzero(weight == TARGET_WEIGHT)) - (first and weight[0] == TARGET_WEIGHT)
            elif weight == TARGET_WEIGHT:
                total += len(piece) - first
            first = first and not len(piece)
        return total


@dataclass(slots=True)
class Built:
    """A finished sequence without its arrays. `score` and `parts` are its difficulty's; `difficulty` its label."""

    draft: Draft
    kind: Kind
    split: str
    repository: str
    commits: tuple[str, ...] = ()
    score: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    difficulty: str = ""

    def __len__(self) -> int:
        return len(self.draft)

    @property
    def files(self) -> list[str]:
        """The paths it holds text of, once each, in order."""
        return list(dict.fromkeys(part.of.path for part in self.draft.parts if part.of.path))

    @property
    def language(self) -> str:
        """That of most of its target tokens; where there are none, of most of its tokens."""
        sizes = Counter[str]()
        for part in self.draft.parts:
            if part.of.path:
                sizes[part.of.language] += (part.end - part.start) * (100 if part.target else 1)
        return max(sorted(sizes), key=sizes.__getitem__) if sizes else "Other"


def mark_size(tokenizer: RepoTokenizer, name: str) -> int:
    """Tokens that `Draft.mark` takes."""
    return len(tokenizer.mark_ids(name))


def unique(commits: Sequence[str]) -> tuple[str, ...]:
    """Once each, in order."""
    return tuple(dict.fromkeys(commits))
