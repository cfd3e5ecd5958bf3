"""`longrepo generate`, which completes code at a position in a file or after a text, and `longrepo serve`, which
answers editors through OpenAI's completions endpoint.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo import api
from longrepo.cli.options import EngineChoice, EngineOption
from longrepo.cli.train import DeviceChoice
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.config.schema import ContextSettings
    from longrepo.engines.prompt_cache import PromptCache
    from longrepo.engines.tiers import Tier
    from longrepo.serve.model import TunedModel
    from longrepo.serve.prompts import CompletionPrompt


class CacheBits(StrEnum):
    computed = "16"
    eight = "8"
    four = "4"


TunedArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, a checkpoint or an adapter.")]
BaseOption = Annotated[
    str | None, typer.Option("--model", help="The base model. Default: the one that the adapter names.")
]
LengthOption = Annotated[
    int | None,
    typer.Option(min=128, help="Tokens of prompt and completion. Default: the longest phase of the run."),
]
PositionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="context.KEY=VALUE",
        help="RoPE scaling for texts longer than in training: context.method, context.target_length, context.window. "
        "Repeatable.",
    ),
]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="The most tokens of the completion.")]


def generate(
    run: TunedArgument,
    file: Annotated[Path | None, typer.Option(help="The file to complete, as it is on disk.")] = None,
    line: Annotated[int | None, typer.Option(min=1, help="The line of the position, from 1.")] = None,
    column: Annotated[
        int | None, typer.Option(min=1, help="Its column, from 1; before that character. Default: the end of the line.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="A text to continue instead; - reads standard input.")] = None,
    repo: Annotated[
        Path | None, typer.Option(help="The repository with related files, at HEAD. Default: the one with the file.")
    ] = None,
    max_tokens: MaxTokensOption = 64,
    length: LengthOption = None,
    fim: Annotated[
        bool | None,
        typer.Option("--fim/--no-fim", help="Show the text after the position. Default: if there is any."),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Complete with the base, without the adapter.")] = False,
    model: BaseOption = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to compute.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: PositionsOption = None,
    cache_bits: Annotated[CacheBits, typer.Option(help="Bits of cached keys and values; 16: as computed.")] = (
        CacheBits.computed
    ),
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 is greedy; a higher one draws less likely tokens more often.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Draw from the likeliest tokens with this probability together.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Draw the same tokens again. Default: others each time.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="List on standard error what the prompt shows.")] = False,
) -> None:
    """Write a completion to standard output, at a position in a file or after a text."""
    from longrepo.serve.prompts import read_prompt
    from longrepo.serve.sampling import Sampling
    from longrepo.serve.working_tree import read_position

    if (file is None) == (prompt is None):
        raise InputError("give --file FILE --line N, or --prompt TEXT")
    text = read_prompt(prompt) if prompt is not None else ""
    position = read_position(file, line, column, repo, fim) if file is not None else None
    tuned = api.load(run, model=model, context=parse_positions(set_), device=device.value, engine=engine.value)
    for note in tuned.notes:
        print(note, file=sys.stderr)
    builder = tuned.prompts(length, position.repo if position else None)
    if position is not None:
        if fim is None and position.after and tuned.tokenizer.fim is None:  # which a note has said
            position = replace(position, after=None)
        completion_prompt = builder.at(position.path, position.before, position.after, max_tokens)
    else:
        completion_prompt = builder.from_text(text, None, max_tokens)
    tier, bits = tuned.adaptive.select_tier(len(completion_prompt.ids) + max_tokens), int(cache_bits)
    tuned.check_cache(tier, bits)
    _write_code_as_it_is()
    sampling, new = Sampling(temperature, top_p, seed), 0
    with (
        tuned.engine.base_only() if base else nullcontext(),
        closing(tuned.stream(completion_prompt, sampling, bits=bits)) as parts,
    ):
        for part in parts:
            print(part.text, end="", flush=True)
            new = part.new
    print(end="\n" if sys.stdout.isatty() else "", flush=True)
    print(end="\n" if _is_shared_pipe() else "", file=sys.stderr)
    print(_describe(completion_prompt, new, tuned, tier, verbose), file=sys.stderr)


def _is_shared_pipe() -> bool:
    """Return whether both outputs go to the same file or pipe, where a note would stick to the completion."""
    try:
        one, other = sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):  # no real files
        return False
    return not os.isatty(one) and os.path.sameopenfile(one, other)


def _write_code_as_it_is() -> None:
    """Write UTF-8 with the completion's own line ends to a file or pipe; to a terminal, what it can show."""
    if isinstance(sys.stdout, TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", newline="")


def parse_positions(set_: list[str] | None) -> ContextSettings | None:
    """Parse --set; return None without any. Raises InputError for settings other than context."""
    from longrepo.config.loader import load_settings

    if others := [one for one in set_ or () if not one.startswith("context.")]:
        raise InputError(f"--set {others[0]}: only context settings can be set here; all others are the run's")
    return load_settings(None, set_).context if set_ else None


def _describe(prompt: CompletionPrompt, new: int, tuned: TunedModel, tier: Tier, verbose: bool) -> str:
    from longrepo.rope.apply import describe_context as positions

    kind = "between the text before and after" if prompt.fim else "after the text before"
    line = f"{new} tokens, {kind}: a prompt of {len(prompt.ids)} tokens"
    line += f" with {len(prompt.files)} related files" if prompt.files else ""
    if len({one.context for one in tuned.adaptive.tiers.every}) > 1:
        line += f"; positions: {positions(tier.context)}"
    if verbose:
        return "\n".join([*(f"{what}: {why}" for what, why in tuned.engine.choices), *prompt.files, line])
    return line


def serve(
    run: TunedArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="The address to listen at. Others than 127.0.0.1 let other machines in, without a key.")
    ] = "127.0.0.1",
    repo: Annotated[
        Path | None,
        typer.Option(help="Show related files of this repository (at HEAD) if the file in question is recognized."),
    ] = None,
    length: LengthOption = None,
    model: BaseOption = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to compute.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: PositionsOption = None,
    slots: Annotated[
        int, typer.Option(min=0, help="How many prompts to keep the keys and values of, for prompts that begin alike.")
    ] = 4,
    cache_gb: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="GIB",
            help="Their memory. Default: what they need at --length, up to a quarter of what there is.",
        ),
    ] = None,
) -> None:
    """Answer completion and fill-in-the-middle requests until Ctrl-C."""
    api.choose_engine_of(run, device.value, engine.value)
    try:
        from longrepo.serve.server import CompletionServer, is_loopback, listen
    except ModuleNotFoundError as error:
        raise InputError(f"longrepo serve needs {error.name}; pip install 'longrepo[serve]'") from None
    with _ignore_further_interrupts(), listen(host, port) as listening:
        tuned = api.load(run, model=model, context=parse_positions(set_), device=device.value, engine=engine.value)
        for note in (*tuned.notes, *(f"{what}: {why}" for what, why in tuned.engine.choices)):
            print(note)
        prompts = tuned.prompts(length, repo)
        kept = tuned.prompt_cache(prompts.length, slots, cache_gb)
        print(_describe_kept(kept, tuned, prompts.length))
        server = CompletionServer(listening, tuned, prompts, kept)
        address, number, *_ = listening.getsockname()
        if not is_loopback(address):
            print(f"--host {host}: whoever reaches this machine can use the server; there is no key")
        shown = f"[{address}]" if ":" in address else address
        print(f"http://{shown}:{number}/v1 answers as {tuned.name}; Ctrl-C ends it", flush=True)
        server.run()


def _describe_kept(kept: PromptCache, tuned: TunedModel, length: int) -> str:
    from longrepo.memory.budget import GIB

    one = tuned.engine.kept_bytes(length)
    room = f"{kept.budget / GIB:.2f} GiB; one of {length:,} tokens takes {one / GIB:.2f}"
    if not kept.slots:
        return "prompts kept: none (--slots 0)"
    if one > kept.budget:
        return f"prompts kept: up to {kept.slots} shorter ones, in {room}: raise --cache-gb or lower --length"
    return f"prompts kept: up to {kept.slots}, in {room}"


@contextmanager
def _ignore_further_interrupts() -> Iterator[None]:
    """Ignore every Ctrl-C after the first, since the process is already ending in order."""

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
