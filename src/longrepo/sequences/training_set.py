"""The training sequences of one phase: files, changes and questions in the shares the settings ask for."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from longrepo.sequences import chance, fim
from longrepo.sequences.chains import ChainPack, ChainPacker
from longrepo.sequences.compose import FilePiece, Sizes, write_file, write_step
from longrepo.sequences.corpus import Corpus
from longrepo.sequences.draft import Draft
from longrepo.sequences.lengths import Band
from longrepo.sequences.packing import arrange, context_piece, grow, pack, walk
from longrepo.sequences.question_sequences import QuestionWriter
from longrepo.sequences.questions import Question
from longrepo.sequences.sequence import LongContextSequence


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


def training_sequences(
    corpus: Corpus, band: Band, asked: list[Question]
) -> tuple[list[LongContextSequence], PhaseAccount]:
    """All training sequences of a phase and their account."""
    account = PhaseAccount()
    from_files = _hierarchical(corpus, band, account)
    data = corpus.settings.data
    total = len(from_files) / (1 - data.commit_share - data.question_share)
    from_changes = _evolution(corpus, band, math.ceil(total * data.commit_share), account)
    from_questions = _questions(corpus, band, round(total * data.question_share), asked, account)
    sequences = [*from_files, *from_changes, *from_questions]
    account.used = sum(sequence.metadata["roles"].get("target", 0) for sequence in sequences)
    return sequences, account


def _hierarchical(corpus: Corpus, band: Band, account: PhaseAccount) -> list[LongContextSequence]:
    data, seed, tokenizer = corpus.settings.data, corpus.settings.training.seed, corpus.tokenizer
    sizes = Sizes(tokenizer)
    fim_share = data.fim_share if tokenizer.fim else 0.0
    reserve = 1 + (fim.EXTRA_TOKENS if fim_share else 0)
    texts = {path: text for path, text in corpus.texts.items() if len(text)}
    order = walk(list(texts), corpus.neighbours, seed, band.phase)
    packed = pack([texts[path] for path in order], band, sizes, reserve)
    grow(packed, band, sizes, reserve, texts, corpus.related)
    account.tokenized += sum(map(len, texts.values()))
    account.dropped += packed.dropped
    account.cuts += packed.cuts
    sequences: list[LongContextSequence] = []
    for number, pieces in enumerate(packed.packs):
        key = (seed, band.phase, number, *[(piece.of.path, piece.start) for piece in pieces])
        pieces = arrange(pieces, corpus.rank, data.random_order_share, *key)
        draft = Draft(tokenizer)
        for piece in pieces:
            as_fim = piece is pieces[-1] and piece.target and chance.share(*key, "fim") < fim_share
            account.fim += write_file(draft, piece, data.context_weight, str(chance.number(*key)) if as_fim else None)
        draft.end()
        sequences.append(corpus.judge(draft, draft.finish("hierarchical")))
    return sequences


def _evolution(corpus: Corpus, band: Band, most: int, account: PhaseAccount) -> list[LongContextSequence]:
    data, tokenizer = corpus.settings.data, corpus.tokenizer
    sizes = Sizes(tokenizer)
    account.tokenized += sum(len(step.of) for chain in corpus.chains for step in chain.steps)
    sequences: list[LongContextSequence] = []
    for packed in ChainPacker(tokenizer, sizes).pack(corpus.chains, band):
        size = sum(step.stop - step.start for step in packed.steps)
        if len(sequences) >= most:
            account.dropped["changes beyond data.commit_share"] += size
            continue
        _add_front(corpus, packed, band, sizes)
        draft = Draft(tokenizer)
        for piece in packed.front:
            write_file(draft, piece, data.context_weight)
        for state, steps in packed.runs:
            if state is not None:
                write_file(draft, state, data.context_weight)
            for step in steps:
                write_step(draft, step, data.context_weight)
        draft.end()
        if len(draft) <= band.floor:
            account.dropped["too little text to fill this length"] += size
            continue
        commits = [step.commit for step in packed.steps]
        sequences.append(corpus.judge(draft, draft.finish("commit_evolution", commits=commits)))
    return sequences


def _add_front(corpus: Corpus, packed: ChainPack, band: Band, sizes: Sizes) -> None:
    """Related files of the snapshot in front of a chain that is too short for its phase."""
    held = {step.of.path for step in packed.steps}
    states: list[FilePiece] = [state for state, _ in packed.runs if state is not None]
    size = 1 + sum(map(sizes.file, states)) + sum(map(sizes.step, packed.steps))
    for path in corpus.related(next(iter(packed.steps)).of.path):
        if size >= band.low:
            return
        room = band.cap - size - sizes.frame(corpus.texts[path]) if path in corpus.texts else 0
        if path in held or room < 1 or not len(corpus.texts[path]):
            continue
        packed.front.insert(0, context_piece(corpus.texts[path], room))
        size += sizes.file(packed.front[0])


def _questions(
    corpus: Corpus, band: Band, wanted: int, asked: list[Question], account: PhaseAccount
) -> list[LongContextSequence]:
    data, seed = corpus.settings.data, corpus.settings.training.seed
    writer = QuestionWriter(corpus.tokenizer, corpus.texts, corpus.related, data.context_weight, seed)
    sequences: list[LongContextSequence] = []
    for question in asked:
        if len(sequences) == wanted:
            break
        if written := writer.write(question, band):
            sequences.append(corpus.judge(written, written.finish("qa")))
    account.questions_dropped += writer.dropped
    account.tokenized += sum(sequence.metadata["roles"]["target"] for sequence in sequences)
    return sequences
