"""`longrepo doctor`: whether the main job would run on this machine, and what to do where it wouldn't."""

from __future__ import annotations

from typing import Annotated

import typer

from longrepo.commands.arguments import ConfigOption, EngineName, EngineOption, ModelOption, SetOption, overrides_of
from longrepo.commands.train import OUTPUT, Device
from longrepo.config.load import load_settings


def doctor(
    config: ConfigOption = None,
    model: ModelOption = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    engine: EngineOption = EngineName.auto,
    set_: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="For programs: the findings as JSON.")] = False,
) -> None:
    """Look at the machine, the libraries and the model; exit status 0 if training would run, else 2."""
    settings = load_settings(config, overrides_of(set_, model))
    from rich.console import Console

    from longrepo.memory.doctor.examine import examine
    from longrepo.reports.doctor import as_json, print_findings

    found = examine(settings, engine.value, device.value, OUTPUT)
    if json_:
        findings = list(found)
        print(as_json(findings))
    else:
        findings = print_findings(found, Console(highlight=False))
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(2)
