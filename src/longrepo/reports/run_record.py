"""Read a run from its folder, complete or as far as it got. What is missing is explained in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.dataset import HEADER_FILE
from longrepo.data.metadata import Header
from longrepo.data.prepare import SUMMARY_FILE
from longrepo.engines.base import StepMethod
from longrepo.errors import InputError
from longrepo.evaluation.results import Evaluation, read_evaluation
from longrepo.training.checkpoint import SETTINGS_FILE, STATE, trained_folder
from longrepo.training.events import EpochRecord, MemoryUse, PhaseRecord, StepDownRecord, UpdateRecord, Validation
from longrepo.training.state import CheckpointSnapshot

METRICS_FILE, PLAN_FILE, EVALUATION_FILE, STAGE_FILE_NAME = (
    "metrics.jsonl",
    "memory_plan.json",
    "evaluation.json",
    "stage.json",
)


@dataclass
class MetricsHistory:
    """The records of `metrics.jsonl` in order. `events`: the memory guard's; `starts`: the number of updates before
    each phase."""

    phases: list[PhaseRecord] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    updates: list[UpdateRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    steps_down: list[StepDownRecord] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The time of all updates, without validating and saving."""
        return sum(update.seconds for update in self.updates)

    @property
    def tokens(self) -> int:
        return sum(update.tokens for update in self.updates)

    @property
    def peaks(self) -> list[tuple[int, int]]:
        """(update, peak memory in bytes); on a CPU the process without freed blocks that the C library kept."""
        measured = [(one.update, one.memory) for one in self.updates if one.memory.get("peak")]
        return [(update, memory.get("used", memory["peak"])) for update, memory in measured]

    def used(self, phase: int) -> int:
        """Peak memory of a phase in bytes, sampled during its updates or at the end of its epochs; 0: not measured."""
        sampled = dict(self.peaks)
        updates = (sampled.get(one.update, 0) for one in self.updates if one.phase == phase)
        return max((*updates, *(one.memory.used for one in self.epochs if one.phase == phase)), default=0)

    @property
    def freed(self) -> int:
        """Bytes of freed blocks that the process held at most."""
        return max((one.memory.get("freed", 0) for one in self.updates), default=0)

    @property
    def checks(self) -> list[list[tuple[int, Validation]]]:
        """(updates before it, validation) in groups that are comparable: at the same positions, on the same lengths, by
        the same engine. A group begins with the start of its first phase, or with the first validation there is."""
        groups: list[list[tuple[int, Validation]]] = []
        former: tuple[int, list[str], dict[str, Any] | None] | None = None
        for update, is_start, validation, context in sorted(self._validations(), key=lambda one: one[:2]):
            changes = sum(change < update or (is_start and change == update) for change in self._engine_changes())
            comparable = (changes, list(validation.by_length), former[2] if context is None and former else context)
            if comparable != former:
                groups.append([])
                former = comparable
            elif is_start:
                continue
            groups[-1].append((update, validation))
        return groups

    def _validations(self) -> Iterator[tuple[int, bool, Validation, dict[str, Any] | None]]:
        """(updates before it, whether it was at a start, validation, positions if they are known), in any order."""
        for phase, start in zip(self.phases, self.starts, strict=True):
            yield start, True, phase.validation, phase.context
        for epoch in self.epochs:
            yield epoch.update, False, epoch.validation, None
        for event in self.events:
            if event.get("event") == "engine" and event.get("validation"):
                yield event["update"], True, Validation(**event["validation"]), None

    def _engine_changes(self) -> list[int]:
        return [event["update"] for event in self.events if event.get("event") == "engine"]

    @property
    def validations(self) -> list[tuple[int, Validation]]:
        """The last group of `checks`: its start, then its epochs."""
        checks = self.checks
        return checks[-1] if checks else []

    @property
    def best(self) -> tuple[int, Validation] | None:
        """The best epoch of the last group, whose weights are kept; None before one has ended."""
        epochs = [one.validation for one in self.epochs]
        checks = [check for check in self.validations if any(check[1] is one for one in epochs)]
        return min(checks, key=lambda check: check[1].loss, default=None)

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """(phase, updates before it, updates at its end so far), also for a phase whose record is missing: earlier
        versions wrote none if --checkpoint began inside the phase."""
        starts = {one.phase: start for one, start in zip(self.phases, self.starts, strict=True)}
        ends: dict[int, int] = {}
        for one in self.updates:
            starts.setdefault(one.phase, one.update - 1)
            ends[one.phase] = one.update
        ordered = sorted(starts.items(), key=lambda item: (item[1], item[0]))
        return [(phase, start, ends.get(phase, start)) for phase, start in ordered]


@dataclass(frozen=True)
class RunRecord:
    """A run's folder. `snapshot`, `plan`, `data`, `summary` and `evaluation` may be None; `missing` says why."""

    path: Path
    settings: Settings
    history: MetricsHistory
    snapshot: CheckpointSnapshot | None
    plan: Mapping[str, Any] | None
    data: Header | None
    summary: Mapping[str, Any] | None
    evaluation: Evaluation | None
    missing: Mapping[str, str]

    @property
    def finished(self) -> bool:
        """Whether it did all that was requested, and its trained weights are there."""
        done = self.snapshot is None or self.snapshot.state.finished
        return done and self.trained.is_dir()

    @property
    def trained(self) -> Path:
        """The folder of its adapter, or of the model whose weights were all trained."""
        return self.path / trained_folder(self.settings)

    @property
    def whole(self) -> bool:
        """Whether all weights are trained, not an adapter."""
        return self.settings.training.weights == "all"

    @property
    def epochs_planned(self) -> int:
        """Epochs from its beginning to its end: of the schedule, or fewer with --epochs or --checkpoint."""
        if self.snapshot is None:
            return 0
        state, before = self.snapshot.state, self.history.phases[0].first_epoch - 1 if self.history.phases else 0
        scheduled = sum(state.schedule.values()) - before
        return scheduled if state.epochs_left is None else min(scheduled, len(self.history.epochs) + state.epochs_left)

    @property
    def name(self) -> str:
        return self.path.resolve().name


def read_run_record(path: Path) -> RunRecord:
    """Read a run's folder. Raises InputError if it isn't one, or its files can't be read."""
    check_is_run(path)
    missing: dict[str, str] = {}
    snapshot = _read_snapshot(path, missing)
    data, summary = _read_data(snapshot, missing)
    return RunRecord(
        path,
        load_settings(path / SETTINGS_FILE),
        _read_history(path / METRICS_FILE),
        snapshot,
        _read_plan(path / PLAN_FILE, missing),
        data,
        summary,
        _find_evaluation(path, missing),
        missing,
    )


def check_is_run(path: Path) -> None:
    """Raise InputError if a folder isn't a run's, naming a run in it if there is one."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a run's, as --output of training named it")
    if not (path / SETTINGS_FILE).is_file():
        runs = sorted(file.parent for file in path.glob(f"*/{SETTINGS_FILE}"))
        around = next((one for one in path.resolve().parents[:2] if (one / SETTINGS_FILE).is_file()), None)
        runs = [path.parent if path.parent.resolve() == around else around] if around else runs
        where = "the run it belongs to" if around else "the run in it"
        hint = f"give {where}: {runs[-1]}" if runs else "give the folder that --output of training named"
        raise InputError(f"{path}: isn't a run's folder ({SETTINGS_FILE} is missing); {hint}")


def _read_snapshot(path: Path, missing: dict[str, str]) -> CheckpointSnapshot | None:
    file = path / "last" / STATE
    try:
        return CheckpointSnapshot.from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        missing["snapshot"] = "This run has saved no checkpoint yet."
    except (OSError, ValueError, KeyError, TypeError) as error:
        missing["snapshot"] = f"Its last checkpoint's {STATE} can't be read ({error})."
    return None


def _read_data(
    snapshot: CheckpointSnapshot | None, missing: dict[str, str]
) -> tuple[Header | None, Mapping[str, Any] | None]:
    if snapshot is None:
        missing["data"] = "Its data is recorded from the first checkpoint on."
        return None, None
    path = Path(snapshot.identity.sequences)
    try:
        header = _read_folder_header(path)
    except (OSError, ValueError, InputError):
        missing["data"] = f"Its sequences can no longer be read: {path}"
        return None, None
    if header.content_sha256 != snapshot.identity.data_sha256:
        missing["data"] = f"The sequences there are no longer those it was trained on: {path}"
        return None, None
    try:
        summary = json.loads((path.parent / SUMMARY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return header, None
    return header, summary if summary.get("sequences_sha256") == header.content_sha256 else None


def _read_folder_header(path: Path) -> Header:
    """Read the header; of a folder without its rows, which were checked before training."""
    if path.is_dir():
        return Header.from_dict(json.loads((path / HEADER_FILE).read_text(encoding="utf-8")), str(path))
    from longrepo.data.dataset import read_sequences

    return read_sequences(path).header


def _read_plan(file: Path, missing: dict[str, str]) -> Mapping[str, Any] | None:
    try:
        plan: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not _is_plan(plan):
            raise ValueError("another shape")
        return plan
    except FileNotFoundError:
        missing["plan"] = "This run's memory was not planned."
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        missing["plan"] = f"{file.name} can't be read."
    return None


def _is_plan(plan: Mapping[str, Any]) -> bool:
    """Whether it has all that the page shows. Raises KeyError, TypeError, ValueError or AttributeError if it hasn't."""
    for number, phase in plan["phases"].items():
        StepMethod.from_dict(phase["method"])
        if int(number) < 1 or not isinstance(phase["peak"], int) or not isinstance(phase["length"], int):
            return False
    return isinstance(plan["budget"]["bytes"], int) and isinstance(plan["budget"]["reason"], str) and "device" in plan


def _find_evaluation(path: Path, missing: dict[str, str]) -> Evaluation | None:
    """Find the newest evaluation in the run's folder, or beside it, where the pipeline writes it."""
    files = [path / EVALUATION_FILE]
    for stage in sorted(path.resolve().parent.glob(f"evaluation-*/{STAGE_FILE_NAME}")):
        try:
            inputs = json.loads(stage.read_text(encoding="utf-8"))["inputs"]
        except (OSError, ValueError, KeyError):
            continue
        if inputs.get("run") == path.resolve().name:
            files.append(stage.with_name(EVALUATION_FILE))
    there = [file for file in files if file.is_file()]
    if not there:
        missing["evaluation"] = "Base and tuned have not been compared yet."
        return None
    try:
        return read_evaluation(max(there, key=lambda file: file.stat().st_mtime_ns))
    except (InputError, KeyError, TypeError) as error:
        missing["evaluation"] = f"The evaluation can't be read: {error}"
        return None


def _read_history(file: Path) -> MetricsHistory:
    """Read the records, except a last line that is being written or was cut off by a kill."""
    history = MetricsHistory()
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return history
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            _add_record(history, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}, line {number}: not a record of this version ({error!r})") from None
    return history


def _add_record(history: MetricsHistory, tree: dict[str, Any]) -> None:
    kind = tree.pop("record")
    if kind == "phase":
        history.phases.append(PhaseRecord(**{**tree, "validation": Validation(**tree["validation"])}))
        history.starts.append(history.updates[-1].update if history.updates else 0)
    elif kind == "update":
        history.updates.append(UpdateRecord(**tree))
    elif kind == "epoch":
        values = {"validation": Validation(**tree["validation"]), "memory": MemoryUse(**tree["memory"])}
        history.epochs.append(EpochRecord(**{**tree, **values}))
    elif kind == "step_down":
        history.steps_down.append(StepDownRecord(**tree))
    else:
        history.events.append(tree)
