"""What evaluation is tried on: a prepared repository, and an engine whose losses and words are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longrepo.config.loader import dump_yaml, load_settings
from longrepo.config.schema import ContextSettings, Settings
from longrepo.data.dataset import SEQUENCES_FOLDER, SequenceFile, read_sequences
from longrepo.data.prepare import PreparationTools, RepositorySpec, prepare, write_prepared
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.base import Batch
from longrepo.evaluation.blocks import EvalData
from longrepo.evaluation.run import OtherRepository, open_eval_data
from longrepo.repository.repository import Repository
from longrepo.training.checkpoint import CheckpointFolder, trained_folder
from longrepo.training.state import BestCheckpoint, CheckpointSnapshot, RunIdentity, TrainingState
from longrepo.utils.progress import NoProgress

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
        self.loaded: list[Path] = []
        self.stop_at: int | None = None  # scores: then Ctrl-C is pressed
        self.base_writes: list[int] = []
        self.tuned_writes: list[int] = []
        self.scored: list[Batch] = []
        self.prompts: list[list[int]] = []
        self.positions: list[ContextSettings] = []

    def position(self, context: ContextSettings) -> None:
        self.positions.append(context)

    def score(self, batch: Batch) -> np.ndarray:
        if len(self.scored) == self.stop_at:
            raise KeyboardInterrupt
        self.scored.append(batch)
        return np.where(batch.loss_weights != 0, np.float32(self.loss), np.float32(0))

    def generate(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        self.prompts.append(list(prompt))
        return (self.tuned_writes if self.loss == 1.5 else self.base_writes)[:max_new_tokens]

    @contextmanager
    def base_only(self) -> Iterator[None]:
        self.loss = 2.0
        try:
            yield
        finally:
            self.loss = 1.5

    def load_adapter(self, folder: Path) -> None:
        self.loaded.append(folder)

    def save_adapter(self, folder: Path) -> None:
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "embedded"}')

    def save_optimizer(self, file: Path) -> None:
        file.write_bytes(b"none")

    def facts(self) -> dict[str, Any]:
        return {"engine": "two losses", "dtype": "float32"}


@dataclass
class Prepared:
    """A repository's folder and its sequences."""

    folder: Path
    file: SequenceFile
    tokenizer: RepoTokenizer
    settings: Settings
    sequences: Path

    @contextmanager
    def opened(self, *others: Path) -> Iterator[tuple[EvalData, list[OtherRepository]]]:
        """Nothing chosen yet."""
        with open_eval_data(self.file, self.tokenizer, self.settings, [self.folder], others, NoProgress()) as found:
            yield found


def prepared(folder: Path, to: Path, tokenizer: RepoTokenizer | None = None) -> Prepared:
    """Prepare a repository, with the embedded model's tokenizer unless another is given."""
    settings = load_settings(None, _SMALL)
    tokenizer = tokenizer or load_tokenizer("embedded")
    with Repository.open(folder) as repository:
        write_prepared(to, prepare([RepositorySpec(repository)], settings, PreparationTools(tokenizer), 3, 1024))
    return Prepared(folder, read_sequences(to / SEQUENCES_FOLDER), tokenizer, settings, to / SEQUENCES_FOLDER)


def finished_run(path: Path, prepared: Prepared) -> Path:
    """A run on these sequences as it is left in the end; of its checkpoints only where they say what they were of."""
    for folder in ("adapter", "last"):
        (path / folder).mkdir(parents=True)
    (path / "settings.yaml").write_text(dump_yaml(prepared.settings))
    TwoLosses().save_adapter(path / "adapter")
    (path / "last" / "state.json").write_text(json.dumps({"sequences": str(prepared.sequences)}))
    return path


def unfinished_run(path: Path, prepared: Prepared) -> Path:
    """A run on these sequences that has saved one checkpoint, its best so far."""
    path.mkdir()
    (path / "settings.yaml").write_text(dump_yaml(prepared.settings))
    name = "step-00000001"
    state = TrainingState({"1": 2}, update=1, best=BestCheckpoint(2.0, 1, name))
    digest, tree = prepared.file.content_sha256, prepared.settings.model_dump(mode="json")
    identity = RunIdentity(tree, {}, str(prepared.sequences), digest, None, "torch", {})
    (path / "checkpoints").mkdir()
    checkpoints = CheckpointFolder(path, 1, trained_folder(prepared.settings))
    checkpoints.save(name, TwoLosses(), CheckpointSnapshot(identity, state))  # type: ignore[arg-type]
    return path
