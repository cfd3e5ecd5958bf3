"""`longrepo train`: from the arguments to a finished run. What can be wrong is found before torch is imported."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo.cli.options import ConfigOption, EngineChoice, EngineOption, ModelOption, SetOption, overrides_of
from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.utils.files import write_text_file

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.engines.registry import EngineSelection
    from longrepo.memory.planner import MemoryPlan, MemoryPlanner
    from longrepo.training.plan import TrainingPlan


DEFAULT_OUTPUT = Path("model_long_context")  # the guide's


class DeviceChoice(StrEnum):
    auto = "auto"
    mps = "mps"
    cuda = "cuda"
    cpu = "cpu"


@dataclass(frozen=True)
class TrainArguments:
    """The command's arguments, read once and passed on."""

    config: Path | None
    sequences: Path | None
    output: Path | None
    epochs: int | None
    checkpoint: Path | None
    resume: str | None
    overrides: tuple[str, ...]
    device: str
    verbose: bool
    go_on: str | None = None  # the command that goes on with this run, where it isn't this one
    engine: str = "auto"


def train(
    config: ConfigOption = None,
    sequences: Annotated[
        Path | None,
        typer.Option(help="What prepare or tokenize wrote. Default: ./sequences or ./sequences_LENGTH.json."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help=f"The run's folder. Default: ./{DEFAULT_OUTPUT}.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Train so many more epochs, not the whole schedule.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Begin a new run with this checkpoint's weights and epoch, e.g. RUN/best.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="auto|DIR", help="Go on with the run in --output, or in DIR, exactly.")
    ] = None,
    model: ModelOption = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to train.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for every update and save.")] = False,
) -> None:
    """Train a LoRA adapter on a file of sequences, phase by phase; Ctrl-C saves, --resume auto goes on."""
    overrides = overrides_of(set_, model)
    where = {"device": device.value, "engine": engine.value}
    status = run_training(
        TrainArguments(config, sequences, output, epochs, checkpoint, resume, overrides, verbose=verbose, **where)
    )
    if status:
        raise typer.Exit(status)


@dataclass(frozen=True)
class _PlannedRun:
    """What is going to run: nothing is wrong with it as far as can be told before a model is loaded."""

    output: Path
    sequences: Path
    resuming: bool
    plan: TrainingPlan
    choice: EngineSelection
    tokenizer: RepoTokenizer


def run_training(arguments: TrainArguments) -> int:
    """Train as told; return the exit status (0, or 130 when stopped by Ctrl-C). Raises InputError and RunError."""
    from longrepo.engines.registry import create_engine
    from longrepo.reports.training import TerminalReporter
    from longrepo.training.checkpoint import open_run_folder

    asked = _plan_run(arguments)
    plan, choice, tokenizer = asked.plan, asked.choice, asked.tokenizer
    planner, memory = _plan_memory(plan, choice, arguments.device, asked.output)
    reporter = TerminalReporter(verbose=arguments.verbose)
    with open_run_folder(asked.output, resuming=asked.resuming) as run:
        from longrepo.training.loop import train as run_loop
        from longrepo.training.step_down import make_run_memory

        for line in (*memory.lines(), *_return_freed_memory(memory)):
            reporter.note(line)
        engine = create_engine(choice, plan.settings, tokenizer, arguments.device)
        write_text_file(run.path / "memory_plan.json", memory.as_json())
        if choice.name == "mlx":
            engine.choices += _limit_memory(memory)
        for what, reason in engine.choices:
            reporter.note(f"{what}: {reason}")
        try:
            within = make_run_memory(planner, memory, engine.peak_memory)
            outcome = run_loop(
                engine, plan, run, reporter, lambda folder: tokenizer.source.save_pretrained(str(folder)), within
            )
        finally:
            reporter.close()
    if outcome.exit_status:
        go_on = arguments.go_on or resume_command(arguments, asked.output, asked.sequences)
        print(f"stopped and saved; go on with:\n  {go_on}", file=sys.stderr)
    elif outcome.adapter and not outcome.already_finished:
        print(f"{outcome.adapter.name}: {outcome.adapter}")
    return outcome.exit_status


def _plan_run(arguments: TrainArguments) -> _PlannedRun:
    """A new run, one that goes on, or one that begins with another's weights. Raises InputError and RunError."""
    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import check_tokenizer
    from longrepo.data.tokenizer import load_tokenizer
    from longrepo.engines.registry import choose_engine
    from longrepo.training.events import check_logger_installed
    from longrepo.training.plan import RunStart, make_plan
    from longrepo.training.resume import find_run, resume_start, start_from_checkpoint

    if arguments.resume is not None and arguments.checkpoint is not None:
        raise InputError("--resume goes on with a run and --checkpoint begins a new one: give one of them")
    output = arguments.output or DEFAULT_OUTPUT
    found = None
    if arguments.resume is not None:
        found = find_run(arguments.resume, output if arguments.resume == "auto" else arguments.output)
        output = found.run
    settings = _load_run_settings(arguments, output)
    check_logger_installed(settings.training.report_to)
    path = _find_sequences(arguments, settings, found.snapshot.identity.sequences if found and found.snapshot else None)
    file = read_sequences(path)
    if found is not None:
        start = resume_start(found, settings, file.content_sha256, arguments.epochs)
    elif arguments.checkpoint is not None:
        start = start_from_checkpoint(arguments.checkpoint, settings, arguments.epochs)
    else:
        start = RunStart("new", settings, epochs=arguments.epochs)
    plan = make_plan(start, file, str(path.resolve()), file.header.tokenizer.sha256)
    held = plan.settings
    choice = choose_engine(arguments.engine, arguments.device, held.training.weights)
    tokenizer = load_tokenizer(held.model.name, held.model.revision, held.data.structure_tokens)
    check_tokenizer(file.header, tokenizer)
    return _PlannedRun(output, path, found is not None, plan, choice, tokenizer)


def _plan_memory(
    plan: TrainingPlan, choice: EngineSelection, device: str, output: Path
) -> tuple[MemoryPlanner, MemoryPlan]:
    """The longest step of each phase that is going to run, on the device that will be used; `output`'s disk holds
    what doesn't fit in memory."""
    from longrepo.engines.registry import select_device
    from longrepo.memory.budget import find_budget
    from longrepo.memory.planner import MemoryPlanner, plan_run
    from longrepo.training.plan import remaining_epochs

    kind, dtype, _ = select_device(choice, device, plan.settings.training.precision)
    phases = [plan.schedule.phase(number) for number in remaining_epochs(plan.state, plan.schedule)]
    scratch = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    planner = MemoryPlanner.of(plan.settings, kind, dtype, scratch, engine=choice.name)
    return planner, plan_run(planner, phases, find_budget(kind, plan.settings.memory.budget_gb))


def _return_freed_memory(memory: MemoryPlan) -> Iterator[str]:
    """On a CPU what is freed isn't kept for reuse, where the plan leaves little room."""
    from longrepo.utils.process import return_freed_memory

    if memory.device == "cpu" and not memory.has_headroom and return_freed_memory():
        yield "memory: more than half of the budget is planned for, so what is freed is given back at once"


def _limit_memory(memory: MemoryPlan) -> tuple[tuple[str, str], ...]:
    from longrepo.engines.mlx.device import set_memory_limits

    return set_memory_limits(memory.device, memory.peak, memory.budget.bytes)


def resume_command(arguments: TrainArguments, output: Path, sequences: Path) -> str:
    """The command line that goes on with this run."""
    words = [sys.executable, *([sys.argv[0]] if sys.argv[0].endswith(".py") else ["-m", "longrepo", "train"])]
    words += ["--config", str(arguments.config)] if arguments.config else []
    words += ["--sequences", str(sequences), "--output", str(output), "--resume", "auto"]
    words += [word for override in arguments.overrides for word in ("--set", override)]
    words += ["--device", arguments.device] if arguments.device != "auto" else []
    words += ["--engine", arguments.engine] if arguments.engine != "auto" else []
    return shlex.join(words)


def _load_run_settings(arguments: TrainArguments, run: Path) -> Settings:
    """From --config; a resumed run without one goes on with its own settings."""
    file = arguments.config
    if file is None and arguments.resume is not None and (run / "settings.yaml").is_file():
        file = run / "settings.yaml"
    return load_settings(file, arguments.overrides)


def _find_sequences(arguments: TrainArguments, settings: Settings, of_run: str | None) -> Path:
    if arguments.sequences is not None:
        return arguments.sequences
    if of_run is not None:
        return Path(of_run)
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
