"""Another adapter of the same base, measured on the lines that a run is measured on: its own against the other's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longrepo.config.schema import ContextSettings
from longrepo.data.dataset import SequenceFile, read_sequences
from longrepo.data.metadata import check_tokenizer
from longrepo.data.questions.evidence import holds_commit
from longrepo.data.questions.write import training_commit
from longrepo.engines.base import Batch, Engine
from longrepo.engines.tiers import Tiers, model_tiers
from longrepo.errors import InputError
from longrepo.evaluation.held_out_loss import PREPARED
from longrepo.evaluation.inputs import recorded_sequences
from longrepo.evaluation.scoring import MeasurementRow, Measurements
from longrepo.repository.repository import Repository
from longrepo.training.artifact import TrainedArtifact, find_artifact

_OWN_FORM = (PREPARED, "question", "needle")  # measures in a form that the run's sequences teach


@dataclass(frozen=True)
class OtherAdapter:
    """Another adapter, to be measured on the base and at the lengths of a run. `name`: as given."""

    name: str
    source: TrainedArtifact
    tiers: Tiers
    notes: tuple[str, ...]

    @staticmethod
    def find(
        path: Path, own: TrainedArtifact, file: SequenceFile, lengths: Sequence[int], asked: ContextSettings | None
    ) -> OtherAdapter:
        """Find it. Raises InputError, in one line, if it isn't there, or can't be measured in place of `own`."""
        given = f"--against {path}"
        try:
            other = find_artifact(path).on(None)
            if other.adapter.resolve() == own.adapter.resolve():
                raise InputError("is the run itself; give another run, or an adapter's folder")
            if _base_of(other) != _base_of(own):
                raise InputError(
                    f"was tuned on {other.settings.model.name}, the run on {own.settings.model.name}: only adapters of "
                    "one base can be compared"
                )
            check_tokenizer(file.header, other.load_tokenizer())
            model = own.settings.model
            tiers = model_tiers(model, other.settings.context, asked, max(lengths))
        except InputError as error:
            raise InputError(f"{given}: {_without(str(error), path)}") from None
        if tiers.reach < max(lengths):
            raise InputError(
                f"{given}: its positions reach {tiers.reach:,} tokens, the run is measured at {max(lengths):,}; give "
                f"--length {tiers.reach}"
            )
        notes = [f"{given}: {note}" for note in other.notes]
        if other.run and other.settings.model.quantization != model.quantization:
            notes.append(f"{given}: trained on a base in {other.settings.model.quantization}, measured on the run's")
        settings = other.settings.model_copy(update={"model": model})
        return OtherAdapter(str(path), replace(other, settings=settings), tiers, tuple(notes))

    def overlap_notes(self, file: SequenceFile, repositories: Sequence[Repository]) -> Iterator[str]:
        """Yield what is to be said if its training may have shown it lines that the run holds out."""
        try:
            header = read_sequences(recorded_sequences(self.source.run or Path())).header
        except InputError:
            yield f"--against {self.name}: what it was trained on isn't recorded; it may have seen the held-out lines"
            return
        for facts, repository in zip(file.header.repositories, repositories, strict=True):
            for other in header.repositories:
                end = training_commit(other)
                if holds_commit(repository.path, end) and repository.beyond(end, training_commit(facts)):
                    yield (
                        f"--against {self.name}: it was trained on {facts.name} up to {end[:10]}, beyond what the run "
                        "was: it may have seen held-out lines"
                    )


def _base_of(source: TrainedArtifact) -> tuple[str, str | None]:
    name = source.settings.model.name
    folder = Path(name).expanduser()
    return (str(folder.resolve()) if folder.exists() else name), source.settings.model.revision


def _without(message: str, path: Path) -> str:
    return message.removeprefix(f"{path}: ")


class TunedAlone:
    """An engine whose base isn't computed: without its adapter it scores 0 and writes nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tuned = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def score(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Return the tuned model's losses, or zeros."""
        return self._engine.score(batch) if self._tuned else np.zeros(batch.input_ids.shape, np.float32)

    def generate(self, prompt: Sequence[int], max_new_tokens: int, **options: Any) -> list[int]:
        """Return what the tuned model writes, or nothing."""
        return self._engine.generate(prompt, max_new_tokens, **options) if self._tuned else []

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Compute nothing inside."""
        self._tuned = False
        try:
            yield
        finally:
            self._tuned = True


def is_comparable(key: str) -> bool:
    """Whether a measurement, by its key, is one that another adapter has a fair chance at: not one in the form that the
    run's own sequences teach."""
    return key.partition("/")[0] not in _OWN_FORM


def pair_adapters(own: Measurements, other: Measurements) -> Measurements:
    """Return the rows that two adapters have of one measurement, with the other's sums in the base's place."""
    others: defaultdict[tuple[object, ...], list[MeasurementRow]] = defaultdict(list)
    for row in other.rows:
        others[_identity(row)].append(row)
    rows = []
    for row in own.rows:
        same = others[_identity(row)]
        if same:
            rows.append(replace(row, base=same.pop(0).tuned))
    return Measurements(rows)


def _identity(row: MeasurementRow) -> tuple[object, ...]:
    return row.measure, row.metric, tuple(sorted(row.parts.items())), row.group, row.count
