"""Reads one repository into a corpus: splits, training snapshot, history and held-out files, all tokenized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice

from longrepo.config.schema import Settings
from longrepo.data import held_out
from longrepo.data.bm25 import BM25Index
from longrepo.data.commits import (
    COPY_REASON,
    HELD_OUT_REASON,
    LARGE_DATA_REASON,
    MAX_DATA_BYTES,
    TrainingChange,
    is_large_data,
    read_training_changes,
)
from longrepo.data.dedup import TrainingTexts, find_duplicates
from longrepo.data.difficulty import NameIndex, score_difficulty
from longrepo.data.licenses import find_licenses, is_license_source, join_licenses
from longrepo.data.metadata import RepositoryFacts
from longrepo.data.packing import Band
from longrepo.data.splits import Splits, choose_held_out_files, split_by_ancestry, usable_commits
from longrepo.data.template import BuiltSequence, TemplateSizes
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.used_context import UsedContext
from longrepo.data.workers import CachedReader, FileRequest, SkippedText
from longrepo.errors import InputError
from longrepo.repository.imports.graph import ImportGraph, build_import_graph
from longrepo.repository.imports.packages import is_test_path
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.repository.rules import CHOICES, context_paths
from longrepo.repository.snapshot import TreeEntry, unread_reason
from longrepo.repository.types import TextFile
from longrepo.utils.progress import Progress

_MAX_LISTED = 20  # files left out that are listed for each reason
_MAX_RELATED_FILES = 40  # related files considered for a target or a question


@dataclass
class LeftOutFiles:
    """The files that aren't used, by reason: how many, how many bytes, and the first of them, each with its rule."""

    counts: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    listed: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def add(self, entry: TreeEntry, reason: str, rule: str = "") -> None:
        """Count a file."""
        self.counts[reason] += 1
        self.bytes[reason] += entry.size or 0
        listed = self.listed.setdefault(reason, [])
        if len(listed) < _MAX_LISTED:
            listed.append({"path": entry.path, "rule": rule})


@dataclass
class Corpus:
    """What a repository's sequences are made of. `texts`: the files to train on, those of the training snapshot without
    held-out files and duplicates; `held`: the held-out files by split; `entries`: readable files of the snapshot."""

    reader: CachedReader
    settings: Settings
    facts: RepositoryFacts
    splits: Splits
    entries: dict[str, TreeEntry]
    texts: dict[str, TokenizedText]
    held: dict[str, list[TokenizedText]]
    graph: ImportGraph
    names: NameIndex
    training_changes: list[TrainingChange]
    left_out: LeftOutFiles
    commits_left_out: Counter[str] = field(default_factory=Counter)
    changes_left_out: Counter[str] = field(default_factory=Counter)
    duplicate_tokens: int = 0
    targets_dropped: Counter[str] = field(default_factory=Counter)  # held-out sequences not built, by reason

    @property
    def tokenizer(self) -> RepoTokenizer:
        """The tokenizer of all its texts."""
        return self.reader.tokenizer

    @cached_property
    def sizes(self) -> TemplateSizes:
        """The tokens that each part of a format takes."""
        return TemplateSizes(self.tokenizer, self.facts.name)

    @cached_property
    def rank(self) -> dict[str, int]:
        """Path → its place in the order with definitions first."""
        return {path: place for place, path in enumerate(self.graph.definitions_first(self.graph.imports))}

    def __post_init__(self) -> None:
        self.related = lru_cache(maxsize=None)(lambda path: self.graph.related(path, _MAX_RELATED_FILES))

    @cached_property
    def used(self) -> UsedContext:
        """Chooses what to show of the files to train on."""
        fitting = context_paths(path for path, text in self.texts.items() if len(text))
        texts = {path: text for path, text in self.texts.items() if path in fitting}
        return UsedContext(texts, lambda: BM25Index(list(texts.values())))

    def neighbors(self, path: str) -> Sequence[str]:
        """Return the files one import away, imported ones before importing ones."""
        return (*self.graph.imports.get(path, ()), *self.graph.imported_by.get(path, ()))

    def score_difficulty(self, built: Sequence[BuiltSequence]) -> None:
        """Set the difficulty of sequences, judged by the names in the training snapshot."""
        score_difficulty(built, self.names)


_CHANGE_TEXT_SHARE = 0.8  # the share of changes in a sequence of changes; the rest is context
HELD_OUT_SPLITS = ("validation", "test")
_MOST_OF_ALL = 0.9  # of the tokens: a file that holds more is as good as the only one
DUPLICATE_REASON = "nearly the same as another file"
_RULES = {  # of the reasons that a text gives
    "generated": "its first lines say so, or its lines are as long as a minified file's",
    LARGE_DATA_REASON: f"above {MAX_DATA_BYTES:,} bytes: data, or code that is mostly values (a dump, a byte array)",
}


def read_corpus(
    reader: CachedReader, settings: Settings, commit: str, bands: Sequence[Band], watch: Progress
) -> Corpus:
    """Read, split and tokenize a repository. Raises InputError if it holds no text to train on."""
    data, repository = settings.data, reader.repository
    with watch.count(f"{repository.name}: reading history (commits)", data.max_commits) as done:
        splits = split_by_ancestry(repository, data, commit, reader.cache, done)
    facts = RepositoryFacts(
        repository.name, splits.head, splits.train, splits.validation, notes=[*repository.notes, *splits.notes]
    )
    facts.notes += [f"{pattern} matches no file" for pattern in reader.rules.unused_patterns()]
    left_out = LeftOutFiles()
    entries = _entries(reader, splits.train, left_out)
    texts = _texts(reader, entries, left_out, watch)
    if not any(text.text.strip() for text in texts.values()):
        raise InputError(_nothing_left(reader, splits.train, left_out))
    facts.licences = _licenses(reader, splits.train, texts)
    facts.licence = join_licenses(facts.licences.values())
    copies = find_duplicates(texts)
    for path in copies:
        left_out.add(entries[path], DUPLICATE_REASON)
    kept = {path: text for path, text in texts.items() if path not in copies}
    graph = build_import_graph(
        [TextFile(path, text.text, entries[path].blob, text.language) for path, text in texts.items()],
        {path: text.outline.imports for path, text in texts.items()},
    )
    facts.notes += _missing_notes(kept, reader.shown_path)
    history = _TrainingChangeReader(reader, settings, splits, kept)
    without = dict.fromkeys(copies, COPY_REASON)
    history.read(without, watch)
    held = _files_to_hold_out(reader, settings, bands, splits, kept, history.training_changes, facts)
    held_paths = {text.path for ones in held.values() for text in ones}
    if held:
        history.read(without | dict.fromkeys(held_paths, HELD_OUT_REASON), watch)
    if history.is_cut_short:
        facts.notes.append(
            f"changes: the newest {data.max_commits:,} usable commits (data.max_commits) hold fewer than "
            "data.commit_share asks for; older ones aren't read"
        )
    trained = {path: text for path, text in kept.items() if path not in held_paths}
    return Corpus(
        reader=reader,
        settings=settings,
        facts=facts,
        splits=splits,
        entries=entries,
        texts=trained,
        held=held,
        graph=graph,
        names=NameIndex.of(list(trained.values())),
        training_changes=history.training_changes,
        left_out=left_out,
        commits_left_out=history.commits_left_out,
        changes_left_out=history.changes_left_out,
        duplicate_tokens=sum(len(texts[path]) for path in copies),
    )


def _missing_notes(texts: Mapping[str, TokenizedText], shown: Callable[[str], str]) -> Iterator[str]:
    """Yield a note on each thing that can't be taught, as the repository has only one file, one large one, tests or
    prose."""
    total, largest = sum(map(len, texts.values())), max(texts.values(), key=len)
    if len(texts) == 1:
        yield f"{shown(largest.path)} is the only file: no sequence shows another, and none can be held out"
    elif len(largest) > _MOST_OF_ALL * total:
        share = f"{len(largest) / total:.0%}"
        yield f"{shown(largest.path)} holds {share} of the text: most sequences have few other files to show"
    if all(text.language in PROSE_LANGUAGES for text in texts.values()):
        yield "no file is code: nothing of definitions, calls and imports is taught or measured"
    elif all(is_test_path(path) or text.language in PROSE_LANGUAGES for path, text in texts.items()):
        yield "all code is tests: what they test isn't among the files, so it can't be shown"


def _nothing_left(reader: CachedReader, commit: str, left_out: LeftOutFiles) -> str:
    """Return the message for a repository without a text to use: what left how many files out."""
    where = f"{reader.repository.name}: no text files at {commit[:10]}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.counts.most_common(4))
    if selection := str(reader.rules.selection):
        return f"{where} with {selection}, so there is nothing to prepare ({reasons}); choose other files"
    return f"{where}, so there is nothing to prepare" + (f" (left out: {reasons})" if reasons else "")


def _entries(reader: CachedReader, commit: str, left_out: LeftOutFiles) -> dict[str, TreeEntry]:
    """Return the files of a commit that may be text, in path order. Large data files are left out, as they would make
    up most of the training text."""
    found: dict[str, TreeEntry] = {}
    tracked = list(reader.repository.tracked(commit))
    reader.rules.load(entry.path for entry in tracked)
    for entry in tracked:
        judged = reader.rules.of(entry.path)
        reason, rule = unread_reason(entry, reader.max_file_bytes, judged)
        language = reader.rules.language_of(entry.path)
        # XML may be a program: that shows when it is read.
        large = language != "XML" and is_large_data(language, entry.size or 0, judged)
        if large and not reason:
            reason = LARGE_DATA_REASON
        if reason:
            left_out.add(entry, reason, rule or _RULES.get(reason, ""))
        else:
            found[entry.path] = entry
    return dict(sorted(found.items()))


def _licenses(reader: CachedReader, commit: str, texts: Mapping[str, TokenizedText]) -> dict[str, str]:
    """Return the licences by folder: texts and manifests are read as they are, identifiers from the files' tops. A
    person's choice of files doesn't change the license."""
    sources = {
        entry.path: entry.blob
        for entry in reader.repository.tracked(commit)
        if entry.mode.startswith("100")
        and is_license_source(entry.path)
        and reader.rules.of(entry.path).reason in ("", *CHOICES)
    }
    read = {one.blob: one.text for one in reader.repository.texts(sources.values(), reader.max_file_bytes)}
    files = {path: text.text for path, text in texts.items()}
    return find_licenses([*(files | {path: read[blob] or "" for path, blob in sources.items()}).items()])


def _texts(
    reader: CachedReader,
    entries: Mapping[str, TreeEntry],
    left_out: LeftOutFiles,
    watch: Progress,
) -> dict[str, TokenizedText]:
    texts: dict[str, TokenizedText] = {}
    requests = [FileRequest(path, entry.blob) for path, entry in entries.items()]
    with watch.count(f"{reader.repository.name}: reading files", len(requests)) as done:
        for request, answer in zip(requests, reader.read(requests, done), strict=True):
            entry = entries[request.path]
            if isinstance(answer, SkippedText):
                reason = answer.reason
            elif is_large_data(answer.text.language, entry.size or 0, reader.rules.of(request.path)):
                reason = LARGE_DATA_REASON
            else:
                texts[request.path] = answer.text
                continue
            left_out.add(entry, reason, _RULES.get(reason, ""))
    return texts


class _TrainingChangeReader:
    """Reads the changes to train on, as many as `data.commit_share` can need."""

    def __init__(
        self, reader: CachedReader, settings: Settings, splits: Splits, texts: Mapping[str, TokenizedText]
    ) -> None:
        data = settings.data
        self._reader = reader
        self._data = data
        self._splits = splits
        share = data.commit_share / (1 - data.commit_share - data.question_share)
        self._tokens = int(_CHANGE_TEXT_SHARE * share * sum(map(len, texts.values())))
        self.training_changes: list[TrainingChange] = []
        self.commits_left_out: Counter[str] = Counter()
        self.changes_left_out: Counter[str] = Counter()
        self.is_cut_short = False  # whether older commits would have had more of the changes wanted

    def read(self, without: Mapping[str, str], watch: Progress) -> None:
        """Fill `training_changes`, without changes of the files of `without` (path → reason)."""
        self.commits_left_out = Counter()
        most = self._data.max_commits
        repository, known = self._reader.repository, self._reader.cache
        records = usable_commits(repository, self._splits.train, None, most + 1, known, self.commits_left_out)
        with watch.count(f"{repository.name}: reading changes (tokens)", self._tokens) as done:
            self.training_changes, self.changes_left_out = read_training_changes(
                islice(records, most), self._reader, without, self._data.max_changes_per_file, self._tokens, done
            )
        tokens = sum(len(change.step.of) for change in self.training_changes)
        self.is_cut_short = bool(most) and tokens < self._tokens and next(records, None) is not None


def candidates_by_split(reader: CachedReader, splits: Splits, limit: int) -> dict[str, list[held_out.Candidate]]:
    """Return the changes of each split's held-out commits as candidates."""
    return {
        split: held_out.commit_candidates(split, splits.held_out(reader.repository, split, limit, reader.cache))
        for split in HELD_OUT_SPLITS
    }


def max_target_size(bands: Sequence[Band]) -> int:
    """Return the most tokens a held-out target may span: it must leave room for context at the shortest length."""
    return min(held_out.TARGET_TOKENS, bands[0].cap * 2 // 5)


def _files_to_hold_out(
    reader: CachedReader,
    settings: Settings,
    bands: Sequence[Band],
    splits: Splits,
    texts: Mapping[str, TokenizedText],
    training_changes: Iterable[TrainingChange],
    facts: RepositoryFacts,
) -> dict[str, list[TokenizedText]]:
    """Choose files for each split whose commits give too few targets, with a note in `facts`."""
    data, seed = settings.data, settings.training.seed
    wanted = data.held_out_per_length
    shown = TrainingTexts(reader.tokenizer, [*texts.values(), *(change.step.of for change in training_changes)])
    chooser = held_out.TargetChooser(reader, shown, max_target_size(bands), seed)
    found = chooser.choose(
        candidates_by_split(reader, splits, data.max_commits), dict.fromkeys(HELD_OUT_SPLITS, wanted)
    )
    sizes = {path: len(text) for path, text in texts.items() if text.text.strip()}
    code = {path: size for path, size in sizes.items() if texts[path].language not in PROSE_LANGUAGES}
    taken: list[str] = []
    chosen: dict[str, list[TokenizedText]] = {}
    for split, share in (("validation", data.validation_share), ("test", data.test_share)):
        have = len(found[split])
        if have >= min(held_out.ENOUGH_TARGETS, wanted):
            continue
        # Twice as much text as targets need, as not every line of it is new.
        tokens = (wanted - have) * held_out.TARGET_TOKENS * 2
        paths = choose_held_out_files(code if len(code) >= 4 else sizes, share, tokens, seed, taken)
        taken += paths
        chosen[split] = [texts[path] for path in paths]
        facts.held_out_files[split] = paths
        files = "1 file is" if len(paths) == 1 else f"{len(paths)} files are"
        facts.notes.append(
            f"{split}: commits give {have} targets, so {files} held out as well and never trained on"
            if paths
            else f"{split}: commits give {have} targets, and there are too few files to hold any out"
        )
    return chosen
