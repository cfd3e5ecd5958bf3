"""Repositories -> all sequences.

Puts together what was built from one or more repositories: held-out sequences, labels, accounts, header, summary.

From repositories to all their sequences: what `prepare_long_context.py` does.

Where `prepare` puts what it made: the sequences' folder and the summary beside it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from longrepo.config.schema import Settings
from longrepo.data import held_out
from longrepo.data.corpus import HELD_OUT, Corpus, commit_candidates, read_corpus, target_size
from longrepo.data.dataset import Row, placed, write_sequences
from longrepo.data.dedup import Shown
from longrepo.data.difficulty import Scorer, judge_by_model, label, quantile_thresholds
from longrepo.data.finished import Finished
from longrepo.data.held_out import Candidate, HeldOutBuilder, TargetChooser
from longrepo.data.metadata import Header, TokenizerFacts
from longrepo.data.mixture import PhaseAccount, PhaseBuilder
from longrepo.data.packing import Band, bands, phase_of
from longrepo.data.questions.generate import ChangeFact, Question, Source, left_out, questions
from longrepo.data.summary import counts, summarise
from longrepo.data.template import Built
from longrepo.data.text import NotBuilt, TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.workers import AnalysisPool, Reader
from longrepo.errors import InputError
from longrepo.redaction.redactor import Redactor
from longrepo.repository.repository import Repository
from longrepo.utils import hashing
from longrepo.utils.cache import Cache
from longrepo.utils.files import write_text
from longrepo.utils.progress import Unwatched, Watch


@dataclass(frozen=True)
class Origin:
    """A repository to prepare: which commit, and how often each of its tokens is to be seen in a phase (0.5: half of
    its sequences; 2: all of them twice, with other neighbours)."""

    repository: Repository
    commit: str = "HEAD"
    weight: float = 1.0


@dataclass
class Tools:
    """What preparation works with. `workers`: processes that analyse texts; `scorer`: the base model, where it is to
    judge difficulty too."""

    tokenizer: RepoTokenizer
    cache: Cache = field(default_factory=Cache)
    workers: int = 1
    watch: Watch = field(default_factory=Unwatched)
    scorer: Scorer | None = None


@dataclass
class Prepared:
    """All sequences (training by phase, then validation, then test), the file header, the summary, and where something
    was redacted: (file or commit:file, line, kind). `finished`: where the result is to be kept."""

    sequences: list[Built]
    header: Header
    summary: dict[str, Any] = field(default_factory=dict)
    redacted: list[tuple[str, int, str]] = field(default_factory=list)
    finished: Finished | None = None

    def rows(self, done: Callable[[int], None] = lambda _: None) -> Iterator[Row]:
        """The sequences as they are written, one at a time; `done` is told of each."""
        if self.finished and self.finished.known:
            yield from self.finished.rows()
        for built in self.sequences:
            yield row_of(built)
            done(1)


def row_of(built: Built) -> Row:
    """A sequence with its arrays."""
    ids, weights = built.draft.arrays()
    return Row(
        ids, weights, built.kind, built.difficulty, built.score, built.parts, built.files, built.commits,
        built.language, built.split, built.repository,
    )  # fmt: skip


@dataclass
class Part:
    """What one repository gives: its corpus, its training sequences with their accounts, and the texts they show."""

    corpus: Corpus
    training: list[Built] = field(default_factory=list)
    accounts: dict[int, PhaseAccount] = field(default_factory=dict)
    states: list[TokenizedText] = field(default_factory=list)

    def shown(self) -> Iterator[TokenizedText]:
        """Every text of which training shows a part."""
        yield from self.corpus.texts.values()
        yield from (link.step.of for link in self.corpus.links)
        yield from self.states


def assemble(
    origins: Sequence[Origin],
    settings: Settings,
    tools: Tools,
    chosen: Sequence[Band],
    notes: Sequence[str],
    made_by: str,
    build: Callable[[Part, float], None],
) -> Prepared:
    """Read each repository and `build` its training sequences, add the held-out ones, label difficulty by the training
    split's quantiles, write header and summary."""
    names = _distinct([origin.repository.name for origin in origins])
    parts: list[Part] = []
    with ExitStack() as stack:
        for origin, name in zip(origins, names, strict=True):
            reader = _reader(origin, settings, tools)
            stack.callback(reader.pool.close)
            part = Part(read_corpus(reader, settings, origin.commit, chosen, tools.watch))
            part.corpus.facts.name, part.corpus.facts.weight = name, origin.weight
            build(part, origin.weight)
            reader.pool.close()
            parts.append(part)
        # What one repository's training shows, another's held-out lines must not be.
        shown = Shown(tools.tokenizer, (text for part in parts for text in part.shown()))
        held = [one for part in parts for one in _held_out(part, shown, chosen, tools.watch)]
    training = [one for part in parts for one in part.training]
    if not training:
        raise InputError(
            f"{', '.join(names)}: too little text for a sequence of {chosen[0].floor + 1} tokens or more; "
            "lower long_context.phase1_max_length or give a larger repository"
        )
    listed = list(chosen)
    training.sort(key=lambda one: phase_of(len(one), listed))
    sequences = [*training, *(one for split in ("validation", "test") for one in held if one.split == split)]
    if tools.scorer is not None:
        with tools.watch.count("judging difficulty with the base model", len(sequences)) as done:
            for one in sequences:
                judge_by_model(one, tools.scorer)
                done(1)
    thresholds = _relabel(sequences, listed)
    parts[0].corpus.facts.notes.extend([*notes, *_unfilled(training, listed)])
    redactions = sum((part.corpus.reader.found for part in parts), start=Counter[str]())
    header = Header(
        TokenizerFacts.of(tools.tokenizer),
        [part.corpus.facts for part in parts],
        settings=_settings_hash(settings, chosen),
        made_by=made_by,
        seed=settings.training.seed,
        bands=[asdict(band) for band in chosen],
        counts=counts(sequences, listed),
        accounts={str(band.phase): _account(parts, band) for band in chosen},
        thresholds=thresholds,
        redactions=dict(sorted(redactions.items())),
        rows=len(sequences),
    )
    redacted = sorted(place for part in parts for place in part.corpus.reader.places)
    return Prepared(sequences, header, summarise([part.corpus for part in parts], header), redacted)


def _reader(origin: Origin, settings: Settings, tools: Tools) -> Reader:
    data = settings.data
    redactor = Redactor(origin.repository.people(origin.commit)) if data.redact else None
    pool = AnalysisPool(tools.tokenizer, redactor, data.context_weight, tools.workers)
    return Reader(
        origin.repository, tools.tokenizer, redactor, pool, tools.cache, data.max_file_bytes, data.context_weight
    )


def _unfilled(training: Sequence[Built], chosen: list[Band]) -> Iterator[str]:
    """A note on each phase that no training sequence is long enough for."""
    built = {phase_of(len(one), chosen) for one in training}
    for band in chosen:
        if band.phase not in built:
            yield f"phase {band.phase}: the repository's text does not fill {band.floor + 1} tokens"


def _account(parts: Sequence[Part], band: Band) -> dict[str, Any]:
    """The accounts of all repositories for one phase, added up, as header and summary hold them."""
    total = PhaseAccount()
    for part in parts:
        total += part.accounts[band.phase]
    return {
        key: dict(sorted(value.items())) if isinstance(value, dict) else value for key, value in vars(total).items()
    }


def _held_out(part: Part, shown: Shown, chosen: Sequence[Band], watch: Watch) -> list[Built]:
    """Every target at the length of every band, scored on lines that no text shown in training holds."""
    corpus = part.corpus
    watch.step(f"{corpus.facts.name}: building the held-out sequences")
    data, seed = corpus.settings.data, corpus.settings.training.seed
    chooser = TargetChooser(corpus.reader, shown, target_size(chosen), seed)
    wanted = dict.fromkeys(HELD_OUT, data.held_out_per_length)
    found = chooser.choose(commit_candidates(corpus.reader, corpus.splits, data.max_commits), wanted)
    if corpus.held:
        files = {
            split: [Candidate(split, text.path, corpus.entries[text.path].blob) for text in corpus.held.get(split, ())]
            for split in HELD_OUT
        }
        more = chooser.choose(files, {split: wanted[split] - len(found[split]) for split in HELD_OUT})
        found = {split: found[split] + more[split] for split in HELD_OUT}
    for split, targets in found.items():
        if len(targets) < min(held_out.ENOUGH, data.held_out_per_length):
            corpus.facts.notes.append(f"{split}: only {len(targets)} targets; figures on so few say little")
    builder = HeldOutBuilder(corpus.facts.name, corpus.sizes, corpus.texts, corpus.related, corpus.rank)
    built: list[Built] = []
    for band in chosen:
        for target in (target for targets in found.values() for target in targets):
            sequence = builder.build(target, band)
            if isinstance(sequence, NotBuilt):
                corpus.targets_dropped[f"phase {band.phase}: {sequence.reason}"] += 1
            else:
                built.append(sequence)
    corpus.judge(built)
    return built


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that tell the repositories apart: a second `api` is `api-2`."""
    found: list[str] = []
    for name in names:
        number, distinct = 2, name
        while distinct in found:
            distinct, number = f"{name}-{number}", number + 1
        found.append(distinct)
    return found


def _relabel(sequences: Sequence[Built], chosen: list[Band]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for band in chosen:
        of_phase = [one for one in sequences if phase_of(len(one), chosen) == band.phase]
        limits = quantile_thresholds(one.score for one in of_phase if one.split == "train")
        found[str(band.phase)] = list(limits)
        for one in of_phase:
            one.difficulty = label(one.score, limits)
    return found


def _settings_hash(settings: Settings, chosen: Sequence[Band]) -> str:
    """Of every setting that decides what the sequences are, and none that doesn't."""
    decides = [settings.data.model_dump(mode="json"), [asdict(band) for band in chosen], settings.training.seed]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


_SPARE = 20
BELOW_ONE = "left out by the repository's weight"


def prepare(
    origins: Sequence[Origin], settings: Settings, tools: Tools, phases: int = 3, max_length: int = 2048
) -> Prepared:
    """Build the sequences of phases 1..`phases` from repositories and their history.

    Raises InputError where one holds nothing to train on, or there aren't as many phases.
    """
    chosen, notes = bands(settings.long_context, phases, max_length)
    origins = [replace(one, commit=one.repository.resolve(one.commit)) for one in origins]
    finished = _finished(origins, settings, tools, chosen, notes) if tools.scorer is None else None
    if finished and finished.known:
        return Prepared([], finished.header, finished.summary, finished=finished)

    def build(part: Part, weight: float) -> None:
        corpus = part.corpus
        planned = [(band, turn, share) for band in chosen for turn, share in enumerate(_turns(weight))]
        with ThreadPoolExecutor(1) as beside:  # other processes analyse while sequences are put together here
            builders: list[tuple[PhaseBuilder, Future[None]]] = []
            for band, turn, _ in planned:
                builder = PhaseBuilder(corpus, band, turn, tools.watch)
                builder.pack()
                builders.append((builder, beside.submit(builder.read_states)))
            beside.submit(corpus.reader.pool.close)  # its processes take memory
            asked, dropped = _ask(corpus, chosen)
            for (band, _, share), (builder, states) in zip(planned, builders, strict=True):
                _use(part, band, builder, builder.build(asked, states), share)
        for band in chosen:
            part.accounts[band.phase].questions_dropped += dropped

    made = assemble(origins, settings, tools, chosen, notes, "prepare", build)
    made.finished = finished
    return made


def _finished(
    origins: Sequence[Origin], settings: Settings, tools: Tools, chosen: Sequence[Band], notes: Sequence[str]
) -> Finished:
    repositories = [[one.repository.name, one.commit, one.weight, one.repository.state()] for one in origins]
    tokenizer = [tools.tokenizer.name, tools.tokenizer.sha256, dict(tools.tokenizer.structure_ids)]
    decides = [settings.data.model_dump(mode="json"), settings.training.seed, [asdict(band) for band in chosen], notes]
    return Finished(tools.cache, repositories, tokenizer, decides)


def _use(part: Part, band: Band, builder: PhaseBuilder, built: Sequence[Built], share: float) -> None:
    """Take a share of what was built, chosen by hash, into the repository's part, and count the rest."""
    kept = [one for number, one in enumerate(built) if share >= 1 or _kept(part.corpus, band, number, share)]
    used = sum(one.draft.roles["target"] for one in kept)
    if used < builder.account.used:
        builder.account.dropped[BELOW_ONE] += builder.account.used - used
        builder.account.used = used
    account = part.accounts.setdefault(band.phase, PhaseAccount())
    account += builder.account
    part.training += kept
    part.states += builder.states


def _ask(corpus: Corpus, chosen: Sequence[Band]) -> tuple[list[Question], Counter[str]]:
    sources = [Source(path, text.text, text.language, text.outline) for path, text in corpus.texts.items()]
    changes = [ChangeFact(link.commit, link.path, link.message, link.files) for link in corpus.links]
    outside = left_out(corpus.reader.repository.path, corpus.splits.train, corpus.texts)
    data = corpus.settings.data
    sequences = sum(map(len, corpus.texts.values())) / chosen[0].cap / (1 - data.commit_share - data.question_share)
    enough = _SPARE + int(2 * sequences * data.question_share)  # of each kind: not all can be written
    found = questions(sources, corpus.graph, changes, corpus.settings.training.seed, enough, outside)
    for text in corpus.texts.values():
        text.forget_outline()
    return found


def _turns(weight: float) -> list[float]:
    """How much of each packing is used: 2.5 is two whole ones and half of a third."""
    whole = int(weight)
    return [1.0] * whole + ([weight - whole] if weight > whole else [])


def _kept(corpus: Corpus, band: Band, number: int, share: float) -> bool:
    return hashing.share(corpus.settings.training.seed, "weight", corpus.facts.name, band.phase, number) < share


SEQUENCES = "sequences"
SUMMARY = "preparation_summary.json"
REDACTIONS = "redactions.tsv"


def check_writable(folder: Path) -> None:
    """Raise InputError now, not after the work, where `folder` can't be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({error.strerror or error}); give another folder") from None


def write_prepared(folder: Path, prepared: Prepared, watch: Watch | None = None) -> Header:
    """Write `sequences/`, `preparation_summary.json` and `redactions.tsv` (where something was hidden and of what kind,
    never what) into a folder; returns the header as written.

    Raises InputError or RunError as `write_sequences` does.
    """
    sequences, finished = folder / SEQUENCES, prepared.finished
    if finished and finished.known:
        header, texts = finished.header, finished.texts
        if not finished.stands_in(sequences):
            with placed(sequences) as beside:
                finished.write(beside)
    else:
        with (watch or Unwatched()).count("writing sequences", len(prepared.sequences)) as done:
            header = write_sequences(sequences, prepared.rows(done), prepared.header)
        summary = {**prepared.summary, "sequences_sha256": header.content_sha256}
        lines = [f"{where}\t{line}\t{kind}" for where, line, kind in prepared.redacted]
        texts = {
            SUMMARY: json.dumps(summary, indent=2) + "\n",
            REDACTIONS: "\n".join(["where\tline\tkind", *lines]) + "\n",
        }
        if finished:
            finished.keep(sequences, header, prepared.summary, texts)
    for name, text in texts.items():
        write_text(folder / name, text)
    return header
