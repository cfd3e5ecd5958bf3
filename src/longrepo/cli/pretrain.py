"""`longrepo pretrain` trains a preset from scratch, all weights, with the loop that trains adapters."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo import api
from longrepo.cli.options import MODEL_HELP, SetOption, announce_clone
from longrepo.cli.train import DeviceChoice, end_training
from longrepo.config.loader import dump_yaml, load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.utils.files import check_folder_name, write_text_file

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.pretrain.presets import Preset


SEQUENCES_FOLDER, START_FOLDER, RUN_FOLDER, PRETRAIN_SETTINGS = "sequences", "start", "run", "pretrain.yaml"


def pretrain(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the sequences, the initial model and the run.")
    ],
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Size and context: see longrepo models list.")
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", metavar="PATH", help="A text file, or sequences from prepare or tokenize."),
    ] = None,
    repo: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A git repository, a folder or a URL; its files are cut into windows.",
            callback=announce_clone,
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Updates in all. Default: one pass over the text.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help=f"{MODEL_HELP} Default: the one that the preset names."),
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="auto", help="Continue the run in --output.")] = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to train.")] = DeviceChoice.auto,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print a line for every update and save.")] = False,
) -> None:
    """Train a preset from scratch, all weights, planned before it starts. Ctrl-C saves; --resume auto continues."""
    overrides = tuple(set_ or ())
    if resume is not None:
        overrides = _resume_overrides(resume, output, preset, max_steps, overrides)
    else:
        _prepare_run(output, preset, input_, repo, max_steps, tokenizer, device.value, overrides, verbose)
        overrides = ()
    run = output / RUN_FOLDER
    from longrepo.reports.training import TerminalReporter

    reporter = TerminalReporter(verbose=verbose)
    try:
        trained = api.train(
            output / SEQUENCES_FOLDER,
            run,
            config=output / PRETRAIN_SETTINGS,
            resume="auto" if run.is_dir() else None,
            overrides=overrides,
            device=device.value,
            engine="torch",
            reporter=reporter,
        )
    finally:
        reporter.close()
    end_training(trained, _resume_line(output, device.value))


def _prepare_run(
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
    """Write everything that training starts from to `output`; the settings last, as the sign that the rest is there."""
    from longrepo.data.prepare import check_writable
    from longrepo.data.tokenizer_loading import load_tokenizer
    from longrepo.pretrain.presets import (
        check_vocabulary,
        find_preset,
        longest_trained_sequence,
        pretrain_overrides,
        write_initial_model,
    )
    from longrepo.pretrain.texts import write_inputs

    if name is None:
        raise InputError("--preset: which one? See longrepo models list")
    if (input_ is None) == (repo is None):
        raise InputError("give the text to train on: either --input FILE or --repo PATH")
    if input_ is not None and not input_.exists():
        raise InputError(f"--input {input_}: no such file; give a text file or sequences")
    chosen = find_preset(name)
    start = f"model.name={(output / START_FOLDER).resolve()}"
    settings = load_settings(None, (*pretrain_overrides(chosen, max_steps), *overrides, start))
    _check_unused(output)
    tokenizer = load_tokenizer(
        tokenizer_name or chosen.tokenizer, None, settings.data.structure_tokens, settings.data.fim
    )
    check_vocabulary(chosen, tokenizer)
    check_writable(output)
    _check_plan(chosen, settings, device, output)
    if input_ is not None:
        write_inputs(
            output / SEQUENCES_FOLDER, input_, tokenizer, longest_trained_sequence(settings), settings.data.redact
        )
    else:
        assert repo is not None
        _write_windows(output / SEQUENCES_FOLDER, repo, tokenizer, settings, verbose)
    write_initial_model(output / START_FOLDER, chosen, tokenizer, settings)
    write_text_file(output / PRETRAIN_SETTINGS, dump_yaml(settings))


def _check_unused(output: Path) -> None:
    check_folder_name(output)
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"--output {output}: is a file; give a folder")
    left = (SEQUENCES_FOLDER, START_FOLDER)  # of a preparation that was stopped: made again
    if any(entry.name not in left and not entry.name.startswith(".") for entry in output.iterdir()):
        raise InputError(f"--output {output} is not empty: continue its run with --resume auto, or give another folder")


def _check_plan(chosen: Preset, settings: Settings, device: str, output: Path) -> None:
    from longrepo.engines.registry import choose_engine, select_device
    from longrepo.memory.budget import find_budget
    from longrepo.pretrain.presets import longest_trained_sequence
    from longrepo.pretrain.requirements import check_fits, check_positions, make_planner

    kind, dtype, _ = select_device(choose_engine("torch", device), device, settings.training.precision)
    budget = find_budget(kind, settings.memory.budget_gb)
    check_positions(chosen, settings, kind, dtype)
    check_fits(make_planner(chosen, settings, kind, dtype, output), chosen, longest_trained_sequence(settings), budget)


def _write_windows(output: Path, repo: Path, tokenizer: RepoTokenizer, settings: Settings, verbose: bool) -> None:
    from longrepo.data.dataset import write_sequences
    from longrepo.data.windows import build_windows
    from longrepo.pretrain.presets import longest_trained_sequence
    from longrepo.reports.training import TerminalProgress

    progress = TerminalProgress(verbose)
    with (
        api.open_repositories([repo], None, "HEAD") as origins,
        api.prepare_tools(settings, tokenizer.name, progress) as ready,
    ):
        prepared = build_windows(origins, settings, ready, longest_trained_sequence(settings), 0)
        with ready.watch.count("writing windows", len(prepared.sequences)) as done:
            write_sequences(output, prepared.rows(done), prepared.header)


def _resume_overrides(
    resume: str, output: Path, name: str | None, max_steps: int | None, overrides: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the settings to change in the continued run. Raises InputError if --output holds no run to continue."""
    if resume != "auto":
        raise InputError(f"--resume {resume}: expected auto; the run is the one in --output")
    if not (output / PRETRAIN_SETTINGS).is_file():
        raise InputError(f"--resume auto: no training has begun in {output}; give the command without --resume")
    if name is not None:
        from longrepo.pretrain.presets import find_preset

        was = json.loads((output / START_FOLDER / "config.json").read_text(encoding="utf-8"))
        wanted = find_preset(name)
        if any(was[key] != wanted.config[key] for key in ("hidden_size", "num_hidden_layers")) or (
            was["max_position_embeddings"] != wanted.context
        ):
            raise InputError(f"--preset {name}: the run in {output} trains another one; leave --preset out")
    return (*overrides, *((f"training.max_updates={max_steps}",) if max_steps else ()))


def _resume_line(output: Path, device: str) -> str:
    """Return the command line that continues this run."""
    words = [sys.executable, "-m", "longrepo", "pretrain", "--output", str(output), "--resume", "auto"]
    return shlex.join([*words, *(["--device", device] if device != "auto" else [])])
