"""Launch a training run from the options of `longrepo train`. Bad input is found before an engine is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.training.events import EpochRecord, PhaseRecord, Reporter, RunProgress, UpdateRecord
from longrepo.utils.files import check_folder_name

if TYPE_CHECKING:
    from longrepo.data.dataset import SequenceFile
    from longrepo.memory.disk_writes import DiskWrites
    from longrepo.memory.planner import MemoryPlan, MemoryPlanner
    from longrepo.training.plan import TrainingPlan
    from longrepo.training.resume import ResumableRun


DEFAULT_OUTPUT = Path("model_long_context")


@dataclass(frozen=True)
class TrainingRequest:
    """The options of `longrepo train`, under the same names (`overrides`: each --set)."""

    config: Path | None = None
    sequences: Path | None = None
    output: Path | None = None
    epochs: int | None = None
    checkpoint: Path | None = None
    resume: str | None = None
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    engine: str = "auto"


@dataclass(frozen=True)
class TrainedRun:
    """The result of a training. `output`: the run's folder. `sequences`: what it was trained on. `exit_status`: 0 if it
    finished, 130 if Ctrl-C stopped it (its state is saved). `trained`: the folder of its adapter, or of its model if
    all weights were trained; None if it was stopped. `already_finished`: there was nothing left to do."""

    output: Path
    sequences: Path
    exit_status: int
    trained: Path | None
    already_finished: bool


class SilentReporter:
    """A `Reporter` that prints nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def phase(self, record: PhaseRecord) -> None:
        """Nothing."""

    def update(self, record: UpdateRecord) -> None:
        """Nothing."""

    def progress(self, progress: RunProgress) -> None:
        """Nothing."""

    def validating(self, done: int, of: int) -> None:
        """Nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Nothing."""

    def saved(self, folder: Path, best: bool) -> None:
        """Nothing."""


def launch_training(request: TrainingRequest, reporter: Reporter) -> TrainedRun:
    """Train as requested. Raises InputError for what can't be trained, RunError for what fails on the way.

    First what to train (`TrainingPlan`), then what that needs (`MemoryPlan`), then the run itself (`Session`).
    """
    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import check_recipe, check_tokenizer
    from longrepo.data.tokenizer_loading import base_tokenizer, with_marks
    from longrepo.engines.registry import choose_engine, create_engine
    from longrepo.memory.calibration import with_calibration
    from longrepo.memory.guard import machine_guard
    from longrepo.memory.planner import MemoryPlanner, plan_run
    from longrepo.training.checkpoint import open_run_folder
    from longrepo.training.loggers import check_logger_installed

    resumable = _find_resumable_run(request)
    output = resumable.run if resumable else request.output or DEFAULT_OUTPUT
    check_folder_name(output)
    settings = _load_run_settings(request, output)
    check_logger_installed(settings.training.report_to)
    source = read_sequences(_find_sequences(request, settings, resumable))
    path = source.path
    check_recipe(source.header, settings.data.recipe)
    plan = _plan_training(request, settings, source, str(path.resolve()), resumable)
    asked, settings = settings, plan.settings
    choice = choose_engine(request.engine, request.device, settings.training.weights)
    tokenizer = base_tokenizer(settings)
    check_tokenizer(source.header, tokenizer)
    settings = with_marks(settings, tokenizer)
    planner = with_calibration(MemoryPlanner.for_run(settings, choice, request.device, _nearest_folder(output)))
    plan, settings = plan.with_settings(planner.settings), planner.settings
    memory = plan_run(planner, plan.phases_ahead(), planner.budget, _planned_writes(planner, plan))
    with open_run_folder(output, resuming=resumable is not None) as run:
        from longrepo.training.loop import train as run_loop

        said = (tokenizer.fim_note,) if tokenizer.fim_note else ()
        for line in (*_lora_lines(asked, planner), *memory.lines(), *said):
            reporter.note(line)
        returned = memory.device != "cpu" or _return_freed_memory(memory, reporter)
        engine = create_engine(choice, settings, tokenizer, request.device)
        if choice.name == "mlx":
            engine.choices += _limit_memory(memory)
        for what, reason in engine.choices:
            reporter.note(f"{what}: {reason}")
        guard = machine_guard(memory.device, settings.memory.budget_gb, engine.peak_memory, not returned)
        outcome = run_loop(engine, plan, run, reporter, tokenizer.write, memory, guard)
    return TrainedRun(output, path, outcome.exit_status, outcome.adapter, outcome.already_finished)


def _find_resumable_run(request: TrainingRequest) -> ResumableRun | None:
    """The run that --resume names; None without --resume. Raises InputError if there is none."""
    from longrepo.training.resume import find_run

    if request.resume is None:
        return None
    if request.checkpoint is not None:
        raise InputError("--resume goes on with a run and --checkpoint begins a new one: give one of them")
    output = request.output or DEFAULT_OUTPUT
    return find_run(request.resume, output if request.resume == "auto" else request.output)


def _plan_training(
    request: TrainingRequest, settings: Settings, source: SequenceFile, path: str, resumable: ResumableRun | None
) -> TrainingPlan:
    """Plan a new run, one that goes on, or one that begins with another's weights."""
    from longrepo.training.plan import RunStart, make_plan
    from longrepo.training.resume import resume_start, start_from_checkpoint

    if resumable is not None:
        start = resume_start(resumable, settings, source.content_sha256, request.epochs)
    elif request.checkpoint is not None:
        start = start_from_checkpoint(request.checkpoint, settings, request.epochs)
    else:
        start = RunStart("new", settings, epochs=request.epochs)
    return make_plan(start, source, path, source.header.tokenizer.sha256)


def _planned_writes(planner: MemoryPlanner, plan: TrainingPlan) -> DiskWrites:
    from longrepo.memory.budget import GIB
    from longrepo.memory.disk_writes import DiskWrites

    shape, training = planner.shape, planner.settings.training
    every = training.weights == "all"
    trained = shape.linear + shape.other if every else shape.lora_parameters(planner.settings.lora.r, planner.modules)
    limit_gb = planner.settings.memory.disk_write_gb
    limit = None if limit_gb is None else int(limit_gb * GIB)
    return DiskWrites(limit, plan.state.disk_written, training.batch_size_reference, trained, plan.work_ahead)


def _lora_lines(asked: Settings, planner: MemoryPlanner) -> Iterator[str]:
    """Say which modules get LoRA, and what `asked` asks for in vain."""
    from longrepo.engines.lora_targets import experts_line

    shape, modules = planner.shape, planner.modules
    if planner.settings.training.weights == "all":
        return
    yield f"LoRA: {', '.join(modules)}"
    if asked.lora.target_modules == "auto" and set(modules) != set(shape.targets):
        yield f"lora.target_modules: the checkpoint's modules hold, not auto ({', '.join(shape.targets)})"
    if shape.experts:
        yield experts_line(shape.experts)


def _nearest_folder(path: Path) -> Path:
    """The folder itself or its nearest parent that exists: its disk holds what doesn't fit in memory."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _return_freed_memory(memory: MemoryPlan, reporter: Reporter) -> bool:
    """On a CPU, have freed memory returned to the system at once if the plan leaves little room. Return whether."""
    from longrepo.utils.process import return_freed_memory

    if memory.has_headroom or not return_freed_memory():
        return False
    reporter.note(
        "memory: more than half of the budget is planned for, so freed memory is returned to the system at once"
    )
    return True


def _limit_memory(memory: MemoryPlan) -> tuple[tuple[str, str], ...]:
    from longrepo.engines.mlx.device import set_memory_limits

    return set_memory_limits(memory.device, memory.peak, memory.budget.bytes)


def _load_run_settings(request: TrainingRequest, run: Path) -> Settings:
    """From --config; a resumed run without one goes on with its own settings."""
    file = request.config
    if file is None and request.resume is not None and (run / "settings.yaml").is_file():
        file = run / "settings.yaml"
    return load_settings(file, request.overrides)


def _find_sequences(request: TrainingRequest, settings: Settings, resumable: ResumableRun | None) -> Path:
    """--sequences, else those of the run to go on with, else those in this folder under their usual names."""
    if request.sequences is not None:
        return request.sequences
    if resumable is not None and resumable.snapshot is not None:
        return Path(resumable.snapshot.identity.sequences)
    length = settings.model.max_position_embeddings
    usual = [
        Path("sequences"),
        *(Path(f"sequences_{length}{suffix}") for suffix in (".json", ".jsonl", ".parquet", "")),
    ]
    for path in usual:
        if path.exists():
            return path
    raise InputError(
        f"no sequences: give --sequences FILE, or build ./sequences_{length}.json with "
        f"python tokenizers/git_tokenizer_rich.py --repo REPO --sequence-length {length}"
    )
