"""Puts together what was built from one or more repositories: held-out sequences, labels, accounts, header, summary."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.redaction.redactor import Redactor
from longrepo.repository.repository import Repository
from longrepo.sequences import held_out
from longrepo.sequences.cache import Cache
from longrepo.sequences.corpus import Corpus
from longrepo.sequences.corpus_reading import HELD_OUT, commit_candidates, read_corpus, target_size
from longrepo.sequences.difficulty import label, quantile_thresholds
from longrepo.sequences.draft import Built
from longrepo.sequences.finished import Finished
from longrepo.sequences.header import Header, TokenizerFacts
from longrepo.sequences.held_out import Candidate, HeldOutBuilder, TargetChooser
from longrepo.sequences.lengths import Band, phase_of
from longrepo.sequences.model_difficulty import Scorer, judge_by_model
from longrepo.sequences.pool import AnalysisPool
from longrepo.sequences.reading import Reader
from longrepo.sequences.rows import Row
from longrepo.sequences.sequence import NotBuilt
from longrepo.sequences.shown import Shown
from longrepo.sequences.summary import counts, summarise
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.training_set import PhaseAccount
from longrepo.sequences.watch import Unwatched, Watch


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
