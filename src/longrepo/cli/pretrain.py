"""`longrepo pretrain`: a preset trained from scratch, all weights, by the loop that trains adapters."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo.cli.options import SetOption
from longrepo.cli.train import Arguments, Device, run_training
from longrepo.config.load import dump_yaml, load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.utils.files import write_text

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.pretrain.presets import Preset


SEQUENCES, START, RUN, SETTINGS = "sequences", "start", "run", "pretrain.yaml"


def pretrain(
    output: Annotated[Path, typer.Option(help="Folder for sequences, the start and the run.")],
    preset: Annotated[str | None, typer.Option(help="Size and context: see longrepo models list.")] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", help="A text file, or sequences that prepare or tokenize made.")
    ] = None,
    repo: Annotated[Path | None, typer.Option(help="A git repository: its files, as windows of the context.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Updates in all. Default: one pass.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Hub name, folder or `embedded`. Default: StarCoder2's; the embedded one's.")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="auto", help="Go on with the run in --output.")] = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for every update and save.")] = False,
) -> None:
    """Train a preset from scratch, all weights, planned before it starts; Ctrl-C saves, --resume auto goes on."""
    overrides = tuple(set_ or ())
    if resume is not None:
        overrides = _resumed(resume, output, preset, max_steps, overrides)
    else:
        _prepare(output, preset, input_, repo, max_steps, tokenizer, device.value, overrides, verbose)
        overrides = ()
    run = output / RUN
    status = run_training(
        Arguments(
            config=output / SETTINGS,
            sequences=output / SEQUENCES,
            output=run,
            epochs=None,
            checkpoint=None,
            resume="auto" if run.is_dir() else None,
            overrides=overrides,
            device=device.value,
            verbose=verbose,
            engine="torch",
            go_on=_go_on(output, device.value),
        )
    )
    if status:
        raise typer.Exit(status)


def _prepare(
    output: Path,
    name: str | None,
    input_: Path | None,
    repo: Path | None,
    max_steps: int | None,
    tokenizer_name: str | None,
    device: str,
    overrides: tuple[str, ...],
    verbose: bool,
) -> None:
    """Everything that the loop begins with, into `output`; the settings last, as the sign that the rest is there."""
    from longrepo.data.prepare import check_writable
    from longrepo.data.tokenizer import load_tokenizer
    from longrepo.pretrain.inputs import write_given
    from longrepo.pretrain.presets import check_vocabulary, from_scratch, longest, preset, write_start

    if name is None:
        raise InputError("--preset: which one? See longrepo models list")
    if (input_ is None) == (repo is None):
        raise InputError("give the text to train on: either --input FILE or --repo PATH")
    chosen = preset(name)
    start = f"model.name={(output / START).resolve()}"
    settings = load_settings(None, (*from_scratch(chosen, max_steps), *overrides, start))
    _check_free(output)
    tokenizer = load_tokenizer(tokenizer_name or chosen.tokenizer, None, settings.data.structure_tokens)
    check_vocabulary(chosen, tokenizer)
    check_writable(output)
    _plan(chosen, settings, device, output)
    if input_ is not None:
        write_given(output / SEQUENCES, input_, tokenizer, longest(settings), settings.data.redact)
    else:
        assert repo is not None
        _write_windows(output / SEQUENCES, repo, tokenizer, settings, verbose)
    write_start(output / START, chosen, tokenizer, settings)
    write_text(output / SETTINGS, dump_yaml(settings))


def _check_free(output: Path) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"--output {output}: is a file; give a folder")
    left = (SEQUENCES, START)  # of a preparation that was stopped: made anew
    if any(entry.name not in left and not entry.name.startswith(".") for entry in output.iterdir()):
        raise InputError(f"--output {output} is not empty: go on with its run by --resume auto, or give another")


def _plan(chosen: Preset, settings: Settings, device: str, output: Path) -> None:
    from longrepo.engines.registry import choose, place
    from longrepo.memory.budget import find_budget
    from longrepo.pretrain.presets import longest
    from longrepo.pretrain.requirements import check_fits, check_positions, planner_of

    kind, dtype, _ = place(choose("torch", device), device, settings.training.precision)
    budget = find_budget(kind, settings.memory.budget_gb)
    check_positions(chosen, settings, kind, dtype)
    check_fits(planner_of(chosen, settings, kind, dtype, output), chosen, longest(settings), budget)


def _write_windows(output: Path, repo: Path, tokenizer: RepoTokenizer, settings: Settings, verbose: bool) -> None:
    from longrepo.cli.data import opened, tools
    from longrepo.data.dataset import write_sequences
    from longrepo.data.windows import windows
    from longrepo.pretrain.presets import longest

    with opened([repo], None, "HEAD") as origins, tools(settings, tokenizer.name, verbose) as ready:
        prepared = windows(origins, settings, ready, longest(settings), 0)
        with ready.watch.count("writing windows", len(prepared.sequences)) as done:
            write_sequences(output, prepared.rows(done), prepared.header)


def _resumed(
    resume: str, output: Path, name: str | None, max_steps: int | None, overrides: tuple[str, ...]
) -> tuple[str, ...]:
    """The settings to go on with besides the run's own. Raises InputError where --output holds no run to go on with."""
    if resume != "auto":
        raise InputError(f"--resume {resume}: expected auto; the run is the one in --output")
    if not (output / SETTINGS).is_file():
        raise InputError(f"--resume auto: no training has begun in {output}; give the command without --resume")
    if name is not None:
        from longrepo.pretrain.presets import preset

        was = json.loads((output / START / "config.json").read_text(encoding="utf-8"))
        wanted = preset(name)
        if any(was[key] != wanted.config[key] for key in ("hidden_size", "num_hidden_layers")) or (
            was["max_position_embeddings"] != wanted.context
        ):
            raise InputError(f"--preset {name}: the run in {output} trains another one; leave --preset out")
    return (*overrides, *((f"training.max_updates={max_steps}",) if max_steps else ()))


def _go_on(output: Path, device: str) -> str:
    """The command line that goes on with this run."""
    words = [sys.executable, "-m", "longrepo", "pretrain", "--output", str(output), "--resume", "auto"]
    return shlex.join([*words, *(["--device", device] if device != "auto" else [])])
