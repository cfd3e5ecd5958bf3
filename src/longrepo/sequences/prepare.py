"""From repositories to all their sequences: what `prepare_long_context.py` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace

from longrepo.config.schema import Settings
from longrepo.sequences import chance
from longrepo.sequences.assembly import Origin, Part, Prepared, Tools, assemble
from longrepo.sequences.corpus import Corpus
from longrepo.sequences.draft import Built
from longrepo.sequences.finished import Finished
from longrepo.sequences.lengths import Band, bands
from longrepo.sequences.questions.generate import ChangeFact, Question, Source, left_out, questions
from longrepo.sequences.training_set import PhaseAccount, PhaseBuilder

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
    return chance.share(corpus.settings.training.seed, "weight", corpus.facts.name, band.phase, number) < share
