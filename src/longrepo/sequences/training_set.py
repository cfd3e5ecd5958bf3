"""The training sequences of one phase: files, changes and questions in the shares the settings ask for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from longrepo.sequences import chance, fim
from longrepo.sequences.chains import ChainPack, ChainPacker, chains_of, read_states
from longrepo.sequences.compose import write_file, write_step
from longrepo.sequences.corpus import Corpus
from longrepo.sequences.draft import Built, Draft, unique
from longrepo.sequences.lengths import Band
from longrepo.sequences.packing import TOO_SHORT, Completer, arrange, pack, walk
from longrepo.sequences.question_sequences import QuestionWriter
from longrepo.sequences.questions import Question
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.watch import Watch


@dataclass
class PhaseAccount:
    """Every token of one phase's material: `tokenized` = `used` + the sum of `dropped`. `cuts` counts how long files
    were cut, `fim` the sequences written as fill-in-the-middle, `questions_dropped` questions by reason."""

    tokenized: int = 0
    used: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    fim: int = 0
    questions_dropped: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: PhaseAccount) -> PhaseAccount:
        """Another repository's account of the same phase."""
        self.tokenized += other.tokenized
        self.used += other.used
        self.fim += other.fim
        self.dropped += other.dropped
        self.cuts += other.cuts
        self.questions_dropped += other.questions_dropped
        return self


class PhaseBuilder:
    """Builds one phase from a corpus. `turn` counts how often the corpus was packed before: other neighbours meet."""

    def __init__(self, corpus: Corpus, band: Band, turn: int, watch: Watch) -> None:
        self._corpus = corpus
        self._band = band
        self._watch = watch
        self._data = corpus.settings.data
        self._seed = (corpus.settings.training.seed, band.phase, *([turn] if turn else []))
        self.account = PhaseAccount()
        self.states: list[TokenizedText] = []  # files as they were, shown before changes

    def build(self, asked: Sequence[Question]) -> list[Built]:
        """All training sequences of the phase."""
        from_files = self._hierarchical()
        total = len(from_files) / (1 - self._data.commit_share - self._data.question_share)
        from_changes = self._evolution(math.ceil(total * self._data.commit_share))
        from_questions = self._questions(round(total * self._data.question_share), asked)
        sequences = [*from_files, *from_changes, *from_questions]
        self.account.used = sum(sequence.draft.roles["target"] for sequence in sequences)
        return sequences

    def _built(self, draft: Draft, kind: str, commits: Sequence[str] = ()) -> Built:
        built = Built(draft, kind, "train", self._corpus.facts.name, unique(commits))  # type: ignore[arg-type]
        return self._corpus.judge(built)

    def _hierarchical(self) -> list[Built]:
        corpus, band, data = self._corpus, self._band, self._data
        fim_share = data.fim_share if corpus.tokenizer.fim else 0.0
        reserve = 1 + (fim.EXTRA_TOKENS if fim_share else 0)
        texts = {path: text for path, text in corpus.texts.items() if len(text)}
        order = walk(list(texts), corpus.neighbours, *self._seed)
        free = reserve + int(data.context_share * band.cap)
        packed = pack([texts[path] for path in order], band, corpus.sizes, free)
        completer = Completer(
            band, corpus.sizes, texts, corpus.graph.imports, corpus.related, data.hard_negative_share, *self._seed
        )
        self.account.tokenized += sum(map(len, texts.values()))
        self.account.dropped += packed.dropped
        self.account.cuts += packed.cuts
        sequences: list[Built] = []
        with self._watch.count(f"phase {band.phase}: files", len(packed.packs)) as done:
            for number, own in enumerate(packed.packs):
                key = (*self._seed, number, own[-1].of.path, own[-1].start)
                pieces = arrange(completer.complete(own, reserve), corpus.rank, data.random_order_share, *key)
                draft = Draft(corpus.tokenizer)
                for piece in pieces:
                    as_fim = piece is pieces[-1] and piece.target and chance.share(*key, "fim") < fim_share
                    fim_key = str(chance.number(*key)) if as_fim else None
                    self.account.fim += write_file(draft, piece, data.context_weight, fim_key)
                draft.end()
                if len(draft) > band.floor:
                    sequences.append(self._built(draft, "hierarchical"))
                else:
                    self.account.dropped[TOO_SHORT] += draft.roles["target"]
                done(1)
        return sequences

    def _evolution(self, most: int) -> list[Built]:
        corpus, band = self._corpus, self._band
        chains = chains_of(corpus.links)
        self.account.tokenized += sum(len(step.of) for steps in chains.values() for step in steps)
        packs = ChainPacker(corpus.sizes, self._frame).pack(chains, band)
        for packed in packs[most:]:
            self.account.dropped["changes beyond data.commit_share"] += _size(packed)
        used = packs[:most]
        sequences: list[Built] = []
        with self._watch.count(f"phase {band.phase}: changes", 2 * len(used)) as done:
            read_states(used, corpus.reader, lambda _: None)
            done(len(used))
            for packed in used:
                built = self._chain(packed)
                if len(built) > band.floor:
                    sequences.append(built)
                else:
                    self.account.dropped[TOO_SHORT] += _size(packed)
                done(1)
        return sequences

    def _frame(self, path: str) -> int:
        text = self._corpus.texts.get(path)
        return self._corpus.sizes.frame(text) if text is not None else self._corpus.sizes.path_frame(path)

    def _chain(self, packed: ChainPack) -> Built:
        corpus, data = self._corpus, self._data
        states = [run.state for run in packed.runs if run.state is not None]
        self.states += [state.of for state in states]
        draft = Draft(corpus.tokenizer)
        size = 1 + sum(map(corpus.sizes.file, states)) + sum(map(corpus.sizes.step, packed.steps))
        completer = Completer(self._band, corpus.sizes, corpus.texts, {}, corpus.related, 0.0)
        for piece in completer.before(packed.runs[0].path, {run.path for run in packed.runs}, size):
            write_file(draft, piece, data.context_weight)
        for run in packed.runs:
            if run.state is not None:
                write_file(draft, run.state, data.context_weight)
            for step in run.steps:
                write_step(draft, step, data.context_weight)
        draft.end()
        return self._built(draft, "commit_evolution", [step.commit for step in packed.steps])

    def _questions(self, wanted: int, asked: Sequence[Question]) -> list[Built]:
        corpus, data = self._corpus, self._data
        writer = QuestionWriter(corpus.sizes, corpus.texts, corpus.related, data.context_weight, self._seed[0])
        sequences: list[Built] = []
        with self._watch.count(f"phase {self._band.phase}: questions", wanted) as done:
            for question in asked:
                if len(sequences) == wanted:
                    break
                if written := writer.write(question, self._band):
                    sequences.append(self._built(written, "qa"))
                    done(1)
        self.account.questions_dropped += writer.dropped
        self.account.tokenized += sum(sequence.draft.roles["target"] for sequence in sequences)
        return sequences


def _size(packed: ChainPack) -> int:
    return sum(step.stop - step.start for step in packed.steps)
