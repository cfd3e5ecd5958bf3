"""`longrepo plan`: what training will need and how long it will take, before anything is downloaded or loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from longrepo.commands.arguments import ConfigOption, EngineName, EngineOption, ModelOption, SetOption, overrides_of
from longrepo.commands.inference import Answering, plan_inference
from longrepo.commands.train import Device
from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.engines.choose import Choice
    from longrepo.memory.budget import Budget
    from longrepo.memory.planner import Planner


class _Place(NamedTuple):
    """The kind of device, the precision, and whether it is this machine's."""

    kind: str
    dtype: str
    here: bool


def plan(
    of: Annotated[
        str | None, typer.Argument(metavar="[RUN|MODEL]", help="With --inference: what answers. Default: the model.")
    ] = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    length: Annotated[
        list[int] | None, typer.Option(min=2, help="Plan sequences of so many tokens, not the phases. Repeatable.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Plan for it; with --budget-gb it needn't be there.")] = Device.auto,
    engine: EngineOption = EngineName.auto,
    budget_gb: Annotated[float | None, typer.Option(help="Over memory.budget_gb; of another machine, in GiB.")] = None,
    sequences: Annotated[Path | None, typer.Option(help="Hours of the whole schedule on these sequences.")] = None,
    inference: Annotated[
        bool, typer.Option("--inference", help="What answering needs by length, and how fast it is here.")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--measure-seconds", min=0, help="--inference: about so long; 0: load and measure nothing.")
    ] = 60,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Time this machine anew (about a minute).")] = False,
    machines: Annotated[bool, typer.Option("--machines", help="A table of Macs and GPUs against lengths.")] = False,
    set_: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="The figures as JSON, in bytes and seconds.")] = False,
) -> None:
    """What training needs, by part and phase, from a dry run without weights; how long, on this machine. Ends with
    status 2 where a phase doesn't fit."""
    from longrepo.engines.choose import choose

    if inference:
        answering = Answering.of(of, config, overrides_of(set_, model), set_)
        choice = choose(engine.value, device.value, answering.settings.training.weights)
        place = _place(choice, device.value, answering.settings, budget_gb)
        plan_inference(
            answering, place, choice, _budget(place.kind, answering.settings, budget_gb), seconds, as_json=json_
        )
        return
    if of is not None:
        raise InputError(f"{of}: only --inference plans a run or a model given so; of training, give --model")
    settings = load_settings(config, overrides_of(set_, model))
    from rich.console import Console

    from longrepo.memory.outlook import machine_table
    from longrepo.reports.plan import show_machines, show_outlook

    choice = choose(engine.value, device.value, settings.training.weights)
    place = _place(choice, device.value, settings, budget_gb)
    planner = _planner(settings, choice, place, calibrate)
    told = _told(planner, choice, place, _budget(place.kind, settings, budget_gb), length or (), sequences)
    if machines:
        told["machines"] = machine_table(planner, place.dtype)
    if json_:
        print(json.dumps(told, indent=2))
    else:
        show_outlook(told, console := Console(highlight=False))
        if machines:
            show_machines(told["machines"], console)
    if any("why_not" in entry for entry in told["phases"]):
        raise typer.Exit(2)


def _planner(settings: Settings, choice: Choice, place: _Place, calibrate: bool) -> Planner:
    """With this machine's times and overhead, where it is planned for."""
    from longrepo.memory.calibration import calibration, step_overhead
    from longrepo.memory.planner import Planner

    if calibrate and not place.here:
        another = f"--device {place.kind} with --budget-gb"
        raise InputError(f"--calibrate times this machine, and {another} plans for another")
    planner = Planner.of(settings, place.kind, place.dtype, engine=choice.name)
    if not place.here:
        return planner
    overhead = max(planner.overhead, step_overhead(choice.name)) if place.kind == "cpu" else 0
    return replace(planner, time=calibration(planner, anew=calibrate), overhead=overhead)


def _told(
    planner: Planner,
    choice: Choice,
    place: _Place,
    budget: Budget,
    lengths: Iterable[int],
    sequences: Path | None,
) -> dict[str, Any]:
    """What is planned of these lengths, or of the phases, as it is printed."""
    from longrepo.memory.calibration import checked_peak
    from longrepo.memory.outlook import outlook

    asked = {f"{tokens:,} tokens": (tokens, planner) for tokens in lengths} or _phases(planner)
    checked = checked_peak(planner) if place.here and choice.name == "mlx" else None
    told = outlook(planner, asked, budget, sequences)
    return {**told, "this_machine": place.here, "engine_reason": choice.reason, "checked_peak": checked}


def _place(choice: Choice, device: str, settings: Settings, budget_gb: float | None) -> _Place:
    from longrepo.engines.choose import place

    if budget_gb is None or device in ("auto", "cpu"):
        kind, dtype, _ = place(choice, device, settings.training.precision)
        return _Place(kind, dtype, True)
    wanted = settings.training.precision
    kind = "metal" if choice.name == "mlx" else device
    return _Place(kind, "bfloat16" if wanted == "auto" else wanted, False)


def _budget(kind: str, settings: Settings, budget_gb: float | None) -> Budget:
    from longrepo.memory.budget import GIB, Budget, find_budget

    if budget_gb is not None:
        return Budget(int(budget_gb * GIB), "--budget-gb", limit=True)
    return find_budget(kind, settings.memory.budget_gb)


def _phases(planner: Planner) -> dict[str, tuple[int, Planner]]:
    """Of each phase with epochs: its longest sequence, and the planner at its positions."""
    from longrepo.curriculum.phases import phases_from
    from longrepo.memory.planner import positioned

    phases = (phase for phase in phases_from(planner.settings) if phase.epochs)
    return {f"phase {phase.number}": (phase.max_length, positioned(planner, phase)) for phase in phases}
