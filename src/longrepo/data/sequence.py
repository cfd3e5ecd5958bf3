"""A training sequence: tokens, the loss weight of each, and where it came from.

Imports nothing heavy, so that the curriculum and the command line can use it without loading a parser.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SequenceKind = Literal["hierarchical", "commit_evolution", "qa", "window"]
Split = Literal["train", "validation", "test"]
DIFFICULTIES = ("easy", "medium", "hard", "very_hard")
SEQUENCE_KINDS: tuple[SequenceKind, ...] = ("hierarchical", "commit_evolution", "qa", "window")
MIN_TARGETS = 0.02  # the share of a sequence's tokens that have to be targets
TARGET_WEIGHT = 1.0  # the weight of a target token; validation and evaluation count only these


@dataclass
class LongContextSequence:
    """Token ids `[tokens]` and their loss weights as targets `[tokens]` (the first is always 0).

    `metadata` holds `kind`, `curriculum_difficulty` (one of DIFFICULTIES), `difficulty_score` (0..1),
    `difficulty_parts`, `files_included`, `commits_included`, `language`, `split`.
    """

    tokens: list[int]
    loss_weights: list[float]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.loss_weights):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.loss_weights)} loss weights")

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class NotBuilt:
    """Why no sequence was built, and how many tokens were not used. False in a condition, as None would be."""

    reason: str
    tokens: int = 0

    def __bool__(self) -> bool:
        return False
