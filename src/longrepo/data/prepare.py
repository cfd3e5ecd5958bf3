"""Prepares all sequences of some repositories, and writes them.

`prepare_sequences` is the list of steps that `longrepo prepare`, `longrepo tokenize` and the pipeline share: read and
split each repository, build its training sequences, hold out, label, describe. A `SequencePlan` says which sequences
are built. `write_prepared` writes them with their summary.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from longrepo.config.schema import Settings
from longrepo.data import held_out
from longrepo.data.chunks import build_chunks
from longrepo.data.corpus import HELD_OUT_SPLITS, Corpus, candidates_by_split, max_target_size, read_corpus
from longrepo.data.dataset import SEQUENCES_FOLDER, write_sequences
from longrepo.data.dedup import TrainingTexts
from longrepo.data.difficulty import Scorer, add_model_difficulty, difficulty_label, quantile_thresholds
from longrepo.data.held_out import Candidate, HeldOutBuilder, TargetChooser
from longrepo.data.marks import MarksKind
from longrepo.data.metadata import PLAIN_CHUNKS, PREPARATION_VERSION, Header, TokenizerFacts
from longrepo.data.mixture import PhaseAccount, PhaseMixture
from longrepo.data.packing import Band, Positions, phase_bands, phase_of, reachable_phases
from longrepo.data.questions.generate import make_questions
from longrepo.data.questions.sources import ChangedFile, SourceFile, read_excluded_files, read_subjects
from longrepo.data.questions.write import QuestionPool
from longrepo.data.rows import SequenceRow
from longrepo.data.sequence import NotBuilt
from longrepo.data.summary import count_sequences, summarize
from longrepo.data.template import BuiltSequence
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.workers import CachedReader, ExtractionPool, selection_of
from longrepo.errors import InputError
from longrepo.redaction.redactor import Redactor
from longrepo.repository.repository import Repository
from longrepo.utils import hashing
from longrepo.utils.cache import SqliteCache
from longrepo.utils.files import existing_folder, write_text_file
from longrepo.utils.progress import NoProgress, Progress


@dataclass(frozen=True)
class RepositorySpec:
    """A repository to prepare at a commit. `weight`: how often each of its tokens appears in a phase (0.5: half of its
    sequences; 2: all of them twice, with other neighbors)."""

    repository: Repository
    commit: str = "HEAD"
    weight: float = 1.0


@dataclass
class PreparationTools:
    """The tools of preparation. `workers`: processes that extract features; `scorer`: the base model, if it is to judge
    difficulty too; `positions`: how far the base's positions reach."""

    tokenizer: RepoTokenizer
    cache: SqliteCache = field(default_factory=SqliteCache)
    workers: int = 1
    watch: Progress = field(default_factory=NoProgress)
    scorer: Scorer | None = None
    positions: Positions = lambda _: None


@dataclass
class PreparedData:
    """All sequences (training by phase, then validation, then test), the file header, the summary, and the places of
    redactions: (file or commit:file, line, kind)."""

    sequences: list[BuiltSequence]
    header: Header
    summary: dict[str, Any] = field(default_factory=dict)
    redacted: list[tuple[str, int, str]] = field(default_factory=list)

    def rows(self, done: Callable[[int], None] = lambda _: None) -> Iterator[SequenceRow]:
        """The sequences as they are written, one at a time; `done` is told of each."""
        for built in self.sequences:
            yield row_from_built(built)
            done(1)


def row_from_built(built: BuiltSequence) -> SequenceRow:
    """A sequence with its arrays."""
    ids, weights = built.builder.arrays()
    return SequenceRow(
        ids, weights, built.kind, built.difficulty, built.score, built.parts, built.files, built.commits,
        built.language, built.split, built.repository,
    )  # fmt: skip


@dataclass
class RepositoryPart:
    """What one repository gives: its corpus, its training sequences with their accounts, and the texts they show."""

    corpus: Corpus
    training: list[BuiltSequence] = field(default_factory=list)
    accounts: dict[int, PhaseAccount] = field(default_factory=dict)
    states: list[TokenizedText] = field(default_factory=list)

    def shown(self) -> Iterator[TokenizedText]:
        """Yield every text that training shows a part of."""
        yield from self.corpus.texts.values()
        yield from (change.step.of for change in self.corpus.training_changes)
        yield from self.states


@dataclass(frozen=True)
class SequencePlan(ABC):
    """Which sequences to build of each repository: their lengths and settings. `notes` and `made_by` go into the
    header."""

    settings: Settings
    bands: list[Band]
    notes: list[str]
    made_by: str

    @abstractmethod
    def build(self, part: RepositoryPart, watch: Progress) -> None:
        """Build a repository's training sequences into its part, with an account for each band."""


def prepare_sequences(origins: Sequence[RepositorySpec], plan: SequencePlan, tools: PreparationTools) -> PreparedData:
    """Prepare the sequences of repositories, labeled and described, training first.

    Raises InputError if a repository holds nothing to train on, or all of them together too little.
    """
    names = _unique_names([origin.repository.name for origin in origins])
    parts: list[RepositoryPart] = []
    with ExitStack() as pools:
        for origin, name in zip(origins, names, strict=True):
            part = _read_part(origin, name, plan, tools, pools)
            plan.build(part, tools.watch)
            part.corpus.reader.pool.close()  # its processes take memory
            parts.append(part)
        held = _hold_out(parts, plan.bands, tools)
    sequences = _in_order(parts, held, plan.bands)
    _judge_difficulty(sequences, tools)
    thresholds = _label_by_phase(sequences, plan.bands)
    header = _describe(parts, sequences, thresholds, plan, tools)
    redacted = sorted(place for part in parts for place in part.corpus.reader.redaction_places)
    return PreparedData(sequences, header, summarize([part.corpus for part in parts], header), redacted)


def _read_part(
    origin: RepositorySpec, name: str, plan: SequencePlan, tools: PreparationTools, pools: ExitStack
) -> RepositoryPart:
    """Read and split a repository; its reader's processes end with `pools` at the latest."""
    reader = _make_reader(origin, plan.settings, tools)
    pools.callback(reader.pool.close)
    part = RepositoryPart(read_corpus(reader, plan.settings, origin.commit, plan.bands, tools.watch))
    part.corpus.facts.name, part.corpus.facts.weight = name, origin.weight
    return part


def _hold_out(parts: Sequence[RepositoryPart], bands: Sequence[Band], tools: PreparationTools) -> list[BuiltSequence]:
    """Build the held-out sequences of all repositories. No held-out line of one is shown by another's training."""
    shown = TrainingTexts(tools.tokenizer, (text for part in parts for text in part.shown()))
    return [one for part in parts for one in _build_held_out(part, shown, bands, tools.watch)]


def _in_order(parts: Sequence[RepositoryPart], held: Sequence[BuiltSequence], bands: list[Band]) -> list[BuiltSequence]:
    """Order sequences: training by phase, then validation, then test. Raises InputError without training sequences."""
    training = [one for part in parts for one in part.training]
    if not training:
        raise InputError(
            f"{', '.join(part.corpus.facts.name for part in parts)}: too little text for a sequence of "
            f"{bands[0].floor + 1} tokens or more; lower long_context.phase1_max_length or give a larger repository"
        )
    training.sort(key=lambda one: phase_of(len(one), bands))
    return [*training, *(one for split in HELD_OUT_SPLITS for one in held if one.split == split)]


def _judge_difficulty(sequences: Sequence[BuiltSequence], tools: PreparationTools) -> None:
    """Add the base model's judgment if there is a scorer."""
    if tools.scorer is None:
        return
    with tools.watch.count("judging difficulty with the base model", len(sequences)) as done:
        for one in sequences:
            add_model_difficulty(one, tools.scorer)
            done(1)


def _describe(
    parts: Sequence[RepositoryPart],
    sequences: Sequence[BuiltSequence],
    thresholds: dict[str, list[float]],
    plan: SequencePlan,
    tools: PreparationTools,
) -> Header:
    """Return the header: tokenizer, repositories with their notes, settings, counts, accounts."""
    training = [one for one in sequences if one.split == "train"]
    parts[0].corpus.facts.notes.extend([*plan.notes, *_unfilled_phase_notes(training, plan.bands)])
    redactions = sum((part.corpus.reader.found for part in parts), start=Counter[str]())
    return Header(
        TokenizerFacts.of(tools.tokenizer),
        [part.corpus.facts for part in parts],
        settings=_settings_hash(plan.settings, plan.bands, tools.tokenizer.kind),
        made_by=plan.made_by,
        seed=plan.settings.training.seed,
        bands=[asdict(band) for band in plan.bands],
        counts=count_sequences(sequences, plan.bands),
        accounts={str(band.phase): _total_account(parts, band) for band in plan.bands},
        thresholds=thresholds,
        redactions=dict(sorted(redactions.items())),
        rows=len(sequences),
        preparation=PREPARATION_VERSION,
    )


def _make_reader(origin: RepositorySpec, settings: Settings, tools: PreparationTools) -> CachedReader:
    data = settings.data
    origin.repository.choose_files(origin.commit, selection_of(data))
    redactor = Redactor(origin.repository.people(origin.commit)) if data.redact else None
    pool = ExtractionPool(tools.tokenizer, redactor, data.context_weight, tools.workers)
    return CachedReader(
        origin.repository, tools.tokenizer, redactor, pool, tools.cache, data.max_file_bytes, data.context_weight
    )


def _unfilled_phase_notes(training: Sequence[BuiltSequence], chosen: list[Band]) -> Iterator[str]:
    """Yield a note on each phase that no training sequence is long enough for."""
    built = {phase_of(len(one), chosen) for one in training}
    for band in chosen:
        if band.phase not in built:
            yield f"phase {band.phase}: the repository's text does not fill {band.floor + 1} tokens"


def _total_account(parts: Sequence[RepositoryPart], band: Band) -> dict[str, Any]:
    """Return the sum of all repositories' accounts for one phase, as header and summary hold it."""
    total = PhaseAccount()
    for part in parts:
        total += part.accounts[band.phase]
    return {
        key: dict(sorted(value.items())) if isinstance(value, dict) else value for key, value in vars(total).items()
    }


_WITHOUT = {
    "validation": "training holds out some of its own sequences instead",
    "test": "whether tuning helped can't be measured",
}


def _build_held_out(
    part: RepositoryPart, shown: TrainingTexts, chosen: Sequence[Band], watch: Progress
) -> list[BuiltSequence]:
    """Build every target at the length of every band, scored on lines that no text shown in training holds."""
    corpus = part.corpus
    watch.step(f"{corpus.facts.name}: building the held-out sequences")
    data, seed = corpus.settings.data, corpus.settings.training.seed
    chooser = TargetChooser(corpus.reader, shown, max_target_size(chosen), seed)
    wanted = dict.fromkeys(HELD_OUT_SPLITS, data.held_out_per_length)
    found = chooser.choose(candidates_by_split(corpus.reader, corpus.splits, data.max_commits), wanted)
    if corpus.held:
        files = {
            split: [Candidate(split, text.path, corpus.entries[text.path].blob) for text in corpus.held.get(split, ())]
            for split in HELD_OUT_SPLITS
        }
        more = chooser.choose(files, {split: wanted[split] - len(found[split]) for split in HELD_OUT_SPLITS})
        found = {split: found[split] + more[split] for split in HELD_OUT_SPLITS}
    for split, targets in found.items():
        if not targets:
            corpus.facts.notes.append(f"{split}: no targets, so there are no figures: {_WITHOUT[split]}")
        elif len(targets) < min(held_out.ENOUGH_TARGETS, data.held_out_per_length):
            corpus.facts.notes.append(f"{split}: only {len(targets)} targets; figures on so few say little")
    builder = HeldOutBuilder(corpus.facts.name, corpus.sizes, corpus.used, corpus.graph, corpus.related, corpus.rank)
    built: list[BuiltSequence] = []
    for band in chosen:
        for target in (target for targets in found.values() for target in targets):
            sequence = builder.build(target, band)
            if isinstance(sequence, NotBuilt):
                corpus.targets_dropped[f"phase {band.phase}: {sequence.reason}"] += 1
            else:
                built.append(sequence)
    corpus.score_difficulty(built)
    return built


def _unique_names(names: Sequence[str]) -> list[str]:
    """Return distinct names of the repositories: a second `api` is `api-2`."""
    found: list[str] = []
    for name in names:
        number, distinct = 2, name
        while distinct in found:
            distinct, number = f"{name}-{number}", number + 1
        found.append(distinct)
    return found


def _label_by_phase(sequences: Sequence[BuiltSequence], chosen: list[Band]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for band in chosen:
        of_phase = [one for one in sequences if phase_of(len(one), chosen) == band.phase]
        limits = quantile_thresholds(one.score for one in of_phase if one.split == "train")
        found[str(band.phase)] = list(limits)
        for one in of_phase:
            one.difficulty = difficulty_label(one.score, limits)
    return found


def _settings_hash(settings: Settings, chosen: Sequence[Band], marks: MarksKind) -> str:
    """Return a hash of exactly the settings that decide the sequences' content."""
    data = settings.data.model_dump(mode="json")
    data["structure_tokens"] = {"added": True, "none": False}.get(marks, marks)  # two kinds were once a switch
    decides = [data, [asdict(band) for band in chosen], settings.training.seed]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


_SPARE_QUESTIONS = 20
_ENOUGH_QUESTIONS = 0.75  # of their share; less is noted
BELOW_FULL_WEIGHT = "left out by the repository's weight"


def prepare(
    origins: Sequence[RepositorySpec],
    settings: Settings,
    tools: PreparationTools,
    phases: int = 3,
    max_length: int = 2048,
) -> PreparedData:
    """Build the sequences of phases 1..`phases` from repositories and their history.

    Raises InputError if one holds nothing to train on, there aren't as many phases, or the positions don't reach one.
    """
    phases, unreached = reachable_phases(settings, phases, tools.positions)
    bands, notes = phase_bands(settings, phases, max_length)
    if settings.data.fim_share and tools.tokenizer.fim_note:
        notes.append(tools.tokenizer.fim_note)
    if tools.tokenizer.kind == "native" and tools.tokenizer.marks.is_text:
        notes.append(
            f"the tokenizer of {tools.tokenizer.name} has no tokens for files, so a line of text comes before each: "
            f"{tools.tokenizer.marks.header_line('path/of/a/file').strip()} (data.structure_tokens)"
        )
    origins = [replace(one, commit=one.repository.resolve(one.commit)) for one in origins]
    notes = [*unreached, *notes]
    if settings.data.recipe == "plain":
        return prepare_sequences(origins, PlainPlan(settings, bands, notes, PLAIN_CHUNKS), tools)
    return prepare_sequences(origins, LongContextPlan(settings, bands, notes, "prepare"), tools)


class LongContextPlan(SequencePlan):
    """A plan for files with their context, commits and questions, mixed for each band."""

    def build(self, part: RepositoryPart, watch: Progress) -> None:
        """Pack each band as often as the repository's weight says, and take a share of the last packing."""
        corpus, shares = part.corpus, _pass_shares(part.corpus.facts.weight)
        planned = [(band, turn, share) for band in self.bands for turn, share in enumerate(shares)]
        with ThreadPoolExecutor(1) as beside:  # other processes analyze while sequences are put together here
            builders: list[tuple[PhaseMixture, Future[None]]] = []
            for band, turn, _ in planned:
                builder = PhaseMixture(corpus, band, turn, watch)
                builder.pack()
                builders.append((builder, beside.submit(builder.read_states)))
            beside.submit(corpus.reader.pool.close)  # its processes take memory
            asked, dropped = _make_questions(corpus, self.bands)
            for number, ((band, _, share), (builder, states)) in enumerate(zip(planned, builders, strict=True)):
                most = asked.left // (len(planned) - number)  # the phases ask about as much, each question once
                _take_share(part, band, builder.account, builder.build(asked, most, states), share)
                part.states += builder.states
        corpus.facts.notes += _question_notes(part)
        for band in self.bands:
            part.accounts[band.phase].questions_dropped += dropped


class PlainPlan(SequencePlan):
    """A plan for chunks of single files."""

    def build(self, part: RepositoryPart, watch: Progress) -> None:
        """Cut the repository's text as often as its weight says, and take a share of the last cutting."""
        for band in self.bands:
            for turn, share in enumerate(_pass_shares(part.corpus.facts.weight)):
                built, account = build_chunks(part.corpus, band, turn, watch)
                _take_share(part, band, account, built, share)


def _take_share(
    part: RepositoryPart, band: Band, account: PhaseAccount, built: Sequence[BuiltSequence], share: float
) -> None:
    """Add a share of the built sequences, chosen by hash, to the repository's part, and count the rest as dropped."""
    kept = [one for number, one in enumerate(built) if share >= 1 or _is_kept(part.corpus, band, number, share)]
    used = sum(one.builder.roles["target"] for one in kept)
    if used < account.used:
        account.dropped[BELOW_FULL_WEIGHT] += account.used - used
        account.used = used
    total = part.accounts.setdefault(band.phase, PhaseAccount())
    total += account
    part.training += kept


def _question_notes(part: RepositoryPart) -> Iterator[str]:
    """Yield a note if the questions are much less than their share of the training tokens."""
    asked = sum(len(one) for one in part.training if one.kind == "qa")
    sizes, wanted = [len(one) for one in part.training], part.corpus.settings.data.question_share
    total = sum(sizes)
    missing = wanted * total - asked
    if missing > (1 - _ENOUGH_QUESTIONS) * wanted * total and missing > max(sizes, default=0):
        yield (
            f"questions are {asked / max(1, total):.1%} of the training tokens, not {wanted:.1%} "
            "(data.question_share): the repository offers no more that have one answer and stand beside others"
        )


def _make_questions(corpus: Corpus, chosen: Sequence[Band]) -> tuple[QuestionPool, Counter[str]]:
    hides = corpus.reader.hides
    sources = [
        SourceFile(path, text.text, text.language, text.outline, hides(path)) for path, text in corpus.texts.items()
    ]
    changes = [ChangedFile(link.commit, link.path, link.message, link.files) for link in corpus.training_changes]
    outside = read_excluded_files(corpus.reader.repository.path, corpus.splits.train, corpus.texts)
    data = corpus.settings.data
    sequences = sum(map(len, corpus.texts.values())) / chosen[0].cap / (1 - data.commit_share - data.question_share)
    # Of each kind; several go into a sequence, and only those about the same files.
    enough = _SPARE_QUESTIONS + int(20 * sequences * data.question_share) if data.question_share else 0
    subjects = read_subjects(corpus.reader.repository.path, corpus.splits.train)
    found, dropped = make_questions(
        sources, corpus.graph, changes, corpus.settings.training.seed, enough, outside, subjects
    )
    for text in corpus.texts.values():
        text.forget_outline()
    return QuestionPool(found), dropped


def _pass_shares(weight: float) -> list[float]:
    """Return how much of each packing is used: 2.5 is two whole ones and half of a third."""
    whole = int(weight)
    return [1.0] * whole + ([weight - whole] if weight > whole else [])


def _is_kept(corpus: Corpus, band: Band, number: int, share: float) -> bool:
    return (
        hashing.seeded_uniform(corpus.settings.training.seed, "weight", corpus.facts.name, band.phase, number) < share
    )


SUMMARY_FILE = "preparation_summary.json"
REDACTIONS_FILE = "redactions.tsv"


def check_writable(folder: Path) -> None:
    """Raise InputError before any work if `folder` can't be made or written to. Makes nothing."""
    if folder.is_file():
        raise InputError(f"{folder}: is a file; give a folder")
    try:
        with tempfile.TemporaryFile(dir=existing_folder(folder)):
            pass
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({error.strerror or error}); give another folder") from None


def write_prepared(folder: Path, prepared: PreparedData, watch: Progress | None = None) -> Header:
    """Write `sequences/`, `preparation_summary.json` and `redactions.tsv` (place and kind of each redaction, never the
    text) into a folder; return the header as written.

    Raises InputError or RunError as `write_sequences` does.
    """
    with (watch or NoProgress()).count("writing sequences", len(prepared.sequences)) as done:
        header = write_sequences(folder / SEQUENCES_FOLDER, prepared.rows(done), prepared.header)
    summary = {**prepared.summary, "sequences_sha256": header.content_sha256}
    write_text_file(folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    lines = [f"{where}\t{line}\t{kind}" for where, line, kind in prepared.redacted]
    write_text_file(folder / REDACTIONS_FILE, "\n".join(["where\tline\tkind", *lines]) + "\n")
    return header
