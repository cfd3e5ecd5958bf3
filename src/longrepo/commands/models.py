"""`longrepo models`: the presets, and what a model is made of and needs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrepo.commands.arguments import SetOption

if TYPE_CHECKING:
    from longrepo.models.needs import Asked

models = typer.Typer(help="Presets by size; what a model is made of and needs.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="The figures as JSON: parameters and bytes.")]
BatchOption = Annotated[list[int] | None, typer.Option(min=1, help="Sequences in a batch. Repeatable. [default: 1, 8]")]
ContextOption = Annotated[
    list[int] | None, typer.Option(min=2, help="Tokens of a sequence. Repeatable. [default: 256, 1024, 4096, its own]")
]


@models.command("list")
def list_(
    memory: Annotated[bool, typer.Option("--memory", help="A training step of each, by context.")] = False,
    json_: JsonOption = False,
) -> None:
    """The presets: parameters, shape, memory."""
    from rich.console import Console

    from longrepo.config.load import load_settings
    from longrepo.models.needs import listed
    from longrepo.models.presets import CONTEXTS, preset, sizes
    from longrepo.reports.models import show_presets

    settings = load_settings()
    rows = [{"name": size} | listed(_config(preset(size).config), settings, memory) for size in sizes()]
    if json_:
        print(json.dumps(rows, indent=2))
    else:
        show_presets(rows, CONTEXTS, Console(highlight=False))


@models.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A preset, such as 150M_1024.")]) -> None:
    """A preset's configuration, as `config.json` of a model folder."""
    from longrepo.models.presets import preset

    print(json.dumps(preset(name).config, indent=2))


@models.command()
def params(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_FOLDER", help="A preset, a model folder or a hub name.")],
    batch: BatchOption = None,
    context: ContextOption = None,
    set_: SetOption = None,
    no_machines: Annotated[bool, typer.Option("--no-machines", help="Without the table of machines.")] = False,
    json_: JsonOption = False,
) -> None:
    """Parameters by part, memory to answer and to train by batch and context, and the machines that have it."""
    from rich.console import Console

    from longrepo.models.needs import calculated
    from longrepo.reports.models import show_calculated

    asked = _asked(name, tuple(batch or ()), tuple(context or ()), set_)
    told = calculated(asked, machines=not no_machines)
    if json_:
        print(json.dumps({"name": name} | told, indent=2))
    else:
        show_calculated(name, told, Console(highlight=False))


def _asked(name: str, batches: tuple[int, ...], contexts: tuple[int, ...], set_: list[str] | None) -> Asked:
    from longrepo.config.load import load_settings
    from longrepo.errors import InputError
    from longrepo.memory.shape import read_config
    from longrepo.models.needs import BATCHES, Asked
    from longrepo.models.presets import preset

    settings = load_settings(None, set_ or ())
    is_model = "/" in name or name.startswith((".", "~")) or Path(name).exists()
    config = read_config(name) if is_model else _config(preset(name).config)
    native = config.max_position_embeddings
    if too_long := [tokens for tokens in contexts if tokens > native]:
        raise InputError(f"--context {too_long[0]}: {name} has {native:,} positions; give that or less")
    return Asked(config, settings, batches or BATCHES, contexts)


def _config(tree: dict[str, Any]) -> Any:
    from longrepo.memory.shape import read_config

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(tree), encoding="utf-8")
        return read_config(folder)
