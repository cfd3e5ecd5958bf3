"""What evaluation is tried on: a prepared repository, and an engine whose losses and words are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.engines.base import Batch
from longrepo.evaluation.held import Material
from longrepo.evaluation.measuring import Other
from longrepo.evaluation.opening import opened
from longrepo.repository.repository import Repository
from longrepo.sequences.assembly import Origin, Tools
from longrepo.sequences.output import SEQUENCES, write_prepared
from longrepo.sequences.prepare import prepare
from longrepo.sequences.store import SequenceFile, read_sequences
from longrepo.sequences.tokenizer import RepoTokenizer, load_tokenizer
from longrepo.sequences.watch import Unwatched

LENGTHS = (256, 512, 1024)
_SMALL = (
    "model.name=embedded", "data.held_out_per_length=4", "long_context.phase1_max_length=256",
    "long_context.phase2_min_length=384", "long_context.phase2_max_length=512", "long_context.phase3_min_length=768",
    "long_context.phase3_max_length=1024",
)  # fmt: skip


class TwoLosses:
    """An engine whose base scores 2 nats on every token and whose tuned model scores 1.5; each writes what it is told,
    and keeps what it was asked."""

    pad_id = 0

    def __init__(self) -> None:
        self.loss = 1.5
        self.base_writes: list[int] = []
        self.tuned_writes: list[int] = []
        self.scored: list[Batch] = []
        self.prompts: list[list[int]] = []

    def score(self, batch: Batch) -> np.ndarray:
        self.scored.append(batch)
        return np.where(batch.loss_weights != 0, np.float32(self.loss), np.float32(0))

    def generate(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        self.prompts.append(list(prompt))
        return (self.tuned_writes if self.loss == 1.5 else self.base_writes)[:max_new_tokens]

    @contextmanager
    def base_only(self) -> Iterator[None]:
        self.loss = 2.0
        yield
        self.loss = 1.5


@dataclass
class Prepared:
    """A repository's folder and its sequences."""

    folder: Path
    file: SequenceFile
    tokenizer: RepoTokenizer
    settings: Settings

    @contextmanager
    def opened(self, *others: Path) -> Iterator[tuple[Material, list[Other]]]:
        """Nothing chosen yet."""
        with opened(self.file, self.tokenizer, self.settings, [self.folder], others, Unwatched()) as found:
            yield found


def prepared(folder: Path, to: Path) -> Prepared:
    settings = load_settings(None, _SMALL)
    tokenizer = load_tokenizer("embedded")
    with Repository.open(folder) as repository:
        write_prepared(to, prepare([Origin(repository)], settings, Tools(tokenizer), 3, 1024))
    return Prepared(folder, read_sequences(to / SEQUENCES), tokenizer, settings)
