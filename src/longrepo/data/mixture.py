"""The training sequences of one phase: files, changes and questions in the shares that the settings ask for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from longrepo.data.commits import CommitPack, CommitPacker, add_start_states, steps_by_path
from longrepo.data.corpus import Corpus
from longrepo.data.packing import TOO_SHORT_REASON, Band, ContextFiller, arrange_pieces, order_by_relation, pack_files
from longrepo.data.questions.write import QuestionPool, QuestionWriter
from longrepo.data.sequence import MIN_TARGETS
from longrepo.data.template import (
    FIM_SPLIT_TOKENS,
    BuiltSequence,
    FilePiece,
    SequenceBuilder,
    write_file,
    write_step,
)
from longrepo.data.text import TokenizedText
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.utils import hashing
from longrepo.utils.progress import Progress

TOO_MUCH_PROSE = "prose beyond data.prose_share"
FEW_TARGETS = "changes with hardly any added row"


@dataclass
class PhaseAccount:
    """The account of one phase's tokens: `tokenized` = `used` + the sum of `dropped`. `cuts` counts the cuts of long
    files by kind, `fim` the sequences written as fill-in-the-middle, `questions_dropped` questions by reason."""

    tokenized: int = 0
    used: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    fim: int = 0
    questions_dropped: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: PhaseAccount) -> PhaseAccount:
        """Add another repository's account of the same phase."""
        self.tokenized += other.tokenized
        self.used += other.used
        self.fim += other.fim
        self.dropped += other.dropped
        self.cuts += other.cuts
        self.questions_dropped += other.questions_dropped
        return self


class PhaseMixture:
    """Builds one phase from a corpus, in three steps that may overlap with another phase's: `pack`, `read_states` (the
    only one that reads the repository) and `build`. `turn`: how often the corpus was packed before; each turn brings
    other files together."""

    def __init__(self, corpus: Corpus, band: Band, turn: int, watch: Progress) -> None:
        self._corpus = corpus
        self._band = band
        self._watch = watch
        self._data = corpus.settings.data
        self._seed = (corpus.settings.training.seed, band.phase, *([turn] if turn else []))
        self._reserve = corpus.sizes.ends + (
            corpus.tokenizer.fim.size + FIM_SPLIT_TOKENS if corpus.tokenizer.fim and self._fim_share else 0
        )
        self._texts = {path: text for path, text in corpus.texts.items() if len(text)}
        self._packs: list[list[FilePiece]] = []
        self._chains: list[CommitPack] = []
        self.account = PhaseAccount()
        self.states: list[TokenizedText] = []  # files as they were before the changes

    @property
    def _fim_share(self) -> float:
        return self._data.fim_share if self._corpus.tokenizer.fim else 0.0

    def pack(self) -> None:
        """Decide which files and which changes go together."""
        corpus, band, data = self._corpus, self._band, self._data
        left_out = self._much_prose(
            {path: len(text) for path, text in self._texts.items()},
            {path: text.language for path, text in self._texts.items()},
        )
        order = order_by_relation([path for path in self._texts if path not in left_out], corpus.neighbors, *self._seed)
        free = self._reserve + int(data.context_share * band.cap)
        packed = pack_files([self._texts[path] for path in order], band, corpus.sizes, free)
        self._packs = packed.packs
        self.account.tokenized += sum(map(len, self._texts.values()))
        self.account.dropped += packed.dropped
        self.account.cuts += packed.cuts
        chains = steps_by_path(corpus.training_changes)
        self.account.tokenized += sum(len(step.of) for steps in chains.values() for step in steps)
        left_out = self._much_prose(
            {path: sum(len(step.of) for step in steps) for path, steps in chains.items()},
            {path: steps[-1].of.language for path, steps in chains.items()},
        )
        chains = {path: steps for path, steps in chains.items() if path not in left_out}
        packer = CommitPacker(corpus.sizes, self._frame, corpus.sizes.ends)
        found = packer.pack(chains, band)
        self.account.dropped += Counter({FEW_TARGETS: packer.dropped})
        most = math.ceil(self._share(data.commit_share))
        for beyond in found[most:]:
            self.account.dropped["changes beyond data.commit_share"] += _pack_tokens(beyond)
        self._chains = found[:most]

    def _much_prose(self, sizes: Mapping[str, int], languages: Mapping[str, str]) -> set[str]:
        beyond = prose_beyond(sizes, languages, self._data.prose_share, *self._seed)
        self.account.dropped[TOO_MUCH_PROSE] += sum(sizes[path] for path in beyond)
        return beyond

    def _share(self, share: float) -> float:
        """Return how many sequences of a kind go with those of files."""
        return len(self._packs) / (1 - self._data.commit_share - self._data.question_share) * share

    def read_states(self) -> None:
        """Read the files as they were before the changes."""
        add_start_states(self._chains, self._corpus.reader, lambda _: None)

    def build(self, asked: QuestionPool, most: int, states: Future[None]) -> list[BuiltSequence]:
        """Return all training sequences of the phase; `asked`: of whose questions about `most` may be asked, `states`:
        done when `read_states` is."""
        from_files = self._hierarchical()
        from_questions = self._questions(round(self._share(self._data.question_share) * self._band.cap), asked, most)
        states.result()
        from_changes = self._evolution()
        sequences = [*from_files, *from_changes, *from_questions]
        self._corpus.score_difficulty(sequences)
        self.account.used = sum(sequence.builder.roles["target"] for sequence in sequences)
        return sequences

    def _built(self, builder: SequenceBuilder, kind: str, commits: Sequence[str] = ()) -> BuiltSequence:
        return BuiltSequence(builder, kind, "train", self._corpus.facts.name, tuple(dict.fromkeys(commits)))  # type: ignore[arg-type]

    def _hierarchical(self) -> list[BuiltSequence]:
        corpus, band, data = self._corpus, self._band, self._data
        completer = ContextFiller(
            band, corpus.sizes, corpus.used, corpus.graph, corpus.related, data.hard_negative_share, *self._seed
        )
        sequences: list[BuiltSequence] = []
        with self._watch.count(f"phase {band.phase}: files", len(self._packs)) as done:
            for number, own in enumerate(self._packs):
                key = (*self._seed, number, own[-1].of.path, own[-1].start)
                pieces = arrange_pieces(
                    completer.complete(own, self._reserve), corpus.rank, data.random_order_share, *key
                )
                builder = corpus.sizes.begin()
                for piece in pieces:
                    as_fim = (
                        piece is pieces[-1] and piece.target and hashing.seeded_uniform(*key, "fim") < self._fim_share
                    )
                    fim_key = str(hashing.seeded_int(*key)) if as_fim else None
                    self.account.fim += write_file(builder, piece, data.context_weight, fim_key)
                builder.end()
                if len(builder) > band.floor:
                    sequences.append(self._built(builder, "hierarchical"))
                else:
                    self.account.dropped[TOO_SHORT_REASON] += builder.roles["target"]
                done(1)
        return sequences

    def _evolution(self) -> list[BuiltSequence]:
        sequences: list[BuiltSequence] = []
        with self._watch.count(f"phase {self._band.phase}: changes", len(self._chains)) as done:
            for packed in self._chains:
                built = self._chain(packed)
                if len(built) <= self._band.floor:
                    self.account.dropped[TOO_SHORT_REASON] += _pack_tokens(packed)
                elif built.builder.target_tokens() < MIN_TARGETS * len(built):
                    self.account.dropped[FEW_TARGETS] += _pack_tokens(packed)
                else:
                    sequences.append(built)
                done(1)
        return sequences

    def _frame(self, path: str) -> int:
        text = self._corpus.texts.get(path)
        return (
            self._corpus.sizes.frame(text)
            if text is not None
            else self._corpus.sizes.path_frame(self._corpus.reader.path_ids(path))
        )

    def _chain(self, packed: CommitPack) -> BuiltSequence:
        corpus, data = self._corpus, self._data
        states = [run.state for run in packed.runs if run.state is not None]
        self.states += [state.of for state in states]
        builder = corpus.sizes.begin()
        size = corpus.sizes.ends + sum(map(corpus.sizes.file, states)) + sum(map(corpus.sizes.step, packed.steps))
        completer = ContextFiller(self._band, corpus.sizes, corpus.used, corpus.graph, corpus.related, 0.0)
        for piece in completer.before(packed.runs[0].path, states, {run.path for run in packed.runs}, size):
            write_file(builder, piece, data.context_weight)
        for run in packed.runs:
            if run.state is not None:
                write_file(builder, run.state, data.context_weight)
            for step in run.steps:
                write_step(builder, step, data.context_weight)
        builder.end()
        return self._built(builder, "commit_evolution", [step.commit for step in packed.steps])

    def _questions(self, wanted: int, asked: QuestionPool, most: int) -> list[BuiltSequence]:
        """Return sequences of questions of about `wanted` tokens in all."""
        corpus, data = self._corpus, self._data
        writer = QuestionWriter(corpus.sizes, corpus.texts, corpus.related, data.context_weight, self._seed[0])
        sequences: list[BuiltSequence] = []
        size, least = 0, asked.left - most
        with self._watch.count(f"phase {self._band.phase}: questions", wanted) as done:
            while wanted - size > self._band.cap // 2 and asked.left > least:
                written = writer.write_group(asked, self._band)
                if written is None:
                    break
                sequences.append(self._built(written, "qa"))
                size += len(written)
                done(len(written))
        self.account.questions_dropped += writer.dropped
        self.account.tokenized += sum(sequence.builder.roles["target"] for sequence in sequences)
        return sequences


def prose_beyond(sizes: Mapping[str, int], languages: Mapping[str, str], share: float, *seed: object) -> set[str]:
    """Return the prose to leave out, so that its share of these files' tokens is `share` (`data.prose_share`): other
    files with each seed, none if there is no code. `sizes`: path → tokens."""
    prose = [path for path in sizes if languages[path] in PROSE_LANGUAGES]
    beyond = set[str]()
    if share == 1 or len(prose) == len(sizes):
        return beyond
    room = (sum(sizes.values()) - sum(sizes[path] for path in prose)) * share / (1 - share)
    for path in sorted(prose, key=lambda path: hashing.seeded_int(*seed, "prose", path)):
        if sizes[path] <= room:
            room -= sizes[path]
        else:
            beyond.add(path)
    return beyond


def _pack_tokens(packed: CommitPack) -> int:
    return sum(step.stop - step.start for step in packed.steps)
