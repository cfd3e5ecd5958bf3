"""`longrepo evaluate`: base against tuned on what the repository's held-out commits added."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrepo.commands.arguments import EngineName, EngineOption
from longrepo.commands.train import Device
from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.engines.base import Engine
    from longrepo.engines.choose import Choice
    from longrepo.evaluation.measuring import Amount
    from longrepo.evaluation.result import Comparison, Evaluation
    from longrepo.sequences.store import SequenceFile
    from longrepo.sequences.tokenizer import RepoTokenizer

RESULT = "evaluation.json"
_DECIDES = ("model", "revision", "split", "sequences_sha256", "engine", "dtype")  # what a kept measurement is of


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, as --output of training named it.")],
    repo: Annotated[
        list[Path] | None, typer.Option(help="The repository trained on; may be repeated. Default: this folder.")
    ] = None,
    sequences: Annotated[
        Path | None, typer.Option(help="The file of sequences; default: the one the run was trained on.")
    ] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    quick: Annotated[bool, typer.Option("--quick", help="Few samples.")] = False,
    other: Annotated[
        list[Path] | None, typer.Option(help="Another repository: is what the base knew forgotten? May be repeated.")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Tokens; may be repeated. Default: the longest of each phase.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to score.")] = Device.auto,
    engine: EngineOption = EngineName.auto,
) -> None:
    """Compare base and tuned on lines that training never saw; writes evaluation.json, goes on where it was stopped."""
    from rich.console import Console

    from longrepo.engines.choose import choose
    from longrepo.evaluation.measuring import FULL, QUICK
    from longrepo.reports.evaluation import print_evaluation

    if not (run / "adapter").is_dir():
        raise InputError(f"{run}: holds no adapter/; give the folder of a run that has finished")
    choice = choose(engine.value, device.value)
    print(f"{choice.line[0]}: {choice.reason}")
    loaded = Loaded.of(run, sequences or _trained_on(run), split, choice, device.value)
    found = loaded.measured(QUICK if quick else FULL, repo or [Path()], other or (), length or (), run / RESULT)
    print_evaluation(found, Console())


def run_evaluation(
    run: Path, sequences: Path, split: str, choice: Choice, device: str, result: Path
) -> list[Comparison]:
    """Score the split as prepared under base and tuned, write `result`. Raises InputError where there is none of it."""
    from longrepo.evaluation.compare import compare
    from longrepo.evaluation.result import write_result
    from longrepo.reports.progress import counting

    loaded = Loaded.of(run, sequences, split, choice, device)
    with counting("comparing base and tuned", loaded.file.column("split").count(split)) as tick:
        comparisons = compare(loaded.engine, loaded.file, loaded.lengths, split, tick)
    write_result(result, comparisons, loaded.about)
    return comparisons


@dataclass(frozen=True)
class Loaded:
    """A run's model with its adapter, and the sequences that it is compared on."""

    run: Path
    settings: Settings
    file: SequenceFile
    split: str
    tokenizer: RepoTokenizer
    engine: Engine

    @staticmethod
    def of(run: Path, sequences: Path, split: str, choice: Choice, device: str) -> Loaded:
        """Raises InputError where the split has no sequences."""
        from longrepo.engines.choose import create
        from longrepo.sequences.header import check_tokenizer
        from longrepo.sequences.store import read_sequences
        from longrepo.sequences.tokenizer import load_tokenizer

        if split not in ("validation", "test"):
            raise InputError(f"--split {split}: expected validation or test")
        settings: Settings = load_settings(run / "settings.yaml")
        file = read_sequences(sequences)
        if split not in file.column("split"):
            raise InputError(f"{sequences}: holds no {split} sequences to compare on; prepare them again")
        tokenizer = load_tokenizer(settings.model.name, settings.model.revision, settings.data.structure_tokens)
        check_tokenizer(file.header, tokenizer)
        engine = create(choice, settings, tokenizer, device)
        engine.load_adapter(run / "adapter")
        return Loaded(run, settings, file, split, tokenizer, engine)

    @property
    def lengths(self) -> list[int]:
        """The longest of each phase."""
        from longrepo.curriculum.phases import phases_from

        return [phase.max_length for phase in phases_from(self.settings)]

    @property
    def about(self) -> dict[str, Any]:
        """What is measured on what."""
        model = self.settings.model
        names = {"model": model.name, "revision": model.revision, "split": self.split}
        return {**names, "sequences_sha256": self.file.content_sha256, **self.engine.facts()}

    def measured(
        self, amount: Amount, given: Sequence[Path], others: Sequence[Path], lengths: Sequence[int], result: Path
    ) -> Evaluation:
        """Measure all there is to measure and write `result`, with the finished measurements beside it."""
        from longrepo.evaluation import compare
        from longrepo.evaluation.measuring import block_size, measure, plan, summed
        from longrepo.evaluation.opening import opened
        from longrepo.evaluation.result import Evaluation, write_evaluation
        from longrepo.evaluation.store import MEASUREMENTS, Store
        from longrepo.reports.progress import Terminal

        watch, began, seed = Terminal(), time.monotonic(), self.settings.training.seed
        chosen = _checked(lengths) or self.lengths
        about = {**self.about, "seed": seed, "lengths": chosen, "amount": amount.name}
        same = {"adapter": _digest(self.run / "adapter"), "seed": seed, **{name: about.get(name) for name in _DECIDES}}
        with (
            opened(self.file, self.tokenizer, self.settings, given, others, watch) as (material, elsewhere),
            Store(result.with_name(MEASUREMENTS), same) as store,
        ):
            watch.step("choosing held-out lines")
            material.choose(self.split, amount.blocks, block_size(chosen), seed)
            units = [
                *compare.units(self.file, self.lengths, self.split),
                *plan(material, chosen, amount, seed, elsewhere),
            ]
            with watch.count("measuring base and tuned", len(units)) as done:
                found = measure(self.engine, units, store, lambda: done(1))
            about |= {**material.facts(), "seconds": round(time.monotonic() - began, 1)}
            notes = [*self.file.header.notes, *material.notes]
        evaluation = Evaluation(about, *summed(found, seed), notes)
        write_evaluation(result, evaluation)
        return evaluation


def _checked(lengths: Sequence[int]) -> list[int]:
    if wrong := [length for length in lengths if length < 256]:
        raise InputError(f"--length {wrong[0]}: expected 256 tokens or more")
    return sorted(set(lengths))


def _digest(folder: Path) -> str:
    files = sorted(folder.glob("adapter_*"))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _trained_on(run: Path) -> Path:
    state = run / "last" / "state.json"
    try:
        return Path(json.loads(state.read_text(encoding="utf-8"))["sequences"])
    except (OSError, ValueError, KeyError):
        raise InputError(f"{run}: doesn't say what it was trained on; give --sequences FILE") from None
