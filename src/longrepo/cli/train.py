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

from longrepo.cli.options import ConfigOption, EngineName, EngineOption, ModelOption, SetOption, overrides_of
from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.utils.files import write_text

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.engines.registry import Choice
    from longrepo.memory.planner import Planner, RunPlan
    from longrepo.training.plan import Plan


OUTPUT = Path("model_long_context")  # the guide's


class Device(StrEnum):
    auto = "auto"
    mps = "mps"
    cuda = "cuda"
    cpu = "cpu"


@dataclass(frozen=True)
class Arguments:
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
    output: Annotated[Path | None, typer.Option(help=f"The run's folder. Default: ./{OUTPUT}.")] = None,
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
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    engine: EngineOption = EngineName.auto,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for every update and save.")] = False,
) -> None:
    """Train a LoRA adapter on a file of sequences, phase by phase; Ctrl-C saves, --resume auto goes on."""
    overrides = overrides_of(set_, model)
    where = {"device": device.value, "engine": engine.value}
    status = run_training(
        Arguments(config, sequences, output, epochs, checkpoint, resume, overrides, verbose=verbose, **where)
    )
    if status:
        raise typer.Exit(status)


@dataclass(frozen=True)
class _Run:
    """What is going to run: nothing is wrong with it as far as can be told before a model is loaded."""

    output: Path
    sequences: Path
    resuming: bool
    plan: Plan
    choice: Choice
    tokenizer: RepoTokenizer


def run_training(arguments: Arguments) -> int:
    """Train as told; return the exit status (0, or 130 when stopped by Ctrl-C). Raises InputError and RunError."""
    from longrepo.engines.registry import create
    from longrepo.reports.training import TerminalReporter
    from longrepo.training.checkpoint import open_run

    asked = _asked(arguments)
    plan, choice, tokenizer = asked.plan, asked.choice, asked.tokenizer
    planner, memory = _memory(plan, choice, arguments.device, asked.output)
    reporter = TerminalReporter(verbose=arguments.verbose)
    with open_run(asked.output, resuming=asked.resuming) as run:
        from longrepo.training.loop import train as run_loop
        from longrepo.training.step_down import run_memory

        for line in (*memory.lines(), *_freed(memory)):
            reporter.note(line)
        engine = create(choice, plan.settings, tokenizer, arguments.device)
        write_text(run.path / "memory_plan.json", memory.as_json())
        if choice.name == "mlx":
            engine.choices += _limits(memory)
        for what, reason in engine.choices:
            reporter.note(f"{what}: {reason}")
        try:
            within = run_memory(planner, memory, engine.peak_memory)
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


def _asked(arguments: Arguments) -> _Run:
    """A new run, one that goes on, or one that begins with another's weights. Raises InputError and RunError."""
    from longrepo.data.dataset import read_sequences
    from longrepo.data.metadata import check_tokenizer
    from longrepo.data.tokenizer import load_tokenizer
    from longrepo.engines.registry import choose
    from longrepo.training.events import check_board
    from longrepo.training.plan import Start, settle
    from longrepo.training.resume import begun_from, find_run, resumed

    if arguments.resume is not None and arguments.checkpoint is not None:
        raise InputError("--resume goes on with a run and --checkpoint begins a new one: give one of them")
    output = arguments.output or OUTPUT
    found = None
    if arguments.resume is not None:
        found = find_run(arguments.resume, output if arguments.resume == "auto" else arguments.output)
        output = found.run
    settings = _settings(arguments, output)
    check_board(settings.training.report_to)
    path = _sequences(arguments, settings, found.snapshot.identity.sequences if found and found.snapshot else None)
    file = read_sequences(path)
    if found is not None:
        start = resumed(found, settings, file.content_sha256, arguments.epochs)
    elif arguments.checkpoint is not None:
        start = begun_from(arguments.checkpoint, settings, arguments.epochs)
    else:
        start = Start("new", settings, epochs=arguments.epochs)
    plan = settle(start, file, str(path.resolve()), file.header.tokenizer.sha256)
    held = plan.settings
    choice = choose(arguments.engine, arguments.device, held.training.weights)
    tokenizer = load_tokenizer(held.model.name, held.model.revision, held.data.structure_tokens)
    check_tokenizer(file.header, tokenizer)
    return _Run(output, path, found is not None, plan, choice, tokenizer)


def _memory(plan: Plan, choice: Choice, device: str, output: Path) -> tuple[Planner, RunPlan]:
    """The longest step of each phase that is going to run, on the device that will be used; `output`'s disk holds
    what doesn't fit in memory."""
    from longrepo.engines.registry import place
    from longrepo.memory.budget import find_budget
    from longrepo.memory.planner import Planner, plan_run
    from longrepo.training.plan import epochs_ahead

    kind, dtype, _ = place(choice, device, plan.settings.training.precision)
    phases = [plan.schedule.phase(number) for number in epochs_ahead(plan.state, plan.schedule)]
    scratch = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    planner = Planner.of(plan.settings, kind, dtype, scratch, engine=choice.name)
    return planner, plan_run(planner, phases, find_budget(kind, plan.settings.memory.budget_gb))


def _freed(memory: RunPlan) -> Iterator[str]:
    """On a CPU what is freed isn't kept for reuse, where the plan leaves little room."""
    from longrepo.utils.process import give_back_freed

    if memory.device == "cpu" and not memory.roomy and give_back_freed():
        yield "memory: more than half of the budget is planned for, so what is freed is given back at once"


def _limits(memory: RunPlan) -> tuple[tuple[str, str], ...]:
    from longrepo.engines.mlx.device import set_limits

    return set_limits(memory.device, memory.peak, memory.budget.bytes)


def resume_command(arguments: Arguments, output: Path, sequences: Path) -> str:
    """The command line that goes on with this run."""
    words = [sys.executable, *([sys.argv[0]] if sys.argv[0].endswith(".py") else ["-m", "longrepo", "train"])]
    words += ["--config", str(arguments.config)] if arguments.config else []
    words += ["--sequences", str(sequences), "--output", str(output), "--resume", "auto"]
    words += [word for override in arguments.overrides for word in ("--set", override)]
    words += ["--device", arguments.device] if arguments.device != "auto" else []
    words += ["--engine", arguments.engine] if arguments.engine != "auto" else []
    return shlex.join(words)


def _settings(arguments: Arguments, run: Path) -> Settings:
    """From --config; a resumed run without one goes on with its own settings."""
    file = arguments.config
    if file is None and arguments.resume is not None and (run / "settings.yaml").is_file():
        file = run / "settings.yaml"
    return load_settings(file, arguments.overrides)


def _sequences(arguments: Arguments, settings: Settings, of_run: str | None) -> Path:
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
