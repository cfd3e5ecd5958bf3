"""`longrepo doctor`: whether the main job would run on this machine, and what to do where it wouldn't."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longrepo.commands.train import OUTPUT, Device
from longrepo.config.load import load_settings


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="The settings file; defaults hold for what it leaves out.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Hub name, local folder, or `embedded`; over model.name.")] = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: lora.r=16. Repeatable.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="For programs: the findings as JSON.")] = False,
) -> None:
    """Look at the machine, the libraries and the model; exit status 0 if training would run, else 2."""
    settings = load_settings(config, (*(set_ or ()), *((f"model.name={model}",) if model else ())))
    from rich.console import Console

    from longrepo.memory.doctor.examine import examine
    from longrepo.reports.doctor import as_json, print_findings

    found = examine(settings, device.value, OUTPUT)
    if json_:
        findings = list(found)
        print(as_json(findings))
    else:
        findings = print_findings(found, Console(highlight=False))
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(2)
