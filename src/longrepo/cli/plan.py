"""Commands to begin with: `init` (a settings file), `plan` (what training or answering needs, and how long it takes),
`doctor` (whether training would run here), `bases` (those that are known) and `models` (the presets, and what a model
needs).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrepo.cli.generate import parse_positions
from longrepo.cli.options import ConfigOption, EngineChoice, EngineOption, ModelOption, SetOption, overrides_of
from longrepo.cli.train import DeviceChoice
from longrepo.config.loader import load_settings
from longrepo.config.schema import ContextSettings, Settings
from longrepo.errors import InputError
from longrepo.training.launch import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from longrepo.engines.registry import EngineSelection
    from longrepo.engines.tiers import Tiers
    from longrepo.memory.planner import MemoryPlanner
    from longrepo.pretrain.requirements import RequirementsQuery


ANOTHER_MACHINE = "it is planned for another machine"


@dataclass(frozen=True)
class InferenceModel:
    """A model to plan answers for. `settings.context`: the positions it was trained at; `asked`: positions beyond them;
    `adapter`: None for a model without one."""

    settings: Settings
    asked: ContextSettings | None
    adapter: Path | None = None
    tokenizer: str | None = None

    @staticmethod
    def of(name: str | None, config: Path | None, overrides: tuple[str, ...], set_: list[str] | None) -> InferenceModel:
        """Find the folder of a run, a checkpoint or an adapter; else a model by its name, or the settings' model.

        Raises InputError if there is none.
        """
        if name is not None and not (Path(name) / "config.json").is_file() and Path(name).is_dir():
            from longrepo.training.artifact import find_artifact

            source = find_artifact(Path(name))
            return InferenceModel(source.settings, parse_positions(set_), source.adapter, source.tokenizer)
        settings = load_settings(config, (*overrides, *((f"model.name={name}",) if name else ())))
        asked = settings.context if settings.context != ContextSettings() else None
        return InferenceModel(settings.model_copy(update={"context": ContextSettings()}), asked)

    def tiers(self) -> Tiers:
        """Return the lengths it answers at. Raises InputError if its positions are impossible."""
        from longrepo.engines.tiers import model_tiers

        return model_tiers(self.settings.model, self.settings.context, self.asked, 4096)


def plan_inference(
    answering: InferenceModel,
    choice: EngineSelection,
    device: str,
    budget_gb: float | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Print what answering needs at each length, and its speed on this machine, measured for about `seconds`."""
    from rich.console import Console

    from longrepo.memory.planner import MemoryPlanner
    from longrepo.memory.report import inference_report
    from longrepo.reports.planning import show_inference

    settings, tiers = answering.settings, answering.tiers()
    planner = MemoryPlanner.for_run(settings, choice, device, budget_gb=budget_gb)
    told = inference_report(planner, tiers, planner.budget)
    fitting = [tier for tier, row in zip(tiers.every, told["tiers"], strict=True) if row["fits"]]
    told["unmeasured"] = _why_unmeasured(settings, planner.here, seconds, bool(fitting))
    told["speeds"] = []
    if not told["unmeasured"]:
        fitting_tiers, kind = replace(tiers, every=tuple(fitting)), planner.estimator.device
        told["speeds"] = _measure_speeds(answering, fitting_tiers, choice, kind, seconds)
    print(json.dumps(told, indent=2)) if as_json else show_inference(told, Console(highlight=False))


def _measure_speeds(
    answering: InferenceModel, tiers: Tiers, choice: EngineSelection, kind: str, seconds: float
) -> list[dict[str, Any]]:
    from longrepo.data.tokenizer_loading import load_tokenizer
    from longrepo.engines.registry import create_engine
    from longrepo.engines.tiers import TieredEngine, measure_speeds

    settings, model = answering.settings, answering.settings.model
    tokenizer = load_tokenizer(
        answering.tokenizer or model.name, model.revision, settings.data.structure_tokens, settings.data.fim
    )
    engine = create_engine(choice, settings, tokenizer, "auto" if kind == "metal" else kind)
    if answering.adapter is not None:
        engine.load_adapter(answering.adapter)
    found = measure_speeds(TieredEngine(engine, tiers), tokenizer.vocabulary_size, seconds)
    return [asdict(one) | {"prompt_rate": one.prompt_rate, "new_rate": one.new_rate} for one in found]


def _why_unmeasured(settings: Settings, here: bool, seconds: float, fits: bool) -> str | None:
    if not here:
        return ANOTHER_MACHINE
    if not seconds:
        return "as asked"
    if not _has_weights(settings):
        return f"the weights of {settings.model.name} aren't on this machine"
    return None if fits else "no tier fits"


def _has_weights(settings: Settings) -> bool:
    from huggingface_hub import try_to_load_from_cache

    from longrepo.utils.hub import model_location

    where, revision = model_location(settings.model.name), settings.model.revision
    if Path(where).is_dir():
        return any(Path(where).glob("*.safetensors"))
    names = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(where, name, revision=revision), str) for name in names)


def plan(
    of: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|MODEL]", help="With --inference: what to plan answers for. Default: --model."),
    ] = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    length: Annotated[
        list[int] | None,
        typer.Option(metavar="TOKENS", min=2, help="Plan sequences of this length, not the phases. Repeatable."),
    ] = None,
    device: Annotated[
        DeviceChoice, typer.Option(help="Device to plan for. With --budget-gb it needn't be in this machine.")
    ] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    budget_gb: Annotated[
        float | None, typer.Option(metavar="GIB", help="Plan within this memory. Default: memory.budget_gb.")
    ] = None,
    sequences: Annotated[
        Path | None, typer.Option(metavar="SEQUENCES", help="Show the hours that the whole schedule takes on these.")
    ] = None,
    inference: Annotated[
        bool, typer.Option("--inference", help="Plan answers, not training: memory by length, and speed here.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Option(
            "--measure-seconds",
            metavar="SECONDS",
            min=0,
            help="--inference: measure for about this long. 0: load and measure nothing.",
        ),
    ] = 60,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a step on this machine (about a minute).")
    ] = False,
    machines: Annotated[bool, typer.Option("--machines", help="Add a table of Macs and GPUs by length.")] = False,
    set_: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, in bytes and seconds.")] = False,
) -> None:
    """Show what training needs, by part and phase, and how long it takes, from a dry run without weights. Exit status 2
    if a phase doesn't fit."""
    from longrepo.engines.registry import choose_engine

    if inference:
        answering = InferenceModel.of(of, config, overrides_of(set_, model), set_)
        choice = choose_engine(engine.value, device.value, answering.settings.training.weights)
        plan_inference(answering, choice, device.value, budget_gb, seconds, as_json=json_)
        return
    if budget_gb is not None and budget_gb <= 0:
        raise InputError(f"--budget-gb {budget_gb:g}: expected a number above 0, in GiB")
    if of is not None:
        raise InputError(f"{of}: only --inference takes a run or a model here; to plan training, give --model")
    settings = load_settings(config, overrides_of(set_, model))
    from rich.console import Console

    from longrepo.memory.calibration import with_calibration
    from longrepo.memory.planner import MemoryPlanner
    from longrepo.memory.report import machine_table
    from longrepo.reports.planning import show_machines, show_plan

    choice = choose_engine(engine.value, device.value, settings.training.weights)
    if choice.name == "mlx":
        _check_measurable(choice, device.value, settings.training.precision)
    planner = MemoryPlanner.for_run(settings, choice, device.value, budget_gb=budget_gb)
    planner = with_calibration(planner, remeasure=calibrate)
    told = _make_report(planner, choice, length or (), sequences)
    if machines:
        told["machines"] = machine_table(planner, planner.estimator.dtype)
    if json_:
        print(json.dumps(told, indent=2))
    else:
        show_plan(told, console := Console(highlight=False))
        if machines:
            show_machines(told["machines"], console)
    if any("why_not" in entry for entry in told["phases"]):
        raise typer.Exit(2)


def _check_measurable(choice: EngineSelection, device: str, precision: str) -> None:
    """Raise InputError if MLX or the device isn't here: MLX's steps are measured, not computed from the shape."""
    from longrepo.engines.registry import select_device

    try:
        select_device(choice, device, precision)
    except InputError as error:
        way_out = "a plan for MLX is measured on the device; for other Macs see longrepo plan --engine torch --machines"
        raise InputError(f"{error}; {way_out}") from None


def _make_report(
    planner: MemoryPlanner, choice: EngineSelection, lengths: Iterable[int], sequences: Path | None
) -> dict[str, Any]:
    """Return the plan for these lengths, or for the phases, as it is printed."""
    from longrepo.engines.model_shape import is_shipped_config
    from longrepo.memory.report import plan_report

    asked = {f"{tokens:,} tokens": (tokens, planner) for tokens in lengths} or _phase_planners(planner)
    told = plan_report(planner, asked, planner.budget, sequences)
    shipped = is_shipped_config(planner.settings.model.name, planner.settings.model.revision)
    about = {"this_machine": planner.here, "engine_reason": choice.reason}
    return {**told, **about, "configuration": "shipped" if shipped else "published"}


def _phase_planners(planner: MemoryPlanner) -> dict[str, tuple[int, MemoryPlanner]]:
    """Return each phase with epochs, with its longest sequence and the planner at its positions."""
    from longrepo.curriculum.schedule import make_schedule
    from longrepo.memory.planner import checked_phase_planner

    phases = (phase for phase in make_schedule(planner.settings) if phase.epochs)
    return {f"phase {phase.number}": (phase.max_length, checked_phase_planner(planner, phase)) for phase in phases}


def doctor(
    config: ConfigOption = None,
    model: ModelOption = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to train.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check the machine, the libraries and the model. Exit status 0 if training would run, else 2."""
    settings = load_settings(config, overrides_of(set_, model))
    from rich.console import Console

    from longrepo.memory.doctor import run_checks
    from longrepo.reports.planning import findings_as_json, print_findings

    found = run_checks(settings, engine.value, device.value, DEFAULT_OUTPUT)
    if json_:
        findings = list(found)
        print(findings_as_json(findings))
    else:
        findings = print_findings(found, Console(highlight=False))
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(2)


def bases(
    json_: Annotated[bool, typer.Option("--json", help="Print the table as JSON, in parameters and bytes.")] = False,
) -> None:
    """List known bases: size, license, context, fill-in-the-middle, engines, and the memory that training takes."""
    from rich.console import Console

    from longrepo.memory.report import bases_report
    from longrepo.reports.planning import show_bases

    told = bases_report()
    print(json.dumps(told, indent=2)) if json_ else show_bases(told, Console(highlight=False))


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The file to write.")] = Path("longrepo.yaml"),
    model: ModelOption = None,
) -> None:
    """Write a settings file to start from: every setting explained, at its default and commented out."""
    from longrepo.config.loader import settings_template, values_for_model
    from longrepo.engines.model_shape import local_positions
    from longrepo.utils.files import write_text_file

    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"{file}: a settings file is YAML; give a name ending in .yaml")
    if file.exists():
        raise InputError(f"{file}: already exists; give another name, or remove it")
    settings = load_settings(None, overrides_of(None, model))
    values = {}
    if model is not None:
        reach = local_positions(settings.model, settings.context)
        values = values_for_model(model, reach)
        if len(values) > 1:
            lengths = ", ".join(f"{value:,}" for key, value in values.items() if key.endswith("_max_length"))
            print(f"phases of up to {lengths} tokens, because the positions of {model} reach {reach:,}")
    write_text_file(file, settings_template(values))
    load_settings(file)
    print(f"{file}: uncomment what you change, and give it as --config {file}")
    print(f"next: longrepo plan --config {file}")


models_app = typer.Typer(help="List presets; show what a model consists of and needs.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the figures as JSON, in parameters and bytes.")]
BatchOption = Annotated[
    list[int] | None, typer.Option(metavar="N", min=1, help="Sequences in a batch. Repeatable. Default: 1, 8.")
]
ContextOption = Annotated[
    list[int] | None,
    typer.Option(
        metavar="TOKENS", min=2, help="Sequence length. Repeatable. Default: 256, 1024, 4096, the model's own."
    ),
]


@models_app.command("list")
def list_(
    memory: Annotated[bool, typer.Option("--memory", help="Add the memory of a training step, by context.")] = False,
    json_: JsonOption = False,
) -> None:
    """List the presets: parameters, shape, memory."""
    from rich.console import Console

    from longrepo.config.loader import load_settings
    from longrepo.pretrain.presets import PRESET_CONTEXTS, find_preset, size_files
    from longrepo.pretrain.requirements import preset_row
    from longrepo.reports.planning import show_presets

    settings = load_settings()
    rows = [
        {"name": size} | preset_row(_config_of(find_preset(size).config), settings, memory) for size in size_files()
    ]
    if json_:
        print(json.dumps(rows, indent=2))
    else:
        show_presets(rows, PRESET_CONTEXTS, Console(highlight=False))


@models_app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A preset, such as 150M_1024.")]) -> None:
    """Print a preset's configuration: the `config.json` of a model folder."""
    from longrepo.pretrain.presets import find_preset

    print(json.dumps(find_preset(name).config, indent=2))


@models_app.command()
def params(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_FOLDER", help="A preset, a model folder or a hub name.")],
    batch: BatchOption = None,
    context: ContextOption = None,
    set_: SetOption = None,
    no_machines: Annotated[bool, typer.Option("--no-machines", help="Leave out the table of machines.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show a model's parameters by part, the memory it needs to answer and to train, and the machines that have it."""
    from rich.console import Console

    from longrepo.pretrain.requirements import calculate_requirements
    from longrepo.reports.planning import show_requirements

    asked = _requirements_query(name, tuple(batch or ()), tuple(context or ()), set_)
    told = calculate_requirements(asked, machines=not no_machines)
    if json_:
        print(json.dumps({"name": name} | told, indent=2))
    else:
        show_requirements(name, told, Console(highlight=False))


def _requirements_query(
    name: str, batches: tuple[int, ...], contexts: tuple[int, ...], set_: list[str] | None
) -> RequirementsQuery:
    from longrepo.config.loader import load_settings
    from longrepo.engines.model_shape import read_config
    from longrepo.errors import InputError
    from longrepo.pretrain.presets import find_preset
    from longrepo.pretrain.requirements import DEFAULT_BATCHES, RequirementsQuery
    from longrepo.utils.hub import PACKAGED_MODELS

    settings = load_settings(None, set_ or ())
    is_model = "/" in name or name.startswith((".", "~")) or name in PACKAGED_MODELS or Path(name).exists()
    config = read_config(name) if is_model else _config_of(find_preset(name).config)
    native = config.max_position_embeddings
    if too_long := [tokens for tokens in contexts if tokens > native]:
        raise InputError(f"--context {too_long[0]}: {name} has {native:,} positions; give that or less")
    return RequirementsQuery(config, settings, batches or DEFAULT_BATCHES, contexts)


def _config_of(tree: dict[str, Any]) -> Any:
    from longrepo.engines.model_shape import read_config

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(tree), encoding="utf-8")
        return read_config(folder)
