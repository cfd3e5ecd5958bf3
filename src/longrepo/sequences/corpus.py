"""What sequences are made of: the training files and changes, tokenized, and the held-out targets kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.repository.imports import ImportGraph, import_graph
from longrepo.repository.model import Snapshot, TextFile
from longrepo.repository.repository import Repository
from longrepo.sequences import held_out
from longrepo.sequences.chains import Chain, Link, links, tokenize_links
from longrepo.sequences.difficulty import Names, judge
from longrepo.sequences.draft import Draft
from longrepo.sequences.header import RepositoryFacts
from longrepo.sequences.lengths import Band
from longrepo.sequences.sequence import LongContextSequence, NotBuilt
from longrepo.sequences.splits import Splits, choose_files, split_by_ancestry
from longrepo.sequences.text import TokenizedText, tokenize_files
from longrepo.sequences.tokenizer import RepoTokenizer

Say = Callable[[str], None]
_DATA = ("JSON", "CSV", "XML")
_LARGE_DATA = 20_000  # characters
_RELATED = 40  # files looked at around a target or a question


@dataclass
class Corpus:
    """`files` and `texts` are the training snapshot's without held-out files; `rank` orders definitions first."""

    tokenizer: RepoTokenizer
    settings: Settings
    facts: RepositoryFacts
    snapshot: Snapshot
    files: list[TextFile]
    texts: dict[str, TokenizedText]
    graph: ImportGraph
    names: Names
    links: list[Link]
    chains: list[Chain]
    targets: list[held_out.Target]
    rank: dict[str, int] = field(default_factory=dict)
    commits_left_out: Counter[str] = field(default_factory=Counter)
    changes_left_out: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)  # held-out sequences not built, by reason

    def __post_init__(self) -> None:
        self.rank = {path: place for place, path in enumerate(self.graph.definitions_first(self.graph.imports))}
        self.related = lru_cache(maxsize=4096)(lambda path: self.graph.related(path, _RELATED))

    def neighbours(self, path: str) -> Sequence[str]:
        """Files one import away, what is imported first."""
        return (*self.graph.imports.get(path, ()), *self.graph.imported_by.get(path, ()))

    def judge(self, draft: Draft, sequence: LongContextSequence) -> LongContextSequence:
        """The sequence with its difficulty, by what the training snapshot knows."""
        return judge(draft, sequence, self.names)

    def held_out(self, bands: Sequence[Band]) -> list[LongContextSequence]:
        """Every target at the length of every band."""
        builder = held_out.HeldOutBuilder(self.tokenizer, self.texts, self.related, self.rank, self.judge)
        built: list[LongContextSequence] = []
        for band in bands:
            for target in self.targets:
                sequence = builder.build(target, band)
                if isinstance(sequence, NotBuilt):
                    self.dropped[f"phase {band.phase}: {sequence.reason}"] += 1
                else:
                    built.append(sequence)
        return built


def read_corpus(
    repository: Repository, settings: Settings, tokenizer: RepoTokenizer, commit: str, bands: Sequence[Band], say: Say
) -> Corpus:
    """Read, split and tokenize a repository. Raises InputError where it holds no text to train on."""
    data = settings.data
    say("choosing the splits")
    splits = split_by_ancestry(repository, data, commit)
    facts = RepositoryFacts(
        repository.name, splits.head, splits.train, splits.validation, notes=[*repository.notes, *splits.notes]
    )
    snapshot = _without_data(repository.snapshot(splits.train, data.max_file_bytes))
    if not any(file.text.strip() for file in snapshot.files):
        raise InputError(f"{repository.name}: no text files at {splits.train[:10]}, so there is nothing to prepare")
    say(f"reading history up to {splits.train[:10]}")
    commits_left_out: Counter[str] = Counter()
    limit = _history_characters(settings, snapshot)
    found, changes = links(
        repository.commits(splits.train, limit=data.max_commits, left_out=commits_left_out), frozenset(), limit
    )
    targets = _commit_targets(repository, settings, tokenizer, bands, splits, snapshot, found)
    held = _files_to_hold_out(settings, tokenizer, snapshot, targets, facts)
    if held:
        found, changes = links(repository.commits(splits.train, limit=data.max_commits), held, limit)
    files = [file for file in snapshot.files if file.path not in held]
    say(f"tokenizing {len(files)} files and {len(found)} changes")
    targets += _file_targets(settings, tokenizer, bands, snapshot, files, found, facts, targets)
    outside = {one.of.path: one.of for one in targets}
    known = {file.path for file in files}
    guests = [TextFile(path, of.text, "", of.language) for path, of in sorted(outside.items()) if path not in known]
    _check_enough(targets, facts, settings.data.held_out_per_length)
    return Corpus(
        tokenizer=tokenizer,
        settings=settings,
        facts=facts,
        snapshot=snapshot,
        files=files,
        texts=tokenize_files(tokenizer, files),
        graph=import_graph([*files, *guests]),
        names=Names.of(files),
        links=found,
        chains=tokenize_links(tokenizer, found, data.context_weight) if data.commit_share else [],
        targets=targets,
        commits_left_out=commits_left_out,
        changes_left_out=changes,
    )


def _without_data(snapshot: Snapshot) -> Snapshot:
    """Large files of values rather than code would be most of what is trained on: left out, and counted."""
    large = [file for file in snapshot.files if file.language in _DATA and len(file.text) > _LARGE_DATA]
    left_out, sizes = Counter(snapshot.left_out), Counter(snapshot.left_out_bytes)
    for file in large:
        left_out["large data file"] += 1
        sizes["large data file"] += len(file.text.encode(errors="replace"))
    files = tuple(file for file in snapshot.files if file not in large)
    return Snapshot(snapshot.commit, files, left_out, sizes)


def _history_characters(settings: Settings, snapshot: Snapshot) -> int:
    """Characters of changes that `data.commit_share` can need; twice that, as no one knows how they will cut."""
    data = settings.data
    text = sum(len(file.text) for file in snapshot.files)
    return int(2 * text * data.commit_share / (1 - data.commit_share - data.question_share))


def _target_size(bands: Sequence[Band]) -> int:
    return min(held_out.TARGET_TOKENS, bands[0].cap * 2 // 5)


def _commit_targets(
    repository: Repository,
    settings: Settings,
    tokenizer: RepoTokenizer,
    bands: Sequence[Band],
    splits: Splits,
    snapshot: Snapshot,
    found: Sequence[Link],
) -> list[held_out.Target]:
    """Targets of held-out commits, on lines that neither the snapshot nor any change trained on holds."""
    known = _known([file.text for file in snapshot.files], found)
    data, targets = settings.data, list[held_out.Target]()
    for split in ("validation", "test"):
        commits = splits.held_out(repository, split, data.max_commits)
        candidates = list(held_out.commit_candidates(split, commits, known))
        targets += held_out.choose(
            tokenizer, candidates, data.held_out_per_length, _target_size(bands), settings.training.seed
        )
    return targets


def _known(texts: Sequence[str], found: Sequence[Link]) -> set[str]:
    return held_out.stripped_lines([*texts, *(text for link in found for text in (link.before, link.after))])


def _files_to_hold_out(
    settings: Settings,
    tokenizer: RepoTokenizer,
    snapshot: Snapshot,
    targets: Sequence[held_out.Target],
    facts: RepositoryFacts,
) -> frozenset[str]:
    """Choose files for each split whose commits give too few targets, and say so in the notes."""
    data = settings.data
    sizes = {file.path: len(file.text) for file in snapshot.files if file.text.strip()}
    code = {file.path: sizes[file.path] for file in snapshot.files if file.path in sizes and file.language != "Other"}
    taken: list[str] = []
    for split, share in (("validation", data.validation_share), ("test", data.test_share)):
        have = sum(target.split == split for target in targets)
        if have >= held_out.ENOUGH:
            continue
        # About four characters a token; twice as much text as targets need, as not every line of it is new.
        wanted = (data.held_out_per_length - have) * held_out.TARGET_TOKENS * 8
        chosen = choose_files(code if len(code) >= 4 else sizes, share, wanted, settings.training.seed, taken)
        taken += chosen
        facts.held_out_files[split] = chosen
        files = "1 file is" if len(chosen) == 1 else f"{len(chosen)} files are"
        facts.notes.append(
            f"{split}: commits give {have} targets, so {files} held out as well and never trained on"
            if chosen
            else f"{split}: commits give {have} targets, and there are too few files to hold any out"
        )
    return frozenset(taken)


def _file_targets(
    settings: Settings,
    tokenizer: RepoTokenizer,
    bands: Sequence[Band],
    snapshot: Snapshot,
    files: Sequence[TextFile],
    found: Sequence[Link],
    facts: RepositoryFacts,
    targets: Sequence[held_out.Target],
) -> list[held_out.Target]:
    if not facts.held_out_files:
        return []
    known = _known([file.text for file in files], found)
    texts = {file.path: file.text for file in snapshot.files}
    more: list[held_out.Target] = []
    for split, paths in facts.held_out_files.items():
        wanted = settings.data.held_out_per_length - sum(target.split == split for target in targets)
        candidates = [held_out.file_candidate(split, path, texts[path], known) for path in paths]
        more += held_out.choose(tokenizer, candidates, max(0, wanted), _target_size(bands), settings.training.seed)
    return more


def _check_enough(targets: Sequence[held_out.Target], facts: RepositoryFacts, wanted: int) -> None:
    for split in ("validation", "test"):
        have = sum(target.split == split for target in targets)
        if have < min(held_out.ENOUGH, wanted):
            facts.notes.append(f"{split}: only {have} targets; figures on so few say little")
