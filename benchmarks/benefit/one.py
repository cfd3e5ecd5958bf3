"""One run: an arm trained on a repository and measured on its held-out lines; its result is one JSON file.

Trained by longrepo's own loop, whatever the arm. The weights measured are those after the last update: no arm gains
from a choice among its checkpoints. Seconds and CPU seconds are those of the updates alone.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import ACCUMULATION, ARMS, OURS, STAGES, TOKENS, Arm, Job, folder_of
from data import clone, sequences_of
from samples import CHOSEN_AT, Sample, layouts_of, make_samples, samples_of

from longrepo.config.schema import Settings
from longrepo.data.dataset import SequenceFile
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.base import Batch, Engine
from longrepo.engines.registry import choose_engine, create_engine
from longrepo.engines.torch.engine import TorchEngine
from longrepo.training.checkpoint import open_run_folder
from longrepo.training.events import EpochRecord, PhaseRecord, RunProgress, UpdateRecord
from longrepo.training.loop import train
from longrepo.training.plan import RunStart, TrainingPlan, make_plan
from longrepo.utils.files import write_text_file

Parts = dict[str, Any]


def run(work: Path, job: Job, commit: str, source: str | None) -> None:
    """Do a job and write its result."""
    arm = ARMS[job.arm]
    with (work / f".{job.repository.rpartition('/')[2]}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # what several runs share is made by one
        repository = clone(work, job.repository, commit, source)
        ours = sequences_of(work, repository, commit, OURS)
        file = ours if arm.name == "base" else sequences_of(work, repository, commit, arm)
        make_samples(work, repository, ours)

    def samples(split: str, layout: str) -> list[Sample]:
        return samples_of(work, repository, split, layout)

    curve = Curve([one for one in samples("validation", layouts_of(arm)[0]) if _chooses(one)][::6])
    plan = fitted(file, ours, job)
    engine = _engine(plan.settings)
    engine.freeze(arm.frozen)
    if arm.mean_rows:
        begin_as_mean(engine)
    if arm.name != "base":
        folder = work / "runs" / job.key
        shutil.rmtree(folder, ignore_errors=True)
        with open_run_folder(folder, resuming=False) as run_folder:
            if train(engine, plan, run_folder, curve.told_by(engine)).exit_status:
                raise SystemExit("stopped; run it again")
        shutil.rmtree(folder)
    by_layout = {
        layout: mean(measure(engine, [one for one in samples("validation", layout) if _chooses(one)][::2]))
        for layout in layouts_of(arm)
    }
    layout = min(by_layout, key=lambda one: by_layout[one])
    result = {
        **asdict(job),
        "facts": engine.facts(),
        **curve.totals(),
        "learnt": learnt(file, plan) if arm.name != "base" else 0.0,
        "curve": curve.points,
        "by_layout": by_layout,
        "layout": layout,
        "validation": measure(engine, samples("validation", layout)) if job.chooses else [],
        "test": [] if job.tried else measure(engine, samples("test", layout)),
    }
    write_text_file(folder_of(work, "results") / f"{job.key}.json", json.dumps(result) + "\n")


def fitted(file: SequenceFile, ours: SequenceFile, job: Job) -> TrainingPlan:
    """The run's plan, its tokens and updates as near as whole sequences allow to TOKENS and to the updates of ours."""
    arm, steps = ARMS[job.arm], OURS.trained_with(1e-3, job.seed, TOKENS // STAGES, ACCUMULATION)
    accumulation = steps.training.gradient_accumulation_steps
    wanted = _updates(_with_tokens(ours, OURS, job, accumulation))
    if arm.training:
        tried = [_with_tokens(file, arm, job, steps) for steps in range(1, 9)]
        return min(tried, key=lambda plan: abs(_updates(plan) - wanted))
    return _with_tokens(file, arm, job, accumulation)


def _with_tokens(file: SequenceFile, arm: Arm, job: Job, accumulation: int) -> TrainingPlan:
    rate, cap, tried = job.rate or 1e-3, TOKENS // STAGES, list[tuple[int, TrainingPlan]]()
    for _ in range(5):
        settings = arm.trained_with(rate, job.seed, cap, accumulation)
        plan = make_plan(RunStart("new", settings), file, str(file.path), file.header.tokenizer.sha256)
        tokens = sum(order.tokens for phase in _phases(plan) for order in phase.orders)
        tried.append((abs(tokens - TOKENS), plan))
        cap += (TOKENS - tokens) // STAGES
    return min(tried, key=lambda one: one[0])[1]


def _phases(plan: TrainingPlan) -> list[Any]:
    return [plan.phase_plan(plan.schedule, phase.number) for phase in plan.schedule.phases if phase.epochs]


def _updates(plan: TrainingPlan) -> int:
    return sum(sum(phase.updates) for phase in _phases(plan))


def learnt(file: SequenceFile, plan: TrainingPlan) -> float:
    """Loss weights of all tokens trained on, added up: tokens that are learnt from."""
    orders = (order for phase in _phases(plan) for order in phase.orders)
    return float(sum(file.weights(at).sum(dtype=np.float64) for order in orders for at in order.indices))


def begin_as_mean(engine: Engine) -> None:
    """Set the structure tokens' trained rows to the mean of all other rows of the embedding."""
    if not isinstance(engine, TorchEngine) or engine.rows is None:
        raise ValueError("no trained rows of the torch engine")
    table = engine.model.get_input_embeddings().weight.detach().float()
    others = torch.ones(len(table), dtype=torch.bool).index_fill(0, engine.rows.ids, False)
    with torch.no_grad():
        engine.rows.weight.copy_(table[others].mean(0))


def _engine(settings: Settings) -> Engine:
    tokenizer = load_tokenizer(settings.model.name, None, settings.data.structure_tokens)
    return create_engine(choose_engine("torch", "cpu"), settings, tokenizer, "cpu")


def _chooses(sample: Sample) -> bool:
    return sample.length == CHOSEN_AT


def measure(engine: Engine, samples: list[Sample]) -> list[list[Any]]:
    """Rows (context, length, group, class, tokens, nats), lines of a class in a commit added up."""
    sums: defaultdict[tuple[str, int, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for one in samples:
        wanted = np.zeros(len(one.ids), np.float32)
        for first, last, _ in one.lines:
            wanted[first:last] = 1
        losses = engine.score(Batch.of([(one.ids, wanted)], engine.pad_id))[0].astype(np.float64)
        for first, last, name in one.lines:
            row = sums[one.context, one.length, one.group, name]
            row[0] += last - first
            row[1] += float(losses[first:last].sum())
    return [[*key, *row] for key, row in sums.items()]


def mean(rows: list[list[Any]]) -> float:
    """Nats a token."""
    return float(sum(row[-1] for row in rows) / sum(row[-2] for row in rows))


class Curve:
    """Told by the loop: what training took so far, and the validation loss at the end of each stretch."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples
        self._engine: Engine | None = None
        self._mark = time.process_time()
        self.tokens, self.updates, self.seconds, self.cpu_seconds = 0, 0, 0.0, 0.0
        self.points: list[Parts] = []

    def told_by(self, engine: Engine) -> Curve:
        """Itself, for a run of an engine."""
        self._engine = engine
        return self

    def totals(self) -> Parts:
        """Of all updates."""
        names = ("tokens", "updates", "seconds", "cpu_seconds")
        return {name: getattr(self, name) for name in names}

    def update(self, record: UpdateRecord) -> None:
        self.tokens += record.tokens
        self.updates += 1
        self.seconds += record.seconds
        self.cpu_seconds += time.process_time() - self._mark
        self._mark = time.process_time()

    def epoch(self, record: EpochRecord) -> None:
        assert self._engine is not None
        self.points.append({**self.totals(), "validation": mean(measure(self._engine, self._samples))})
        self._mark = time.process_time()

    def phase(self, record: PhaseRecord) -> None:
        self._mark = time.process_time()

    def saved(self, folder: Path, best: bool) -> None:
        self._mark = time.process_time()

    def note(self, text: str) -> None:
        print(text, flush=True)

    def progress(self, progress: RunProgress) -> None:
        """Not shown."""

    def validating(self, done: int, of: int) -> None:
        """Not shown."""


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    run(Path(given["work"]), Job(**given["job"]), given["commit"], given["source"])
