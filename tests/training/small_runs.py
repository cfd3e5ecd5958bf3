"""Small settings, an in-memory file of sequences, and a run from start to end with the fake engine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fake_engine import VOCABULARY, FakeEngine

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.memory.guard import GuardFactory, NoGuard
from longrepo.memory.planner import MemoryPlan
from longrepo.training.checkpoint import open_run_folder
from longrepo.training.events import EpochRecord, PhaseRecord, RunProgress, UpdateRecord
from longrepo.training.loop import RunOutcome, train
from longrepo.training.plan import RunStart, make_plan
from longrepo.training.resume import find_run, resume_start, start_from_checkpoint

SMALL = (
    "long_context.phase1_max_length=64", "long_context.phase1_epochs=2", "long_context.phase2_min_length=80",
    "long_context.phase2_max_length=96", "long_context.phase2_epochs=2", "long_context.phase3_min_length=100",
    "long_context.phase3_max_length=128", "long_context.phase3_epochs=2", "training.base_learning_rate=0.05",
    "training.gradient_accumulation_steps=2", "training.save_every_steps=2", "data.overlap=0",
)  # fmt: skip


MEASURED = ("seconds", "tokens_per_second", "memory")


class MemorySource:
    """What `read_sequences` returns, in memory."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.content_sha256 = hashlib.sha256(json.dumps([r["tokens"] for r in rows]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def lengths(self) -> np.ndarray:
        return np.array([len(row["tokens"]) for row in self.rows], dtype=np.int64)

    def tokens(self, index: int) -> np.ndarray:
        return np.array(self.rows[index]["tokens"], dtype=np.int32)

    def weights(self, index: int) -> np.ndarray:
        return np.array(self.rows[index]["weights"], dtype=np.float32)


def sequences(per_length: int = 8, lengths: tuple[int, ...] = (40, 60, 90, 120), seed: int = 1) -> MemorySource:
    """Sequences that count upwards with some noise, so that a bigram learns them; a quarter is for validation."""
    chance = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        for n in range(per_length):
            steps = 1 + (chance.random(length) < 0.15)
            tokens = (int(chance.integers(VOCABULARY)) + np.cumsum(steps)) % VOCABULARY
            score = float(chance.random())
            rows.append(
                {
                    "tokens": tokens.tolist(),
                    "weights": [0.0, *chance.choice([0.1, 1.0], length - 1).tolist()],
                    "difficulty": ("easy", "medium", "hard", "very_hard")[min(3, int(score * 4))],
                    "difficulty_score": score,
                    "split": "validation" if n % 4 == 3 else "train",
                    "files": [f"{n % 5}.py"],
                }
            )
    return MemorySource(rows)


def settings_with(*overrides: str) -> Settings:
    return load_settings(overrides=(*SMALL, *overrides))


@dataclass
class Told:
    """A reporter that remembers."""

    notes: list[str] = field(default_factory=list)
    phases: list[PhaseRecord] = field(default_factory=list)
    updates: list[UpdateRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    saves: list[str] = field(default_factory=list)
    progresses: list[RunProgress] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, record: PhaseRecord) -> None:
        self.phases.append(record)

    def update(self, record: UpdateRecord) -> None:
        self.updates.append(record)

    def progress(self, progress: RunProgress) -> None:
        self.progresses.append(progress)

    def validating(self, done: int, of: int) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)

    def saved(self, folder: Path, best: bool) -> None:
        self.saves.append(folder.name)


def run(
    output: Path,
    *overrides: str,
    resume: str | None = None,
    checkpoint: Path | None = None,
    epochs: int | None = None,
    source: MemorySource | None = None,
    engine: FakeEngine | None = None,
    told: Told | None = None,
    memory: MemoryPlan | None = None,
    make_guard: GuardFactory = lambda write, record: NoGuard(),
) -> RunOutcome:
    """What the command does, with the fake engine."""
    source, settings = source or sequences(), settings_with(*overrides)
    if resume is not None:
        found = find_run(resume, output)
        start = resume_start(found, settings, source.content_sha256, epochs)
    elif checkpoint is not None:
        start = start_from_checkpoint(checkpoint, settings, epochs)
    else:
        start = RunStart("new", settings, epochs=epochs)
    plan = make_plan(start, source, "memory")
    with open_run_folder(output, resuming=resume is not None) as folder:
        return train(
            engine or FakeEngine(), plan, folder, told if told is not None else Told(), None, memory, make_guard
        )


def weights_of(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def records(run: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` without what a clock measured."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in found]
