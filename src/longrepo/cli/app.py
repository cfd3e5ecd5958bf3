"""Register the commands of `longrepo`; turn `InputError` and `RunError` into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from longrepo import __version__
from longrepo.cli.data import check_leaks, check_questions, inspect, prepare, tokenize
from longrepo.cli.editor import setup_editor
from longrepo.cli.evaluate import evaluate, report
from longrepo.cli.export import export, extend, import_adapter
from longrepo.cli.generate import generate, serve
from longrepo.cli.pipeline import pipeline
from longrepo.cli.plan import bases, doctor, init, models_app, plan
from longrepo.cli.pretrain import pretrain
from longrepo.cli.train import train
from longrepo.errors import InputError, RunError

COMMANDS = (
    init, prepare, inspect, check_leaks, check_questions, tokenize, train, evaluate, pipeline, plan, doctor, bases,
    export, import_adapter, extend, report, generate, serve, setup_editor, pretrain,
)  # fmt: skip


def _new_app(completion: bool = False, **options: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        **options,
    )


def _print_version(asked: bool) -> None:
    if asked:
        print(f"longrepo {__version__}")
        raise typer.Exit


app = _new_app(completion=True, help="Tune a 4-bit code model on your own git repository, at long context.")


@app.callback()
def _global_options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    del version  # its callback has answered


def _says_stopped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that says on Ctrl-C what becomes of its work: typer alone would end it without a word."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as stop:
            print(": ".join(["stopped", *getattr(stop, "__notes__", ())]), file=sys.stderr)
            raise

    return run


for command in COMMANDS:
    app.command()(_says_stopped(command))
app.add_typer(models_app, name="models")


def main() -> None:
    """Run the `longrepo` command."""
    _run(app)


def run_alone(name: str) -> None:
    """Run one command as a program of its own, as the scripts at the top of the repository do."""
    alone = _new_app()
    alone.command()(_says_stopped(next(one for one in COMMANDS if one.__name__ == name)))
    _run(alone)


def _run(program: typer.Typer) -> None:
    try:
        if sys.platform == "win32":
            raise InputError("longrepo runs on Linux and macOS; on Windows use it in WSL 2 (wsl --install)")
        program()
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this Python complains again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
