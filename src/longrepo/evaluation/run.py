"""An evaluation from start to end: open a run, its sequences and their repositories, measure, and sum up.

`Amount` says how much is measured. Finished measurements are stored and not repeated; figures are means over the rows
of one kind, with their intervals.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from longrepo.config.schema import ContextSettings, Settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.data.dataset import SequenceFile, read_sequences
from longrepo.data.metadata import RepositoryFacts, check_tokenizer
from longrepo.data.questions.evidence import holds_commit
from longrepo.data.questions.write import match_folders, training_commit
from longrepo.data.repo_tree import RepoTrees
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import base_tokenizer
from longrepo.engines.adapter_io import read_adapter_config
from longrepo.engines.base import Engine
from longrepo.engines.registry import EngineSelection, create_engine
from longrepo.engines.tiers import TieredEngine, Tiers, model_tiers
from longrepo.errors import InputError
from longrepo.evaluation import completion, context_loss, held_out_loss, needle, questions
from longrepo.evaluation.against import OtherAdapter, TunedAlone, is_comparable, pair_adapters
from longrepo.evaluation.aggregation import make_figures, summarize_measurements
from longrepo.evaluation.blocks import EvalData, EvalRepository, index_training_rows
from longrepo.evaluation.controls import (
    NEUTRAL_TOKENS,
    ControlRepository,
    age_notes,
    change_rows,
    choose_control,
    control_measurements,
    neutral_measurements,
)
from longrepo.evaluation.inputs import MEASUREMENTS_FILE, MeasurementStore, find_repositories, recorded_sequences
from longrepo.evaluation.results import (
    EVALUATION_FORMAT,
    AgainstAdapter,
    Evaluation,
    write_evaluation,
)
from longrepo.evaluation.scoring import (
    Measurement,
    Measurements,
)
from longrepo.evaluation.tasks import task_measurements
from longrepo.repository.repository import Repository
from longrepo.rope.apply import describe_context
from longrepo.training.artifact import TrainedArtifact, find_artifact
from longrepo.utils import files
from longrepo.utils.cache import SqliteCache, cache_folder
from longrepo.utils.progress import Progress


@dataclass(frozen=True)
class Amount:
    """How much to measure: prepared `sequences` of each length (None: all), held-out `blocks` of lines, points of
    `completions` with the `tasks` at each, `questions`, `needles` at each of `depths` (percent), `files` of another
    repository, `neutral` pieces of code; at `every_length`, or at the longest alone. The other tasks: losses at
    `scored` places of each, texts at the first `written` of them."""

    name: str
    sequences: int | None
    blocks: int
    completions: int
    tasks: tuple[str, ...]
    questions: int
    needles: int
    depths: tuple[int, ...]
    files: int
    neutral: int
    every_length: bool = False
    scored: int = 0
    written: int = 0


FULL = Amount("full", None, 32, 48, tuple(completion.TASKS), 64, 4, (0, 25, 50, 75, 100), 40, 52, True, 24, 12)
QUICK = Amount("quick", 4, 4, 3, ("line", "fim"), 2, 1, (50,), 4, 9, scored=2, written=1)
GLANCE = Amount("glance", None, 4, 3, ("line",), 0, 0, (), 0, 9, scored=2)  # the last stage of the pipeline


@dataclass(frozen=True)
class OtherRepository:
    """Another repository, at a commit."""

    trees: RepoTrees
    commit: str


def max_block_tokens(lengths: Sequence[int], most: int = 400) -> int:
    """Return the most tokens a held-out block may span: it must leave room for context at the shortest length."""
    return min(most, min(lengths) * 2 // 5)


def plan_measurements(
    data: EvalData,
    lengths: Sequence[int],
    amount: Amount,
    seed: int,
    others: Sequence[OtherRepository] = (),
    controls: Sequence[ControlRepository] = (),
) -> Iterator[Measurement]:
    """Yield all measurements beyond the prepared sequences; completions and questions at the longest length alone."""
    longest = max(lengths)
    chosen = lengths if amount.every_length else [longest]
    yield from task_measurements(data, longest, amount.scored, amount.written, seed)
    yield from context_loss.context_measurements(data, chosen, seed)
    tasks = [task for task in amount.tasks if task != "fim" or data.tokenizer.fim is not None]
    if data.tokenizer.fim is None and (amount.scored or "fim" in amount.tasks):
        data.notes.append("the tokenizer has no fill-in-the-middle tokens, so no middle of a file is measured")
    completions = completion.completion_measurements(data, longest, tasks, amount.completions, seed)
    yield from _noted(completions, amount.completions, data, "completions: no held-out line is long enough")
    asked = questions.question_measurements(data, longest, amount.questions, seed)
    yield from _noted(asked, amount.questions, data, "questions: none could be made that training doesn't ask")
    yield from needle.needle_measurements(data, chosen, amount.depths, amount.needles, seed)
    for one in others:
        files = held_out_loss.forgetting_measurements(one.trees, one.commit, longest, amount.files, seed)
        reason = f"--other {one.trees.repository.name}: it has no code file of {held_out_loss.MIN_FILE_TOKENS} tokens"
        yield from _noted(files, amount.files, data, reason)
    for control in controls:
        yield from control_measurements(data, control, longest, seed)
    yield from neutral_measurements(data, amount.neutral, min(NEUTRAL_TOKENS, longest))


def _noted(found: Iterator[Measurement], wanted: int, data: EvalData, reason: str) -> Iterator[Measurement]:
    """Yield measurements; if there are none of those wanted, note why."""
    first = next(found, None)
    if first is not None:
        yield from chain([first], found)
    elif wanted and (data.held or reason.startswith("--other")):
        data.notes.append(f"{reason}, so nothing is measured")


def run_measurements(
    adaptive: TieredEngine, units: Sequence[Measurement], store: MeasurementStore, tick: Callable[[], None]
) -> list[Measurements]:
    """Run each measurement with the positions for its length, or take it from the store; `tick` is called for each."""
    found: list[Measurements] = []
    for unit in units:
        if unit.key not in store:
            adaptive.select_tier(unit.length)
            store.add(unit.key, unit.run(adaptive.engine))
        found.append(store[unit.key])
        tick()
    return found


@contextmanager
def open_eval_data(
    file: SequenceFile,
    tokenizer: RepoTokenizer,
    settings: Settings,
    given: Sequence[Path],
    others: Sequence[Path],
    watch: Progress,
    controls: Sequence[Path] = (),
) -> Iterator[tuple[EvalData, list[OtherRepository]]]:
    """Open the data to measure on, no blocks chosen yet, and the other repositories at HEAD, then the `controls`, for
    the block's duration.

    Raises InputError if a repository of the file is in none of the `given` folders, or another can't be read.
    """
    folders: Mapping[str, Path] = match_folders(file, given)
    with ExitStack() as stack:
        cache = SqliteCache(cache_folder())
        stack.callback(cache.close)
        repositories = []
        for facts in file.header.repositories:
            trees = RepoTrees(Repository.open(folders[facts.name]), facts.head, tokenizer, settings, cache, facts.name)
            repositories.append(EvalRepository(facts, trees))
            stack.callback(repositories[-1].close)
        elsewhere = []
        for option, path in (*(("--other", one) for one in others), *(("--control", one) for one in controls)):
            repository = Repository.open(path)
            stack.callback(repository.close)
            commit = repository.resolve()
            if any(_is_same(repository, commit, facts, option) for facts in file.header.repositories):
                raise InputError(f"{option} {path}: is the repository trained on; give another one")
            elsewhere.append(OtherRepository(RepoTrees(repository, commit, tokenizer, settings, cache), commit))
            stack.callback(elsewhere[-1].trees.close)
        with watch.count("reading what training shows (sequences)", len(file)) as done:
            seen = index_training_rows(file, tokenizer, lambda: done(1))
        yield EvalData(tokenizer, repositories, seen), elsewhere


def _is_same(repository: Repository, commit: str, facts: RepositoryFacts, option: str) -> bool:
    """Whether a repository is one that was prepared; as a control, a clone or fork of it at any commit is none."""
    if option == "--control":
        return holds_commit(repository.path, training_commit(facts))
    return commit == facts.head


SPLITS = ("validation", "test")
_MIN_LENGTH = 256  # tokens of the shortest sequence to measure on
_IDENTITY_KEYS = (
    "model",
    "revision",
    "split",
    "sequences_sha256",
    "engine",
    "dtype",
    "seed",
)  # what identifies a measurement, beside the adapter


@dataclass(frozen=True)
class EvaluationRun:
    """A run opened for evaluation. `folders`: the repositories; `lengths`: tokens, ascending; `notes`: substitutions
    made."""

    run: Path
    source: TrainedArtifact
    file: SequenceFile
    folders: Sequence[Path]
    split: str
    lengths: Sequence[int]
    tokenizer: RepoTokenizer
    adaptive: TieredEngine
    notes: tuple[str, ...]
    against: tuple[OtherAdapter, ...] = ()
    load: Callable[[TrainedArtifact], Engine] = field(kw_only=True)

    @staticmethod
    def of(
        run: Path,
        sequences: Path | None,
        repos: Sequence[Path],
        split: str,
        choice: EngineSelection,
        device: str,
        lengths: Sequence[int] = (),
        asked: ContextSettings | None = None,
        against: Sequence[Path] = (),
    ) -> EvaluationRun:
        """Open a run; of an unfinished one, its best weights so far. `sequences` and `repos` are searched for if not
        given; `lengths` defaults to the longest of each phase; `asked`: the positions for lengths beyond its own;
        `against`: other adapters of its base.

        Raises InputError if something is missing, or doesn't belong together.
        """
        if split not in SPLITS:
            raise InputError(f"--split {split}: expected {' or '.join(SPLITS)}")
        source = find_artifact(run).on(None)
        settings = source.settings
        _check_base(source)
        tiers = model_tiers(settings.model, settings.context, asked, max((*lengths, *phase_caps(settings))))
        _check_lengths(lengths, tiers, settings.model.name)
        file = read_sequences(sequences or recorded_sequences(run))
        if file.header.repositories and not any(one.head for one in file.header.repositories):
            raise InputError(f"{file.path}: made of a text; only a repository has held-out commits to measure on")
        if split not in file.column("split"):
            raise InputError(f"{file.path}: holds no {split} sequences to compare on; prepare them again")
        folders = find_repositories(file, run, repos)
        tokenizer = base_tokenizer(settings)
        check_tokenizer(file.header, tokenizer)
        chosen = sorted(set(lengths)) or [cap for cap in phase_caps(settings) if cap <= tiers.reach]
        rivals = tuple(OtherAdapter.find(path, source, file, chosen, asked) for path in against)

        def load(trained: TrainedArtifact) -> Engine:
            engine = create_engine(choice, trained.settings, tokenizer, device)
            engine.load_adapter(trained.adapter)
            return engine

        notes = (*source.notes, *_extended_lengths(chosen, settings, tiers), *(n for one in rivals for n in one.notes))
        adaptive = TieredEngine(load(source), tiers)
        return EvaluationRun(run, source, file, folders, split, chosen, tokenizer, adaptive, notes, rivals, load=load)

    @property
    def about(self) -> dict[str, Any]:
        """What is measured, and on what data."""
        settings = self.source.settings
        return {
            "model": settings.model.name,
            "revision": settings.model.revision,
            "split": self.split,
            "seed": settings.training.seed,
            "sequences_sha256": self.file.content_sha256,
            **self.adaptive.engine.facts(),
        }

    def measured(
        self, amount: Amount, others: Sequence[Path], result: Path, watch: Progress, controls: Sequence[Path] = ()
    ) -> Evaluation:
        """Measure as much as `amount` says and write `result`; finished measurements stay in the run's folder. With
        adapters to measure `against`, the last of them is what stays loaded."""
        began, settings = time.monotonic(), self.source.settings
        seed, tiers = settings.training.seed, self.adaptive.tiers
        about = {**self.about, "lengths": self.lengths, "amount": amount.name}
        about["positions"] = {n: tiers.tier_for(n).context.model_dump(mode="json") for n in self.lengths}
        same = {
            "format": EVALUATION_FORMAT,
            "adapter": _hash_files(self.source.files),
            **{name: about[name] for name in _IDENTITY_KEYS},
        }
        with (
            open_eval_data(self.file, self.tokenizer, settings, self.folders, others, watch, controls) as (
                data,
                elsewhere,
            ),
            MeasurementStore(self.run / MEASUREMENTS_FILE, same) as store,
            _finished_kept(),
        ):
            watch.step("choosing held-out lines")
            size = max_block_tokens(self.lengths)
            data.choose(self.split, amount.blocks, size, seed)
            given = elsewhere[: len(others)], elsewhere[len(others) :]
            chosen = [choose_control(one.trees, data, amount.blocks, size, seed) for one in given[1]]
            blocks = [*data.held, *(block for one in chosen for block in one.blocks)]
            data.notes += age_notes(settings.model.name, blocks, self.split)
            units = [
                *self._prepared(amount, store, data),
                *plan_measurements(data, self.lengths, amount, seed, given[0], chosen),
            ]
            with watch.count("measuring base and tuned", len(units)) as done:
                placed = [_with_positions(unit, tiers) for unit in units]
                found = run_measurements(self.adaptive, placed, store, lambda: done(1))
            against = [self._measure_against(one, units, found, same, watch) for one in self.against]
            repositories = [one.trees.repository for one in data.repositories]
            data.notes += (note for one in self.against for note in one.overlap_notes(self.file, repositories))
            about |= {**data.facts(), "seconds": round(time.monotonic() - began, 1)}
            notes = [*self.notes, *self.file.header.notes, *data.notes]
        evaluation = Evaluation(about, *summarize_measurements(found, seed, max(self.lengths)), notes, against)
        write_evaluation(result, evaluation)
        return evaluation

    def _measure_against(
        self,
        other: OtherAdapter,
        units: Sequence[Measurement],
        own: Sequence[Measurements],
        same: Mapping[str, Any],
        watch: Progress,
    ) -> AgainstAdapter:
        """Measure another adapter where it has a fair chance; only one model is loaded at a time."""
        digest, seed, length = _hash_files(other.source.files), self.source.settings.training.seed, max(self.lengths)
        both = [(unit, one) for unit, one in zip(units, own, strict=True) if is_comparable(unit.key)]
        placed = [_with_positions(unit, other.tiers) for unit, _ in both]
        with MeasurementStore(self.run / f"measurements-{digest[:12]}.jsonl", {**same, "adapter": digest}) as store:
            if not all(unit.key in store for unit in placed):
                self.adaptive.exchange(lambda: cast(Engine, TunedAlone(self.load(other.source))), other.tiers)
            with watch.count(f"measuring {other.name}", len(placed)) as done:
                found = run_measurements(self.adaptive, placed, store, lambda: done(1))
        paired = [pair_adapters(one, theirs) for (_, one), theirs in zip(both, found, strict=True)]
        rows = [row for one in paired for row in (*one.rows, *change_rows(one, length, retrieval=False))]
        return AgainstAdapter(other.name, digest, make_figures(rows, seed))

    def _prepared(self, amount: Amount, store: MeasurementStore, data: EvalData) -> list[Measurement]:
        """Return the measurements of as many prepared sequences as `amount` says, and of those measured before."""
        every, some = (
            list(held_out_loss.prepared_measurements(self.file, phase_caps(self.source.settings), self.split, most))
            for most in (None, amount.sequences)
        )
        chosen, reach = {unit.key for unit in some}, self.adaptive.tiers.reach
        longest = max(phase_caps(self.source.settings))
        in_split = zip(self.file.column("split"), self.file.lengths().tolist(), strict=True)
        if longer := sum(split == self.split and length > longest for split, length in in_split):
            data.notes.append(
                f"{longer} held-out sequences are longer than the run's longest phase ({longest:,} tokens) and aren't "
                "compared"
            )
        return [unit for unit in every if unit.length <= reach and (unit.key in chosen or unit.key in store)]


@contextmanager
def _finished_kept() -> Iterator[None]:
    """Note on Ctrl-C that what was measured is kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note("finished measurements are kept; the same command goes on from there")
        raise


def phase_caps(settings: Settings) -> list[int]:
    """Return the longest length of each phase."""
    return [phase.max_length for phase in make_schedule(settings)]


def _check_base(source: TrainedArtifact) -> None:
    if source.whole:
        return
    named, wanted = read_adapter_config(source.adapter).get("base_model_name_or_path"), source.settings.model.name
    if named != wanted:
        raise InputError(
            f"{source.adapter}: is an adapter for {named}, but its run was for {wanted}; put back the run's own adapter"
        )


def _check_lengths(lengths: Sequence[int], tiers: Tiers, name: str) -> None:
    for length in lengths:
        if length < _MIN_LENGTH:
            raise InputError(f"--length {length}: expected {_MIN_LENGTH} tokens or more")
        if length > tiers.reach:
            raise InputError(f"--length {length}: {name} holds {tiers.reach} positions: {tiers.remedy_for(length)}")


def _extended_lengths(lengths: Sequence[int], settings: Settings, tiers: Tiers) -> Iterator[str]:
    trained = (phase.max_length for phase in make_schedule(settings) if phase.epochs)
    if left_out := [f"{cap:,}" for cap in trained if cap > tiers.reach]:
        yield f"phases of {', '.join(left_out)} tokens are left out: the model's positions reach {tiers.reach:,}"
    for length in lengths:
        if (context := tiers.tier_for(length).context) != tiers.trained:
            yield (
                f"{length:,} tokens: longer than the positions in training, measured with others "
                f"({describe_context(context)})"
            )


def _with_positions(unit: Measurement, tiers: Tiers) -> Measurement:
    """Add the positions to a measurement's key if they aren't those of training."""
    context = tiers.tier_for(unit.length).context
    if context == tiers.trained:
        return unit
    digest = hashlib.sha256(context.model_dump_json().encode()).hexdigest()
    return replace(unit, key=f"{unit.key}@{digest[:12]}")


def _hash_files(paths: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(files.sha256_of(path)) for path in paths)).hexdigest()
