"""The plain recipe: each token of code once, in chunks of single files, beside the same held-out lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from whole import Case, prepared

from longrepo.config.loader import load_settings
from longrepo.config.schema import phase_list
from longrepo.curriculum.sampler import SequenceCatalog, epoch_order
from longrepo.curriculum.schedule import learning_rate_at, make_schedule
from longrepo.data.metadata import check_recipe
from longrepo.data.packing import last_phase
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError

SETTINGS = ("long_context.phase1_max_length=256", "data.prose_share=0", "data.held_out_per_length=4")
PLAIN = (*SETTINGS, "data.recipe=plain")


@pytest.fixture(scope="module")
def plain(long_history: Path, tokenizer: RepoTokenizer) -> Case:
    return prepared(long_history, tokenizer, load_settings(None, PLAIN), phases=1, length=256)


def test_each_token_of_a_file_is_a_target_in_one_chunk(plain: Case) -> None:
    pieces: dict[str, list[tuple[int, int]]] = {}
    languages, lengths = Counter[str](), dict[str, int]()
    for one in plain.prepared.sequences:
        if one.split == "train":
            (path,) = one.files
            assert all(part.target for part in one.builder.parts), "no context"
            pieces.setdefault(path, []).extend((part.start, part.end) for part in one.builder.parts)
            languages[one.language] += 1
            lengths |= {part.of.path: len(part.of) for part in one.builder.parts}
    assert set(languages) == {"Python"} and len(pieces) > 5
    for path, ranges in pieces.items():
        ranges.sort()  # of fill-in-the-middle, the middle comes last
        assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])], path
        assert ranges[-1][1] == lengths[path]
    (account,) = plain.prepared.header.accounts.values()
    assert account["used"] + sum(account["dropped"].values()) == account["tokenized"]
    train = plain.of("train")
    assert 0.2 * len(train) < account["fim"] < 0.8 * len(train)
    assert max(len(row.input_ids) for row in train) <= 256


def test_the_held_out_sequences_are_those_of_the_structured_recipe(
    plain: Case, long_history: Path, tokenizer: RepoTokenizer
) -> None:
    structured = prepared(long_history, tokenizer, load_settings(None, SETTINGS), phases=1, length=256)
    for split in ("validation", "test"):
        ours, theirs = ([row.input_ids.tolist() for row in case.of(split)] for case in (structured, plain))
        assert ours == theirs and ours
    assert {row.kind for row in structured.of("train")} > {"hierarchical"}


def test_a_weight_shows_every_text_as_often_with_other_middles(long_history: Path, tokenizer: RepoTokenizer) -> None:
    twice = prepared(
        long_history, tokenizer, load_settings(None, (*PLAIN, "data.fim_share=1")), phases=1, length=256, weights=[2.0]
    )
    rows = [tuple(row.input_ids.tolist()) for row in twice.of("train")]
    assert len(set(rows)) > 0.8 * len(rows)
    (account,) = twice.prepared.header.accounts.values()
    assert account["used"] + sum(account["dropped"].values()) == account["tokenized"]
    assert sum(row.loss_weights[1:].sum() for row in twice.of("train")) > 0.95 * account["tokenized"]


def test_there_is_one_phase_with_one_cosine_in_an_order_of_chance() -> None:
    more = ("long_context.phase3_enabled=true", "long_context.phase1_epochs=4", "long_context.phase1_max_length=2048")
    settings = load_settings(None, (*PLAIN, *more))
    assert [phase.number for phase in phase_list(settings)] == [1] and last_phase(settings) == 1
    (phase,) = make_schedule(settings)
    assert (phase.above, phase.max_length, phase.epochs) == (0, 2048, 4)
    rates = [learning_rate_at(settings.training, phase, update, 40) for update in range(40)]
    assert sorted(rates[6:], reverse=True) == rates[6:], "warmed up once"
    score = tuple(at / 400 for at in range(400))
    difficulty = tuple(("easy", "medium", "hard", "very_hard")[at // 100] for at in range(400))
    lengths, files = [100] * 400, ("a.py",) * 400
    catalog = SequenceCatalog(np.array(lengths), difficulty, np.array(score), ("train",) * 400, files)
    order = np.array(epoch_order(catalog, phase, 1, settings).indices)
    assert abs(np.corrcoef(np.arange(400), order)[0, 1]) < 0.2
    capped = load_settings(None, (*PLAIN, *more, "training.max_tokens_per_epoch=10000"))
    some = epoch_order(catalog, make_schedule(capped)[0], 1, capped)
    assert min(some.by_difficulty.values()) > 10, "no difficulty first"


def test_phases_of_another_recipe_are_refused_in_a_line(
    plain: Case, long_history: Path, tokenizer: RepoTokenizer
) -> None:
    with pytest.raises(InputError, match=r"data\.recipe=plain has phase 1 alone: leave out --phases"):
        prepared(long_history, tokenizer, load_settings(None, PLAIN), phases=3, length=256)
    header = plain.prepared.header
    check_recipe(header, "plain")
    check_recipe(replace(header, made_by="prepare"), "plain")
    with pytest.raises(InputError, match=r"set data\.recipe=plain, or prepare them again"):
        check_recipe(header, "structured")
