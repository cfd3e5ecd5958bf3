"""An evaluation from start to end: open a run, its sequences and their repositories, measure, and sum up.

`Amount` says how much is measured. Finished measurements are stored and not repeated; figures are means over the rows
of one kind, with their intervals.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from longrepo.config.schema import ContextSettings, Settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.data.dataset import SequenceFile, read_sequences
from longrepo.data.metadata import check_tokenizer
from longrepo.data.questions.write import match_folders
from longrepo.data.repo_tree import RepoTrees
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import base_tokenizer
from longrepo.engines.adapter_io import read_adapter_config
from longrepo.engines.registry import EngineSelection, create_engine
from longrepo.engines.tiers import TieredEngine, Tiers, model_tiers
from longrepo.errors import InputError
from longrepo.evaluation import completion, context_loss, held_out_loss, needle, questions
from longrepo.evaluation.blocks import EvalData, EvalRepository, index_training_rows
from longrepo.evaluation.context_loss import CONTEXTS, LINE_CLASSES
from longrepo.evaluation.held_out_loss import PREPARED, make_comparisons
from longrepo.evaluation.inputs import MEASUREMENTS_FILE, MeasurementStore, find_repositories
from longrepo.evaluation.results import (
    EVALUATION_FORMAT,
    Comparison,
    Estimate,
    Evaluation,
    Example,
    Figure,
    write_evaluation,
)
from longrepo.evaluation.scope_tasks import CALL_PARTS
from longrepo.evaluation.scoring import (
    FloatArray,
    Interval,
    Measurement,
    MeasurementRow,
    Measurements,
    paired_intervals,
)
from longrepo.evaluation.tasks import TASK_MEASURES, task_measurements
from longrepo.repository.repository import Repository
from longrepo.repository.scopes import SCOPES
from longrepo.rope.apply import describe_context
from longrepo.training.artifact import TrainedArtifact, find_artifact
from longrepo.training.checkpoint import STATE
from longrepo.utils import files
from longrepo.utils.cache import SqliteCache, cache_folder
from longrepo.utils.progress import Progress


class MetricInfo(NamedTuple):
    """A metric. `transform` is applied to its mean; `of_tokens`: the mean runs over tokens."""

    unit: str
    better: Literal["lower", "higher"]
    of_tokens: bool
    transform: Callable[[FloatArray], FloatArray] = lambda values: values


_SHARE_METRIC = MetricInfo("share", "higher", False)
METRICS = {
    "loss": MetricInfo("nats a token", "lower", True),
    "gain": MetricInfo("nats a token", "higher", True),
    "longppl": MetricInfo("perplexity", "lower", True, np.exp),
    "exact": _SHARE_METRIC,
    "right": _SHARE_METRIC,
    "edit": _SHARE_METRIC,
    "identifiers": _SHARE_METRIC,
}
MEASURES = (
    "context", "gain", "line", "completion", *TASK_MEASURES, "question", "needle", "longppl", "distance", "position",
    "short", "other",
)  # fmt: skip
_PART_ORDER = (
    *CONTEXTS,
    *LINE_CLASSES,
    "line",
    *SCOPES,
    "fim",
    *CALL_PARTS,
    "cross_file",
    "new",
    "seen",
    "all",
)  # of parts that are words


def make_figures(rows: Iterable[MeasurementRow], seed: int) -> list[Figure]:
    """Return one figure for each measure, metric and parts, in reading order."""
    found: defaultdict[tuple[object, ...], list[MeasurementRow]] = defaultdict(list)
    for row in rows:
        if row.count and row.measure != PREPARED:
            found[row.measure, row.metric, *sorted(row.parts.items())].append(row)
    return sorted((_make_figure(some, seed) for some in found.values()), key=_sort_key)


def _sort_key(figure: Figure) -> tuple[object, ...]:
    parts = [_part_rank(value) for _, value in sorted(figure.parts.items())]
    return MEASURES.index(figure.measure), list(METRICS).index(figure.metric), parts


def _part_rank(value: str | int) -> tuple[float, str]:
    """Rank numbers by value, negative ones (all, no limit) last, and words in the order of the documentation."""
    if isinstance(value, int):
        return (value if value >= 0 else np.inf, "")
    return (_PART_ORDER.index(value) if value in _PART_ORDER else -1, value)


def _make_figure(rows: Sequence[MeasurementRow], seed: int) -> Figure:
    first, metric = rows[0], METRICS[rows[0].metric]
    counts, groups = [row.count for row in rows], [row.group for row in rows]
    columns = [[row.base for row in rows], [row.tuned for row in rows]]
    base, tuned, difference = paired_intervals(columns, counts, groups, seed, transform=metric.transform)
    return Figure(
        measure=first.measure,
        metric=first.metric,
        parts=dict(first.parts),
        unit=metric.unit,
        better=metric.better,
        base=_make_estimate(base),
        tuned=_make_estimate(tuned),
        difference=_make_estimate(difference),
        samples=len(rows),
        tokens=round(sum(counts)) if metric.of_tokens else 0,
        groups=len(set(groups)),
        seed=seed,
    )


def _make_estimate(interval: Interval) -> Estimate:
    return Estimate(*interval)


@dataclass(frozen=True)
class Amount:
    """How much to measure: prepared `sequences` of each length (None: all), held-out `blocks` of lines, points of
    `completions` with the `tasks` at each, `questions`, `needles` at each of `depths` (percent), `files` of another
    repository; at `every_length`, or at the longest alone. The other tasks: losses at `scored` places of each, texts at
    the first `written` of them."""

    name: str
    sequences: int | None
    blocks: int
    completions: int
    tasks: tuple[str, ...]
    questions: int
    needles: int
    depths: tuple[int, ...]
    files: int
    every_length: bool = False
    scored: int = 0
    written: int = 0


FULL = Amount("full", None, 32, 48, tuple(completion.TASKS), 64, 4, (0, 25, 50, 75, 100), 40, True, 24, 12)
QUICK = Amount("quick", 4, 4, 3, ("line", "fim"), 2, 1, (50,), 4, scored=2, written=1)
GLANCE = Amount("glance", None, 4, 3, ("line",), 0, 0, (), 0, scored=2)  # the last stage of the pipeline


@dataclass(frozen=True)
class OtherRepository:
    """Another repository, at a commit."""

    trees: RepoTrees
    commit: str


def max_block_tokens(lengths: Sequence[int], most: int = 400) -> int:
    """Return the most tokens a held-out block may span: it must leave room for context at the shortest length."""
    return min(most, min(lengths) * 2 // 5)


def plan_measurements(
    data: EvalData, lengths: Sequence[int], amount: Amount, seed: int, others: Sequence[OtherRepository] = ()
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


def summarize_measurements(
    found: Sequence[Measurements], seed: int
) -> tuple[list[Comparison], list[Figure], list[Example]]:
    """Return the comparisons, figures and examples of all measurements."""
    rows = list(chain.from_iterable(one.rows for one in found))
    return make_comparisons(rows), make_figures(rows, seed), [example for one in found for example in one.examples]


@contextmanager
def open_eval_data(
    file: SequenceFile,
    tokenizer: RepoTokenizer,
    settings: Settings,
    given: Sequence[Path],
    others: Sequence[Path],
    watch: Progress,
) -> Iterator[tuple[EvalData, list[OtherRepository]]]:
    """Open the data to measure on, no blocks chosen yet, and the other repositories at HEAD, for the block's duration.

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
        for path in others:
            repository = Repository.open(path)
            commit = repository.resolve()
            if any(commit == facts.head for facts in file.header.repositories):
                repository.close()
                raise InputError(f"--other {path}: is the repository trained on; give another one")
            elsewhere.append(OtherRepository(RepoTrees(repository, commit, tokenizer, settings, cache), commit))
            stack.callback(elsewhere[-1].trees.close)
        with watch.count("reading what training shows (sequences)", len(file)) as done:
            seen = index_training_rows(file, tokenizer, lambda: done(1))
        yield EvalData(tokenizer, repositories, seen), elsewhere


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
    ) -> EvaluationRun:
        """Open a run; of an unfinished one, its best weights so far. `sequences` and `repos` are searched for if not
        given; `lengths` defaults to the longest of each phase; `asked`: the positions for lengths beyond its own.

        Raises InputError if something is missing, or doesn't belong together.
        """
        if split not in SPLITS:
            raise InputError(f"--split {split}: expected {' or '.join(SPLITS)}")
        source = find_artifact(run).on(None)
        settings = source.settings
        _check_base(source)
        tiers = model_tiers(settings.model, settings.context, asked, max((*lengths, *phase_caps(settings))))
        _check_lengths(lengths, tiers, settings.model.name)
        file = read_sequences(sequences or training_sequences_of(run))
        if file.header.repositories and not any(one.head for one in file.header.repositories):
            raise InputError(f"{file.path}: made of a text; only a repository has held-out commits to measure on")
        if split not in file.column("split"):
            raise InputError(f"{file.path}: holds no {split} sequences to compare on; prepare them again")
        folders = find_repositories(file, run, repos)
        tokenizer = base_tokenizer(settings)
        check_tokenizer(file.header, tokenizer)
        engine = create_engine(choice, settings, tokenizer, device)
        engine.load_adapter(source.adapter)
        chosen = sorted(set(lengths)) or [cap for cap in phase_caps(settings) if cap <= tiers.reach]
        notes = (*source.notes, *_extended_lengths(chosen, settings, tiers))
        return EvaluationRun(run, source, file, folders, split, chosen, tokenizer, TieredEngine(engine, tiers), notes)

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

    def measured(self, amount: Amount, others: Sequence[Path], result: Path, watch: Progress) -> Evaluation:
        """Measure as much as `amount` says and write `result`; finished measurements stay in the run's folder."""
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
            open_eval_data(self.file, self.tokenizer, settings, self.folders, others, watch) as (data, elsewhere),
            MeasurementStore(self.run / MEASUREMENTS_FILE, same) as store,
        ):
            watch.step("choosing held-out lines")
            data.choose(self.split, amount.blocks, max_block_tokens(self.lengths), seed)
            units = [
                *self._prepared(amount, store, data),
                *plan_measurements(data, self.lengths, amount, seed, elsewhere),
            ]
            units = [_with_positions(unit, tiers) for unit in units]
            with watch.count("measuring base and tuned", len(units)) as done, _finished_kept():
                found = run_measurements(self.adaptive, units, store, lambda: done(1))
            about |= {**data.facts(), "seconds": round(time.monotonic() - began, 1)}
            notes = [*self.notes, *self.file.header.notes, *data.notes]
        evaluation = Evaluation(about, *summarize_measurements(found, seed), notes)
        write_evaluation(result, evaluation)
        return evaluation

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


def training_sequences_of(run: Path) -> Path:
    """Return the path of the sequences that a run records as its training data."""
    try:
        return Path(json.loads((run / "last" / STATE).read_text(encoding="utf-8"))["sequences"])
    except (OSError, ValueError, KeyError):
        raise InputError(f"{run}: doesn't record what it was trained on; give --sequences FILE") from None


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
