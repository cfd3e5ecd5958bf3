"""`longrepo serve`: a tuned model for editors, behind OpenAI's completions endpoint on this machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from longrepo.commands.arguments import EngineName, EngineOption
from longrepo.commands.generate import BaseOption, LengthOption, PositionsOption, RunArgument, asked_positions
from longrepo.commands.train import Device


def serve(
    run: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: any free one.")] = 8080,
    repo: Annotated[
        Path | None,
        typer.Option(help="Show its related files, as at HEAD, where the file asked in is recognised as its own."),
    ] = None,
    length: LengthOption = None,
    model: BaseOption = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    engine: EngineOption = EngineName.auto,
    set_: PositionsOption = None,
) -> None:
    """Answer completion and fill-in-the-middle requests, for this machine alone, until Ctrl-C."""
    from longrepo.engines.choose import choose
    from longrepo.export.source import find_source
    from longrepo.use.serving import check_installed, listen, serve_on

    choice = choose(engine.value, device.value, find_source(run).settings.training.weights)
    check_installed(choice.name)
    with _ended_once(), listen(port) as listening:
        from longrepo.use.tuned import Tuned

        tuned = Tuned.load(run, model, choice, device.value, asked_positions(set_))
        for note in (*tuned.notes, *(f"{what}: {why}" for what, why in tuned.engine.choices)):
            print(note)
        server = serve_on(listening, tuned, tuned.prompts(length, repo))
        print("http://{}:{}/v1 answers as {}; Ctrl-C ends it".format(*listening.getsockname(), tuned.name), flush=True)
        server.run()


@contextmanager
def _ended_once() -> Iterator[None]:
    """After a first Ctrl-C others do nothing, to the process's end: it is ending, and in order."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is end:
            signal.signal(signal.SIGINT, before)
