"""A run's folder as training leaves it, written by what writes it, with figures that are made up."""

from __future__ import annotations

import json
import os
from pathlib import Path

from longrepo.config.loader import load_settings
from longrepo.data.dataset import write_sequences
from longrepo.data.metadata import Header, RepositoryFacts, TokenizerFacts
from longrepo.data.sequence import LongContextSequence
from longrepo.evaluation.results import (
    AgainstAdapter,
    Comparison,
    Estimate,
    Evaluation,
    Example,
    Figure,
    write_evaluation,
)
from longrepo.training.checkpoint import open_run_folder
from longrepo.training.events import (
    EpochRecord,
    MemoryUse,
    MetricsFile,
    PhaseRecord,
    StepDownRecord,
    UpdateRecord,
    Validation,
)
from longrepo.training.state import BestCheckpoint, CheckpointSnapshot, RunIdentity, TrainingState

GIB = 2**30
UPDATES = 6  # in each of two phases
STEP_DOWN = "memory: <not markup> runs out; from update 9 on in chunks of 64"


def write_run(folder: Path, epochs: int = 2, rate: float = 0.003) -> Path:
    """`folder/run`, trained on `folder/sequences`; finished with its second epoch."""
    header = _write_sequences(folder / "sequences")
    settings = load_settings(overrides=["model.name=embedded", f"training.base_learning_rate={rate}"])
    run = folder / "run"
    with open_run_folder(run, resuming=False) as opened:
        opened.write_settings(settings)
    _write_metrics(run, epochs, rate)
    (run / "memory_plan.json").write_text(json.dumps(_plan()))
    state = TrainingState({"1": 1, "2": 1}, phase=min(epochs + 1, 2), update=epochs * UPDATES, ended=epochs == 2)
    state.best = BestCheckpoint(2.1, epochs, "phase-1")
    identity = RunIdentity(
        settings.model_dump(mode="json"), {}, str(folder / "sequences"), header.content_sha256, None, "torch", {}
    )  # fmt: skip
    checkpoint = run / "checkpoints" / "phase-1"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text(json.dumps(CheckpointSnapshot(identity, state).as_json()))
    os.symlink("checkpoints/phase-1", run / "last")
    if state.ended:
        (run / "adapter").mkdir()
    return run


def evaluate(run: Path, difference: float = -0.2) -> None:
    """Put an evaluation into a run's folder."""
    rows = [
        Comparison(cap, cap, 8, 400, groups, 3.5, 3.5 + difference, difference, difference - 0.05, difference + 0.05)
        for cap, groups in ((512, 1), (2048, 12))
    ]
    figures = [
        _figure("context", "loss", {"context": name, "length": length}, "nats a token", 3.5, 3.5 + difference)
        for name in ("none", "related")
        for length in (512, 2048)
    ]
    figures.append(_figure("gain", "gain", {"context": "related", "length": 2048}, "nats a token", 0.1, 0.3, "higher"))
    parts = {"task": "line", "place": "all", "length": 2048}
    figures.append(_figure("completion", "edit", parts, "share", 0.4, 0.5, "higher"))
    figures += [
        _figure(measure, metric, {**more, "length": 2048}, unit, base, tuned, better)
        for measure, more in (
            *(("fim", {"scope": scope}) for scope in ("identifier", "block", "all")), ("next_edit", {}),
            ("commit_message", {}),
            *(("api_use", {"what": what, "place": "all"}) for what in ("callee", "arguments")),
        )
        for metric, unit, base, tuned, better in (
            ("loss", "nats a token", 1.5, 1.5 + difference, "lower"), ("exact", "share", 0.2, 0.3, "higher")
        )
        if (measure, metric) != ("commit_message", "exact")
    ]  # fmt: skip
    texts: list[dict[str, str | int]] = [{"text": "own"}, {"text": "cross_file"}]
    texts += [{"text": "task", "task": task} for task in ("fim", "next_edit", "commit_message", "callee", "arguments")]
    texts += [{"text": "control", "repository": "gin"}, {"text": "neutral", "language": "all"}]
    texts += [{"text": "neutral", "language": "Go"}, {"text": "own", "base": "retrieved", "tuned": "related"}]
    changes = [
        _figure("change", "percent", parts, "% of the base's loss", 100, 100 + 60 * difference) for parts in texts
    ]
    figures = [*changes, *figures]
    figures.append(_figure("hitherto unknown", "loss", {"thing": "x"}, "nats a token", 2.0, 1.9))
    example = Example(
        "completion", parts, "src/<b>.py", "c" * 40, "def f():\n    ", "return one + two\n", "\n# after\n",
        "return \u202ezero\n", "return one\n", {"edit": 0.5}, {"edit": 0.8},
    )  # fmt: skip
    about = {"split": "test", "sequences_sha256": "s"}
    found = Evaluation(about, rows, figures, [example], ["A note & its sign."], [AgainstAdapter("b", "", changes[:8])])
    write_evaluation(run / "evaluation.json", found)


def _figure(
    measure: str, metric: str, parts: dict[str, str | int], unit: str, base: float, tuned: float, better: str = "lower"
) -> Figure:
    def around(value: float) -> Estimate:
        return Estimate(value, value - 0.04, value + 0.04)

    values = [around(value) for value in (base, tuned, tuned - base)]
    return Figure(measure, metric, parts, unit, better, *values, 40, 900, 12, 0)  # type: ignore[arg-type]


def _write_sequences(path: Path) -> Header:
    about = {
        "kind": "hierarchical", "curriculum_difficulty": "easy", "difficulty_score": 0.1, "difficulty_parts": {},
        "files_included": ["a.py"], "commits_included": [], "language": "Python", "split": "train", "repository": "one",
    }  # fmt: skip
    cell = {
        "sequences": 7, "tokens": 3500, "target_tokens": 2000, "within_range": 7, "kinds": {"hierarchical": 4, "qa": 3},
        "difficulties": {"easy": 5, "hard": 2}, "languages": {"Python": 6, "Rust": 1},
    }  # fmt: skip
    account = {"tokenized": 4000, "used": 3500, "dropped": {"too short a rest": 500}}
    header = Header(
        TokenizerFacts("embedded", "t" * 64, 4096),
        [RepositoryFacts("one", "h" * 40, notes=["a young repository"], licence="MIT")],
        bands=[{"phase": 1, "floor": 0, "low": 256, "cap": 512}, {"phase": 2, "floor": 512, "low": 768, "cap": 1024}],
        counts={"train": {"1": cell, "2": cell}, "test": {"1": cell}},
        accounts={"1": account, "2": account},
        redactions={"email": 3},
    )
    return write_sequences(path, [LongContextSequence([1, 2, 3], [0.0, 1.0, 1.0], about)], header)


def _plan() -> dict[str, object]:
    phases = {
        str(number): {"method": {"step": "plain"}, "length": 512 * number, "peak": number * GIB} for number in (1, 2)
    }
    return {"device": "cpu", "budget": {"bytes": 4 * GIB, "reason": "set", "limit": True}, "phases": phases}


def _write_metrics(run: Path, epochs: int, rate: float) -> None:
    metrics = MetricsFile(run, 0, 0)
    for phase in range(1, epochs + 1):
        checks = [Validation(loss, {"≤512": loss, "≤1024": loss - 0.1}, 300) for loss in (2.5 - 0.2 * phase, 2.1)]
        metrics.write(PhaseRecord(phase, phase, phase, 0, 512 * phase, rate, 1.0, 12, 0, UPDATES, checks[0]))
        for position in range(1, UPDATES + 1):
            update = (phase - 1) * UPDATES + position
            memory = {"peak": (phase + 0.1) * GIB, "resident": 2 * GIB}
            metrics.write(
                UpdateRecord(phase, phase, update, position, UPDATES, 3 - update / 10, rate, 0.3, 1000, 2.0, memory)
            )
            if update == 8:
                words = ("plain", "chunks of 64", 2 * GIB, GIB, STEP_DOWN)
                metrics.write(StepDownRecord(phase, 9, "it ran out", "chunks", *words))
        use = MemoryUse("plain", GIB, int((phase + 0.1) * GIB), [], [], None, 0)
        metrics.write(
            EpochRecord(
                phase, phase, phase * UPDATES, 0, 512 * phase, rate, 1.0, 2.9, checks[1], 8.2, 0.2, 0.3, 0.4, 12, 0,
                {"easy": 12}, {"length": 3}, 6000, 500.0, 2 * GIB, True, use,
            )
        )  # fmt: skip
    metrics.write_event({"event": "pause", "reason": "little is left"})
    metrics.close()


def cut(run: Path, lines: int) -> None:
    """Leave so many whole lines of the metrics and half of the next, as a kill does."""
    file = run / "metrics.jsonl"
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept[:lines]) + kept[lines][:20])
