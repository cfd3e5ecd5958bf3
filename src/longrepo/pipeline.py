"""The pipeline: prepare, train and evaluate in one go.

It chooses settings from the repository and the machine, each with a reason, and never overrides what a person set.
Each stage writes to a folder named after a hash of everything it depends on: a stage whose folder is complete is
skipped, and one whose inputs changed gets a new folder, so nothing is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from longrepo import api
from longrepo.config.loader import PathPart, dump_yaml, parse_key, settings_hash
from longrepo.config.schema import NUMBERED_PHASES, PhaseConfig, Settings, phase_list
from longrepo.curriculum.schedule import make_schedule
from longrepo.engines.registry import choose_engine
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.planner import StepEstimate
from longrepo.utils.files import write_text_file

if TYPE_CHECKING:
    from longrepo.data.metadata import Header
    from longrepo.data.prepare import RepositorySpec
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.memory.planner import MemoryPlanner
    from longrepo.reports.training import PipelineReporter
    from longrepo.training.launch import TrainedRun


MIN_PHASE_SEQUENCES = 8  # training sequences; fewer are memorized in an epoch or two
UPDATES_PER_EPOCH = 8  # at least; with fewer, warm-up and decay have no room
EVENING = 3.0  # hours of training
UPDATES_PER_PHASE = 100  # what the guide's epochs give on a repository of a few hundred sequences


@dataclass(frozen=True)
class SettingChoice:
    """A choice and its reason. `key` is the dotted settings key, or a plain word if there is no setting for it."""

    key: str
    value: Any
    reason: str


class SettingChooser:
    """Collects choices; `settings` is the tree of settings with all of them applied."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.choices: list[SettingChoice] = []
        self._set_keys = set(_set_keys(settings, ""))

    def is_set(self, key: str) -> bool:
        """Return whether a person set it, in a file or on the command line."""
        return key in self._set_keys

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Set a setting unless a person did; record it either way, so that the reason is shown."""
        path = parse_key(key) or ()
        if self.is_set(key):
            self.choices.append(SettingChoice(key, _value_at(self.settings, path), "as you set it"))
            return
        self.settings = _with_value(self.settings, path, value)
        self.choices.append(SettingChoice(key, value, reason))


def _set_keys(part: BaseModel, prefix: str) -> Iterator[str]:
    """Yield the dotted keys that were set, including those in lists of sections."""
    for key in part.model_fields_set:
        value = getattr(part, key)
        yield prefix + key
        if isinstance(value, BaseModel):
            yield from _set_keys(value, f"{prefix}{key}.")
        elif isinstance(value, tuple):
            for index, one in enumerate(value):
                if isinstance(one, BaseModel):
                    yield from _set_keys(one, f"{prefix}{key}[{index}].")


def _value_at(part: Any, path: Sequence[PathPart]) -> Any:
    for name in path:
        part = part[name] if isinstance(name, int) else getattr(part, name)
    return part


def _with_value(part: Any, path: Sequence[PathPart], value: Any) -> Any:
    """Return a copy of a section, or of a list of sections, with one value changed."""
    if not path:
        return value
    first, *rest = path
    if isinstance(first, int):
        return (*part[:first], _with_value(part[first], rest, value), *part[first + 1 :])
    return part.model_copy(update={first: _with_value(getattr(part, first), rest, value)})


class FitCheck(Protocol):
    """Says how far positions reach, and what a step needs there; see `PhaseFits`."""

    def reach(self, phase: PhaseConfig) -> int:
        """Return tokens. Raises InputError if the model can't be computed at the phase's positions."""
        ...

    def first(self, phase: PhaseConfig) -> StepEstimate | None:
        """Return the cheapest method that fits the phase's longest sequence; None if none does."""
        ...


def choose_lengths(chooser: SettingChooser, budget: Budget, fits: FitCheck) -> None:
    """Choose the phases after the first that the memory and the model's positions allow."""
    room = f"{budget.bytes / GIB:.1f} GiB ({budget.reason})"
    asked = chooser.is_set("model.max_position_embeddings")
    length = chooser.settings.model.max_position_embeddings
    for phase in phase_list(chooser.settings)[1:]:
        if phase.is_further and phase.enabled is False:
            continue
        fit = None
        if asked and phase.max_length > length:
            why = f"you asked for {length:,} tokens"
        elif phase.number >= NUMBERED_PHASES and phase.max_length > (reach := fits.reach(phase)):
            why = f"the positions reach {reach:,}" if phase.context else f"the base was trained to {reach:,} positions"
        elif (fit := fits.first(phase)) is None:
            why = f"no way to compute a step fits {room}"
        else:
            why = f"a step needs {fit.peak / GIB:.1f} GiB of {room}: {fit.method}"
        if fit is None:
            _disable_phase(chooser, phase, why)
        elif phase.number >= NUMBERED_PHASES:
            chooser.choose(phase.setting("enabled"), phase.enabled or True, why)


def _disable_phase(chooser: SettingChooser, phase: PhaseConfig, why: str) -> None:
    key, _, value = phase.off.partition("=")
    chooser.choose(key, False if value == "false" else 0, why)


def choose_amounts(chooser: SettingChooser, training_sequences: Mapping[int, int]) -> None:
    """Choose epochs and accumulation from the number of training sequences in each phase (`{1: 296, 2: 154, …}`)."""
    enabled = [phase for phase in phase_list(chooser.settings) if phase.enabled is not False]
    worth = [phase.number for phase in enabled if training_sequences.get(phase.number, 0) >= MIN_PHASE_SEQUENCES]
    fewest = min((training_sequences[number] for number in worth), default=MIN_PHASE_SEQUENCES)
    rows = chooser.settings.training.batch_size_reference
    wanted = chooser.settings.training.gradient_accumulation_steps
    steps = max(1, min(wanted, fewest // (rows * UPDATES_PER_EPOCH)))
    why = (
        "the guide's value"
        if steps == wanted
        else f"so that {fewest} sequences give {UPDATES_PER_EPOCH} updates an epoch"
    )
    chooser.choose("training.gradient_accumulation_steps", steps, why)
    chooser.choose("training.time_budget_hours", EVENING, "an evening; the epochs below are fitted to it (--hours)")
    steps = chooser.settings.training.gradient_accumulation_steps
    for phase in enabled:
        _choose_epochs(chooser, phase, training_sequences.get(phase.number, 0), rows * steps)


def _choose_epochs(chooser: SettingChooser, phase: PhaseConfig, sequences: int, window: int) -> None:
    if sequences < MIN_PHASE_SEQUENCES:
        _disable_phase(chooser, phase, f"{sequences} training sequences in phase {phase.number}: too few for a phase")
        return
    updates, guide = -(-sequences // window), phase.epochs
    epochs = min(guide, max(2, -(-UPDATES_PER_PHASE // updates)))
    reason = f"{sequences} sequences, {updates} updates an epoch, about {UPDATES_PER_PHASE} a phase"
    chooser.choose(phase.setting("epochs"), epochs, reason if epochs < guide else f"the guide's value; {reason}")


def latest_choices(choices: Iterable[SettingChoice]) -> list[tuple[str, str, str]]:
    """Return (key, value, reason) of the last choice for each key, in the order the keys first came up."""
    last = {choice.key: choice for choice in choices}
    return [(choice.key, _shown(choice.value), choice.reason) for choice in last.values()]


def _shown(value: Any) -> str:
    return f"{len(value)} modules" if isinstance(value, tuple) else str(value)


STAGE_FILE = "stage.json"


class PipelineStage:
    """A stage's result: `folder` is `<output>/<name>-<hash>`; `inputs` is everything it depends on (JSON values)."""

    def __init__(self, output: Path, name: str, inputs: dict[str, Any]) -> None:
        self.name = name
        self._inputs = inputs
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
        self.folder = output / f"{name}-{digest}"

    @property
    def done(self) -> bool:
        """Whether the stage was completed before, with the same inputs."""
        try:
            return bool(json.loads((self.folder / STAGE_FILE).read_text(encoding="utf-8"))["inputs"] == self._inputs)
        except (OSError, ValueError, KeyError):
            return False

    def finish(self, **results: Any) -> None:
        """Mark the folder as complete."""
        content = {"stage": self.name, "inputs": self._inputs, **results}
        write_text_file(self.folder / STAGE_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")


class Pipeline:
    """Runs the stages one after another; each gets the result of the one before it."""

    def __init__(
        self,
        origins: Sequence[RepositorySpec],
        settings: Settings,
        engine: str,
        device: str,
        reporter: PipelineReporter,
    ) -> None:
        self.origins = origins
        self.name = "+".join(origin.repository.name for origin in origins)
        self.asked, self.engine = engine, choose_engine(engine, device, settings.training.weights)
        self.chooser, self.device, self.reporter = SettingChooser(settings), device, reporter

    def run(self, output: Path, long_context: bool = True) -> TrainedRun:
        """Prepare, train, evaluate and report into `output`. If Ctrl-C stopped the training (it is saved and can be
        resumed), nothing is evaluated or reported. Raises InputError and RunError."""
        from longrepo.training.checkpoint import trained_folder

        reporter = self.reporter
        places = [f"{origin.repository.name} at {origin.commit[:10]}" for origin in self.origins]
        reporter.stage(1, 4, "look", ", ".join(places))
        for note in dict.fromkeys(note for origin in self.origins for note in origin.repository.notes):
            reporter.note(note)
        self._look()
        reporter.choices(latest_choices(self.chooser.choices))
        sequences, header = self._prepare(output, long_context)
        trained = self._train(output, sequences, header)
        if trained.exit_status:
            return trained
        settings, run = self.chooser.settings, trained.output
        measured = self._evaluate(output, run, sequences, header)
        reporter.use(run / trained_folder(settings), settings.model.name, run, settings.training.report_to)
        self._report(run, measured)
        return trained

    def _look(self) -> None:
        from longrepo.data.workers import selection_of
        from longrepo.memory.planner import MemoryPlanner

        settings = self.chooser.settings
        for origin in self.origins:  # a wrong pattern or folder is said before the plan, which takes seconds
            origin.repository.choose_files(origin.commit, selection_of(settings.data))
        planner = MemoryPlanner.for_run(settings, self.engine, self.device)
        if not self.chooser.is_set("model.name"):
            self.reporter.note(default_base_line(settings.model.name, planner))
        for what, why in (self.engine.line, *planner.choices):
            key, value = what.split(": ")
            self.chooser.choices.append(SettingChoice(key, value, why))
        if settings.lora.target_modules == "auto":
            why = f"every linear layer of a block: {', '.join(planner.modules)}"
            self.chooser.choose("lora.target_modules", planner.modules, why)
        choose_lengths(self.chooser, planner.budget, PhaseFits(planner))

    def _prepare(self, output: Path, long_context: bool) -> tuple[Path, Header]:
        from longrepo.data.dataset import SEQUENCES_FOLDER, read_sequences
        from longrepo.data.prepare import prepare, write_prepared
        from longrepo.data.tokenizer_loading import base_tokenizer
        from longrepo.data.windows import build_windows

        settings = self.chooser.settings
        tokenizer: RepoTokenizer = base_tokenizer(settings)
        longest = make_schedule(settings)[-1]
        stage = PipelineStage(
            output,
            "sequences",
            {
                "origins": [[one.repository.name, one.commit, one.weight] for one in self.origins],
                "tokenizer": tokenizer.sha256,
                "phases": longest.number,
                "length": settings.model.max_position_embeddings,
                "long_context": long_context,
                "settings": [settings_hash(part) for part in (settings.data, settings.long_context)],
                "seed": settings.training.seed,
            },
        )
        self.reporter.stage(2, 4, "prepare", "done before, unchanged: skipped" if stage.done else "")
        sequences = stage.folder / SEQUENCES_FOLDER
        if not stage.done:
            began = time.monotonic()
            length = settings.model.max_position_embeddings
            with api.prepare_tools(settings, None, self.reporter.progress, self.engine) as ready:
                if long_context:
                    prepared = prepare(self.origins, settings, ready, longest.number, length)
                else:
                    length = max(length, longest.max_length)
                    prepared = build_windows(self.origins, settings, ready, length, settings.data.overlap)
                header = write_prepared(stage.folder, prepared, ready.watch)
            self.reporter.prepared(header, prepared.summary, sequences, time.monotonic() - began)
            stage.finish(repositories={one.repository.name: str(one.repository.path) for one in self.origins})
        return sequences, read_sequences(sequences).header

    def _train(self, output: Path, sequences: Path, header: Header) -> TrainedRun:
        from longrepo.training.launch import TrainedRun

        sequence_counts = {int(phase): cell["sequences"] for phase, cell in header.counts.get("train", {}).items()}
        before = len(self.chooser.choices)
        choose_amounts(self.chooser, sequence_counts)
        settings = self.chooser.settings
        if not any(phase.epochs for phase in make_schedule(settings)):
            raise InputError(
                f"{self.name}: {sum(sequence_counts.values())} training sequences are too few for any phase; "
                "lower long_context.phase1_max_length or give a larger repository"
            )
        inputs = {"sequences": header.content_sha256, "settings": settings.model_dump(mode="json")}
        stage = PipelineStage(output, "training", inputs)
        self.reporter.stage(3, 4, "train", "done before, unchanged: skipped" if stage.done else str(stage.folder))
        if stage.done:
            return TrainedRun(stage.folder, sequences, 0, None, already_finished=True)
        self.reporter.choices(latest_choices(self.chooser.choices[before:]))
        file = output / f"{stage.folder.name}.yaml"
        write_text_file(file, dump_yaml(settings))
        with self.reporter.training() as told:
            trained = api.train(
                sequences,
                stage.folder,
                config=file,
                resume="auto" if stage.folder.exists() else None,
                device=self.device,
                engine=self.asked,
                reporter=told,
            )
        if not trained.exit_status:
            self.reporter.trained(trained)
            stage.finish()
        return trained

    def _evaluate(self, output: Path, run: Path, sequences: Path, header: Header) -> bool:
        """Compare base and tuned; return whether anything was measured now."""
        from longrepo.evaluation.results import read_evaluation
        from longrepo.evaluation.run import GLANCE
        from longrepo.reports.run_record import EVALUATION_FILE

        inputs = {"run": run.name, "sequences": header.content_sha256, "amount": str(GLANCE)}
        stage = PipelineStage(output, "evaluation", inputs)
        result = stage.folder / EVALUATION_FILE
        self.reporter.stage(4, 4, "evaluate", "done before, unchanged: skipped" if stage.done else "")
        if not header.counts.get("test"):
            for note in (*header.notes, "nothing is held out to compare base and tuned on"):
                self.reporter.note(note)
            return False
        measure = not stage.done
        if not measure:
            found = read_evaluation(result)
        else:
            found = api.evaluate(
                run,
                repo=[one.repository.path for one in self.origins],
                sequences=sequences,
                amount="glance",
                device=self.device,
                engine=self.asked,
                result=result,
                progress=self.reporter.progress,
            )
            stage.finish()
        self.reporter.compared(found)
        return measure

    def _report(self, run: Path, measured: bool) -> None:
        """Write the run's page; print its most important figures and where it is."""
        from longrepo.reports.html.page import REPORT_FILE, make_headlines, write_report
        from longrepo.reports.run_record import read_run_record

        found, page = read_run_record(run), run / REPORT_FILE
        if measured or not page.is_file():
            write_report(found)
        self.reporter.figures(make_headlines(found), page)


def default_base_line(name: str, planner: MemoryPlanner) -> str:
    """Say that the default base is trained, and which known one fits the machine best."""
    from longrepo.engines.known_bases import PLANNED_LENGTHS, USES, best_fit, known_bases

    default = known_bases()[name]
    device = {"metal": "mps"}.get(planner.estimator.device, planner.estimator.device)
    found = best_fit(device, PLANNED_LENGTHS[0], planner.budget.bytes)
    why = "the smallest, on a CPU" if device == "cpu" else "the largest that fits here"
    better = f"; free to use and made for code, {why}: --model {found.name}" if found else ""
    return (
        f"base: {name}, the default ({default.license}; use at work: {USES[default.use]}){better}; all: longrepo bases"
    )


@dataclass(frozen=True)
class PhaseFits:
    """Answers the questions of `choose_lengths` from a memory plan."""

    planner: MemoryPlanner

    def reach(self, phase: PhaseConfig) -> int:
        from longrepo.memory.planner import phase_planner

        return phase_planner(self.planner, phase).shape.max_positions

    def first(self, phase: PhaseConfig) -> StepEstimate | None:
        from longrepo.memory.planner import phase_planner

        return phase_planner(self.planner, phase).first_fit(phase.max_length, self.planner.budget.bytes)
