"""The sequences of the plain recipe: single files cut every so many tokens, as the usual trainers cut them.

Each chunk has its file's marks and path, and a share of them is written as fill-in-the-middle. There is no context, no
history and no question: what longrepo's own sequences add can be measured against these.
"""

from __future__ import annotations

from collections.abc import Iterator

from longrepo.data.corpus import Corpus
from longrepo.data.mixture import TOO_MUCH_PROSE, PhaseAccount, prose_beyond
from longrepo.data.packing import NO_ROOM_REASON, Band
from longrepo.data.template import FIM_SPLIT_TOKENS, BuiltSequence, FilePiece, write_file
from longrepo.data.text import TokenizedText
from longrepo.utils import hashing
from longrepo.utils.progress import Progress


def build_chunks(corpus: Corpus, band: Band, turn: int, watch: Progress) -> tuple[list[BuiltSequence], PhaseAccount]:
    """Return the chunks of a corpus at a band's cap, and their account. `turn`: how often the corpus was cut before;
    each turn fills in other middles."""
    data, account = corpus.settings.data, PhaseAccount()
    seed = (corpus.settings.training.seed, "chunks", *([turn] if turn else []))
    texts = {path: text for path, text in corpus.texts.items() if len(text)}
    sizes = {path: len(text) for path, text in texts.items()}
    account.tokenized = sum(sizes.values())
    prose = prose_beyond(sizes, {path: text.language for path, text in texts.items()}, data.prose_share, *seed)
    account.dropped[TOO_MUCH_PROSE] = sum(sizes[path] for path in prose)
    fim = corpus.tokenizer.fim if data.fim_share else None
    reserve = corpus.sizes.ends + (fim.size + FIM_SPLIT_TOKENS if fim else 0)
    built: list[BuiltSequence] = []
    with watch.count("cutting chunks", len(texts)) as done:
        for path, text in texts.items():
            for piece in () if path in prose else _pieces(text, band.cap - reserve - corpus.sizes.frame(text), account):
                key = (*seed, path, piece.start)
                as_fim = fim is not None and hashing.seeded_uniform(*key, "fim") < data.fim_share
                builder = corpus.sizes.begin()
                fim_key = str(hashing.seeded_int(*key)) if as_fim else None
                account.fim += write_file(builder, piece, data.context_weight, fim_key)
                builder.end()
                built.append(BuiltSequence(builder, "window", "train", corpus.facts.name))
            done(1)
    corpus.score_difficulty(built)
    account.used = sum(one.builder.roles["target"] for one in built)
    return built, account


def _pieces(text: TokenizedText, room: int, account: PhaseAccount) -> Iterator[FilePiece]:
    """Yield a file in pieces of at most `room` tokens, each cut at a syntax cut if that leaves it three quarters full,
    else at a line."""
    if room <= 0:
        account.dropped[NO_ROOM_REASON] += len(text)
        return
    start = 0
    while start < len(text):
        end, how = len(text), ""
        if end - start > room:
            end, how = text.cut_in(start, start + room, 3 * room // 4)
            account.cuts[how] += 1
        yield FilePiece(text, start, end)
        start = end
