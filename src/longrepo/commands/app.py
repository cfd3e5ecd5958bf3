"""The `longrepo` command: registers the commands and turns our two errors into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from longrepo import __version__
from longrepo.commands.check import check_leaks
from longrepo.commands.check_questions import check_questions
from longrepo.commands.doctor import doctor
from longrepo.commands.evaluate import evaluate
from longrepo.commands.export import export, import_adapter
from longrepo.commands.extend import extend
from longrepo.commands.generate import generate
from longrepo.commands.inspect import inspect
from longrepo.commands.models import models
from longrepo.commands.pipeline import pipeline
from longrepo.commands.plan import plan
from longrepo.commands.prepare import prepare
from longrepo.commands.pretrain import pretrain
from longrepo.commands.report import report
from longrepo.commands.serve import serve
from longrepo.commands.tokenize import tokenize
from longrepo.commands.train import train
from longrepo.errors import InputError, RunError

COMMANDS = (
    prepare, inspect, check_leaks, check_questions, tokenize, train, evaluate, pipeline, plan, doctor, export,
    import_adapter, extend, report, generate, serve, pretrain,
)  # fmt: skip


def _new_app(**options: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True, **options
    )


def _version(asked: bool) -> None:
    if asked:
        print(f"longrepo {__version__}")
        raise typer.Exit


app = _new_app(help="Tune a 4-bit code model on your own git repository, at long context.")


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    del version  # its callback has answered


for command in COMMANDS:
    app.command()(command)
app.add_typer(models, name="models")


def main() -> None:
    """The `longrepo` command."""
    _run(app)


def run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program of its own: what the front doors at the top of the repository call."""
    alone = _new_app()
    alone.command()(command)
    _run(alone)


def _run(program: typer.Typer) -> None:
    try:
        program()
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this Python complains again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
