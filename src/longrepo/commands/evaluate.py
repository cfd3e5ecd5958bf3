"""`longrepo evaluate`: base against tuned on the held-out sequences of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo.commands.arguments import EngineName, EngineOption
from longrepo.commands.train import Device
from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.engines.choose import Choice
    from longrepo.evaluation.compare import Comparison


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, as --output of training named it.")],
    sequences: Annotated[
        Path | None, typer.Option(help="The file of sequences; default: the one the run was trained on.")
    ] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    device: Annotated[Device, typer.Option(help="Where to score.")] = Device.auto,
    engine: EngineOption = EngineName.auto,
) -> None:
    """Compare base and tuned on sequences that training never saw, length by length; writes evaluation.json."""
    from rich.console import Console

    from longrepo.engines.choose import choose
    from longrepo.reports.evaluation import print_comparison

    if not (run / "adapter").is_dir():
        raise InputError(f"{run}: holds no adapter/; give the folder of a finished run")
    choice = choose(engine.value, device.value)
    print(f"{choice.line[0]}: {choice.reason}")
    result = run / "evaluation.json"
    comparisons = run_evaluation(run, sequences or _trained_on(run), split, choice, device.value, result)
    print_comparison(comparisons, Console())


def run_evaluation(
    run: Path, sequences: Path, split: str, choice: Choice, device: str, result: Path
) -> list[Comparison]:
    """Score the split under base and tuned, write `result`. Raises InputError where the split has no sequences."""
    from longrepo.curriculum.phases import phases_from
    from longrepo.engines.choose import create
    from longrepo.evaluation.compare import compare
    from longrepo.evaluation.result import write_result
    from longrepo.reports.progress import counting
    from longrepo.sequences.header import check_tokenizer
    from longrepo.sequences.store import read_sequences
    from longrepo.sequences.tokenizer import load_tokenizer

    if split not in ("validation", "test"):
        raise InputError(f"--split {split}: expected validation or test")
    settings: Settings = load_settings(run / "settings.yaml")
    file = read_sequences(sequences)
    held_out = file.column("split").count(split)
    if not held_out:
        raise InputError(f"{sequences}: holds no {split} sequences to compare on; prepare them again")
    tokenizer = load_tokenizer(settings.model.name, settings.model.revision, settings.data.structure_tokens)
    check_tokenizer(file.header, tokenizer)
    engine = create(choice, settings, tokenizer, device)
    engine.load_adapter(run / "adapter")
    caps = [phase.max_length for phase in phases_from(settings)]
    with counting("comparing base and tuned", held_out) as tick:
        comparisons = compare(engine, file, caps, split, tick)
    about = {"split": split, "sequences_sha256": file.content_sha256, "model": settings.model.name, **engine.facts()}
    write_result(result, comparisons, about)
    return comparisons


def _trained_on(run: Path) -> Path:
    state = run / "last" / "state.json"
    try:
        return Path(json.loads(state.read_text(encoding="utf-8"))["sequences"])
    except (OSError, ValueError, KeyError):
        raise InputError(f"{run}: doesn't say what it was trained on; give --sequences FILE") from None
