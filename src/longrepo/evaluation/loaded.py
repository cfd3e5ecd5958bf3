"""A run's base and what it was tuned to, and the sequences that it is compared on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings, Settings
from longrepo.context.recorded import said
from longrepo.context.tiers import Tiers
from longrepo.curriculum.phases import phases_from
from longrepo.engines.adaptive import Adaptive, tiers_for
from longrepo.engines.choose import Choice, create
from longrepo.errors import InputError
from longrepo.evaluation import compare
from longrepo.evaluation.measured import Unit
from longrepo.evaluation.measuring import Amount, block_size, measure, plan, summed
from longrepo.evaluation.opening import opened
from longrepo.evaluation.recorded import repositories
from longrepo.evaluation.result import FORMAT, Evaluation, write_evaluation
from longrepo.evaluation.store import MEASUREMENTS, Store
from longrepo.export.source import Source, find_source, read_adapter_config
from longrepo.sequences.header import check_tokenizer
from longrepo.sequences.store import SequenceFile, read_sequences
from longrepo.sequences.tokenizer import RepoTokenizer, load_tokenizer
from longrepo.sequences.watch import Watch
from longrepo.training import disk
from longrepo.training.checkpoint import STATE

SPLITS = ("validation", "test")
_LEAST = 256  # tokens of a sequence to measure on
_DECIDES = ("model", "revision", "split", "sequences_sha256", "engine", "dtype", "seed")  # what a measurement is of


@dataclass(frozen=True)
class Loaded:
    """`folders`: the repositories. `lengths`: tokens, ascending. `notes`: what stands for what was asked for."""

    run: Path
    source: Source
    file: SequenceFile
    folders: Sequence[Path]
    split: str
    lengths: Sequence[int]
    tokenizer: RepoTokenizer
    adaptive: Adaptive
    notes: tuple[str, ...]

    @staticmethod
    def of(
        run: Path,
        sequences: Path | None,
        repos: Sequence[Path],
        split: str,
        choice: Choice,
        device: str,
        lengths: Sequence[int] = (),
        asked: ContextSettings | None = None,
    ) -> Loaded:
        """An unfinished run's best weights so far stand for it. `sequences` and `repos` are looked for where none are
        given; `lengths`: default: the longest of each phase; `asked`: the positions of those beyond its own reach.

        Raises InputError where something of it isn't there, or doesn't belong together.
        """
        if split not in SPLITS:
            raise InputError(f"--split {split}: expected {' or '.join(SPLITS)}")
        source = find_source(run).on(None)
        settings = source.settings
        _check_base(source)
        tiers = tiers_for(settings.model, settings.context, asked, max((*lengths, *caps(settings))))
        _check_lengths(lengths, tiers, settings.model.name)
        file = read_sequences(sequences or trained_on(run))
        if file.header.repositories and not any(one.head for one in file.header.repositories):
            raise InputError(f"{file.path}: made of a text, and only a repository has held-out commits to measure on")
        if split not in file.column("split"):
            raise InputError(f"{file.path}: holds no {split} sequences to compare on; prepare them again")
        folders = repositories(file, run, repos)
        tokenizer = load_tokenizer(settings.model.name, settings.model.revision, settings.data.structure_tokens)
        check_tokenizer(file.header, tokenizer)
        engine = create(choice, settings, tokenizer, device)
        engine.load_adapter(source.adapter)
        chosen = sorted(set(lengths)) or [cap for cap in caps(settings) if cap <= tiers.reach]
        notes = (*source.notes, *_beyond(chosen, settings, tiers))
        return Loaded(run, source, file, folders, split, chosen, tokenizer, Adaptive(engine, tiers), notes)

    @property
    def about(self) -> dict[str, Any]:
        """What is measured on what."""
        settings = self.source.settings
        return {
            "model": settings.model.name,
            "revision": settings.model.revision,
            "split": self.split,
            "seed": settings.training.seed,
            "sequences_sha256": self.file.content_sha256,
            **self.adaptive.engine.facts(),
        }

    def measured(self, amount: Amount, others: Sequence[Path], result: Path, watch: Watch) -> Evaluation:
        """Measure what `amount` says and write `result`; finished measurements are kept in the run's folder."""
        began, settings = time.monotonic(), self.source.settings
        seed, tiers = settings.training.seed, self.adaptive.tiers
        about = {**self.about, "lengths": self.lengths, "amount": amount.name}
        about["positions"] = {n: tiers.holding(n).context.model_dump(mode="json") for n in self.lengths}
        same = {"format": FORMAT, "adapter": _digest(self.source.files), **{name: about[name] for name in _DECIDES}}
        with (
            opened(self.file, self.tokenizer, settings, self.folders, others, watch) as (material, elsewhere),
            Store(self.run / MEASUREMENTS, same) as store,
        ):
            watch.step("choosing held-out lines")
            material.choose(self.split, amount.blocks, block_size(self.lengths), seed)
            units = [*self._prepared(amount, store), *plan(material, self.lengths, amount, seed, elsewhere)]
            units = [_positioned(unit, tiers) for unit in units]
            with watch.count("measuring base and tuned", len(units)) as done:
                found = measure(self.adaptive, units, store, lambda: done(1))
            about |= {**material.facts(), "seconds": round(time.monotonic() - began, 1)}
            notes = [*self.notes, *self.file.header.notes, *material.notes]
        evaluation = Evaluation(about, *summed(found, seed), notes)
        write_evaluation(result, evaluation)
        return evaluation

    def _prepared(self, amount: Amount, store: Store) -> list[Unit]:
        """Of the sequences as prepared so many, and those that were measured before."""
        every, some = (
            list(compare.units(self.file, caps(self.source.settings), self.split, most))
            for most in (None, amount.sequences)
        )
        chosen, reach = {unit.key for unit in some}, self.adaptive.tiers.reach
        return [unit for unit in every if unit.length <= reach and (unit.key in chosen or unit.key in store)]


def caps(settings: Settings) -> list[int]:
    """The longest length of each phase."""
    return [phase.max_length for phase in phases_from(settings)]


def trained_on(run: Path) -> Path:
    """The sequences that a run says it was trained on."""
    try:
        return Path(json.loads((run / "last" / STATE).read_text(encoding="utf-8"))["sequences"])
    except (OSError, ValueError, KeyError):
        raise InputError(f"{run}: doesn't say what it was trained on; give --sequences FILE") from None


def _check_base(source: Source) -> None:
    if source.whole:
        return
    named, wanted = read_adapter_config(source.adapter).get("base_model_name_or_path"), source.settings.model.name
    if named != wanted:
        raise InputError(
            f"{source.adapter}: is an adapter for {named}, and its run was made for {wanted}; put its own adapter there"
        )


def _check_lengths(lengths: Sequence[int], tiers: Tiers, name: str) -> None:
    for length in lengths:
        if length < _LEAST:
            raise InputError(f"--length {length}: expected {_LEAST} tokens or more")
        if length > tiers.reach:
            raise InputError(f"--length {length}: {name} holds {tiers.reach} positions: {tiers.way_out(length)}")


def _beyond(lengths: Sequence[int], settings: Settings, tiers: Tiers) -> Iterator[str]:
    trained = (phase.max_length for phase in phases_from(settings) if phase.epochs)
    if left_out := [f"{cap:,}" for cap in trained if cap > tiers.reach]:
        yield f"phases of {', '.join(left_out)} tokens are left out: its positions reach {tiers.reach:,}"
    for length in lengths:
        if (context := tiers.holding(length).context) != tiers.trained:
            yield f"{length:,} tokens: longer than its positions were trained for, measured at others ({said(context)})"


def _positioned(unit: Unit, tiers: Tiers) -> Unit:
    """Its key says at which positions it is measured, where these aren't those of training."""
    context = tiers.holding(unit.length).context
    if context == tiers.trained:
        return unit
    digest = hashlib.sha256(context.model_dump_json().encode()).hexdigest()
    return replace(unit, key=f"{unit.key}@{digest[:12]}")


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(disk.sha256_of(file)) for file in files)).hexdigest()
