"""Generate, serve.

`longrepo generate`: what a tuned model writes at a place in a file, or after a text.

`longrepo serve`: a tuned model for editors, behind OpenAI's completions endpoint on this machine.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo import api
from longrepo.cli.options import EngineChoice, EngineOption
from longrepo.cli.train import DeviceChoice
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.config.schema import ContextSettings
    from longrepo.engines.tiers import Tier
    from longrepo.serve.model import TunedModel
    from longrepo.serve.prompts import CompletionPrompt


class CacheBits(StrEnum):
    computed = "16"
    eight = "8"
    four = "4"


TunedArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, a checkpoint's, or an adapter's.")]
BaseOption = Annotated[str | None, typer.Option("--model", help="The base; default: the one the adapter names.")]
LengthOption = Annotated[
    int | None,
    typer.Option(min=128, help="Tokens of prompt and completion. Default: the longest that the run was planned for."),
]
PositionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="context.KEY=VALUE",
        help="How positions reach texts longer than it was trained for: context.method, context.target_length, "
        "context.window. Repeatable.",
    ),
]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of the completion.")]


def generate(
    run: TunedArgument,
    file: Annotated[Path | None, typer.Option(help="The file to complete in, as it stands on disk.")] = None,
    line: Annotated[int | None, typer.Option(min=1, help="The line of the place, from 1.")] = None,
    column: Annotated[
        int | None, typer.Option(min=1, help="Its column, from 1, before that character. Default: the line's end.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="A text to go on from instead; - reads standard input.")] = None,
    repo: Annotated[
        Path | None, typer.Option(help="Whose related files are shown, as at HEAD. Default: the one the file lies in.")
    ] = None,
    max_tokens: MaxTokensOption = 64,
    length: LengthOption = None,
    fim: Annotated[
        bool | None,
        typer.Option("--fim/--no-fim", help="Show what stands after the place. Default: where anything does."),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Let the base write, without the adapter.")] = False,
    model: BaseOption = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to compute.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: PositionsOption = None,
    cache_bits: Annotated[CacheBits, typer.Option(help="Of cached keys and values; 16: as computed.")] = (
        CacheBits.computed
    ),
    verbose: Annotated[bool, typer.Option("--verbose", help="Say on standard error what was shown.")] = False,
) -> None:
    """Write a completion to standard output, greedily: at a place in a file, or after a text."""
    from longrepo.data.template import completion_text
    from longrepo.serve.prompts import read_position, read_prompt

    if (file is None) == (prompt is None):
        raise InputError("give --file FILE --line N, or --prompt TEXT")
    text = read_prompt(prompt) if prompt is not None else ""
    place = read_position(file, line, column, repo, fim) if file is not None else None
    tuned = api.load(run, model=model, context=parse_positions(set_), device=device.value, engine=engine.value)
    for note in tuned.notes:
        print(note, file=sys.stderr)
    prompts = tuned.prompts(length, place.repo if place else None)
    if place is not None:
        asked = prompts.at(place.path, place.before, place.after, max_tokens)
    else:
        asked = prompts.from_text(text, None, max_tokens)
    tier, bits = tuned.adaptive.select_tier(len(asked.ids) + max_tokens), int(cache_bits)
    tuned.check_cache(tier, bits)
    with tuned.engine.base_only() if base else nullcontext():
        ids = tuned.engine.generate(asked.ids, max_tokens, bits=bits)
    completion = completion_text(tuned.tokenizer, ids)
    print(completion, end="\n" if sys.stdout.isatty() else "")
    print(_print_details(asked, len(ids), tuned, tier, verbose), file=sys.stderr)


def parse_positions(set_: list[str] | None) -> ContextSettings | None:
    """What --set asks for; None where nothing is. Raises InputError for settings that aren't positions."""
    from longrepo.config.loader import load_settings

    if others := [one for one in set_ or () if not one.startswith("context.")]:
        raise InputError(f"--set {others[0]}: only settings of context can be given here; all others are the run's")
    return load_settings(None, set_).context if set_ else None


def _print_details(asked: CompletionPrompt, new: int, tuned: TunedModel, tier: Tier, verbose: bool) -> str:
    from longrepo.rope.apply import describe_context as positions

    kind = "between what stands before and after" if asked.fim else "from what stands before"
    said = f"{new} tokens, {kind}: a prompt of {len(asked.ids)} tokens"
    said += f" with {len(asked.files)} related files" if asked.files else ""
    if len({one.context for one in tuned.adaptive.tiers.every}) > 1:
        said += f"; positions: {positions(tier.context)}"
    if verbose:
        said = "\n".join([*(f"{what}: {why}" for what, why in tuned.engine.choices), *asked.files, said])
    return said


def serve(
    run: TunedArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: any free one.")] = 8080,
    repo: Annotated[
        Path | None,
        typer.Option(help="Show its related files, as at HEAD, where the file asked in is recognised as its own."),
    ] = None,
    length: LengthOption = None,
    model: BaseOption = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to compute.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: PositionsOption = None,
) -> None:
    """Answer completion and fill-in-the-middle requests, for this machine alone, until Ctrl-C."""
    api.choose_engine_of(run, device.value, engine.value)
    try:
        from longrepo.serve.server import CompletionServer, listen
    except ModuleNotFoundError as error:
        raise InputError(f"longrepo serve needs {error.name}; pip install 'longrepo[serve]'") from None
    with _ignore_further_interrupts(), listen(port) as listening:
        tuned = api.load(run, model=model, context=parse_positions(set_), device=device.value, engine=engine.value)
        for note in (*tuned.notes, *(f"{what}: {why}" for what, why in tuned.engine.choices)):
            print(note)
        server = CompletionServer(listening, tuned, tuned.prompts(length, repo))
        print("http://{}:{}/v1 answers as {}; Ctrl-C ends it".format(*listening.getsockname(), tuned.name), flush=True)
        server.run()


@contextmanager
def _ignore_further_interrupts() -> Iterator[None]:
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
