"""From a repository to all its sequences: what `prepare_long_context.py` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.repository.repository import Repository
from longrepo.sequences.corpus import Corpus, Say, read_corpus
from longrepo.sequences.difficulty import label, quantile_thresholds
from longrepo.sequences.header import Header, TokenizerFacts
from longrepo.sequences.lengths import Band, bands, phase_of
from longrepo.sequences.questions import questions
from longrepo.sequences.sequence import LongContextSequence
from longrepo.sequences.summary import counts, summarise
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.training_set import PhaseAccount, training_sequences


@dataclass
class Prepared:
    """All sequences (training by phase, then validation, then test), the file header, and the summary."""

    sequences: list[LongContextSequence]
    header: Header
    summary: dict[str, Any] = field(default_factory=dict)


def silent(_: str) -> None:
    """Say nothing."""


def prepare(
    repository: Repository,
    settings: Settings,
    tokenizer: RepoTokenizer,
    commit: str = "HEAD",
    phases: int = 3,
    max_length: int = 2048,
    say: Say = silent,
) -> Prepared:
    """Build the sequences of phases 1..`phases` from a commit and its history. `say` is told each step.

    Raises InputError where the repository holds nothing to train on.
    """
    chosen, notes = bands(settings.long_context, phases, max_length)
    corpus = read_corpus(repository, settings, tokenizer, commit, chosen, say)
    corpus.facts.notes.extend(notes)
    asked, questions_dropped = questions(corpus.files, corpus.graph, corpus.links, settings.training.seed)
    sequences: list[LongContextSequence] = []
    accounts: dict[int, PhaseAccount] = {}
    for band in chosen:
        say(f"building phase {band.phase} ({band.low} to {band.cap} tokens)")
        built, account = training_sequences(corpus, band, asked)
        account.questions_dropped += questions_dropped
        sequences += built
        accounts[band.phase] = account
    return assemble(corpus, sequences, accounts, chosen, "prepare", say)


def assemble(
    corpus: Corpus,
    training: Sequence[LongContextSequence],
    accounts: dict[int, PhaseAccount],
    chosen: Sequence[Band],
    made_by: str,
    say: Say,
) -> Prepared:
    """Add the held-out sequences, label difficulty by the training split's quantiles, write header and summary."""
    if not training:
        raise InputError(
            f"{corpus.facts.name}: too little text for a sequence of {chosen[0].floor + 1} tokens or more; "
            "lower long_context.phase1_max_length or give a larger repository"
        )
    say("building the held-out sequences")
    held = corpus.held_out(chosen)
    sequences = [
        *training,
        *(one for split in ("validation", "test") for one in held if one.metadata["split"] == split),
    ]
    thresholds = _relabel(sequences, chosen)
    built_phases = {phase_of(len(one), list(chosen)) for one in training}
    for band in chosen:
        if band.phase not in built_phases:
            corpus.facts.notes.append(
                f"phase {band.phase}: the repository's text does not fill {band.floor + 1} tokens"
            )
    header = Header(
        TokenizerFacts.of(corpus.tokenizer),
        corpus.facts,
        settings=_settings_hash(corpus.settings, chosen),
        made_by=made_by,
        seed=corpus.settings.training.seed,
        bands=[asdict(band) for band in chosen],
        counts=counts(sequences, chosen),
        accounts={str(phase): account_dict(account) for phase, account in accounts.items()},
        thresholds=thresholds,
        rows=len(sequences),
    )
    return Prepared(sequences, header, summarise(corpus, header))


def account_dict(account: PhaseAccount) -> dict[str, Any]:
    """An account as the header and the summary hold it."""
    return {
        key: dict(sorted(value.items())) if isinstance(value, dict) else value for key, value in vars(account).items()
    }


def _relabel(sequences: Sequence[LongContextSequence], chosen: Sequence[Band]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    listed = list(chosen)
    for band in chosen:
        of_phase = [one for one in sequences if phase_of(len(one), listed) == band.phase]
        scores = [one.metadata["difficulty_score"] for one in of_phase if one.metadata["split"] == "train"]
        limits = quantile_thresholds(scores)
        found[str(band.phase)] = list(limits)
        for one in of_phase:
            one.metadata["curriculum_difficulty"] = label(one.metadata["difficulty_score"], limits)
    return found


def _settings_hash(settings: Settings, chosen: Sequence[Band]) -> str:
    """Of every setting that decides what the sequences are, and none that doesn't."""
    decides = [settings.data.model_dump(mode="json"), [asdict(band) for band in chosen], settings.training.seed]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
