"""The order of an epoch: pure, easy first at the start, capped and replayed without losing a sequence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.curriculum.sampler import EpochOrder, SequenceCatalog, count_updates, epoch_order, take_from_pool
from longrepo.curriculum.schedule import make_schedule


def catalog(short: int = 40, long: int = 30) -> SequenceCatalog:
    chance = np.random.default_rng(3)
    lengths = np.concatenate([chance.integers(500, 1025, short), chance.integers(1025, 2049, long)])
    score = chance.random(short + long)
    names = ("easy", "medium", "hard", "very_hard")
    difficulty = tuple(names[int(value * 4)] for value in score)
    files = tuple(f"{at % 10}.py" for at in range(short + long))
    return SequenceCatalog(lengths, difficulty, score, ("train",) * (short + long), files)


def order(phase: int, epoch: int, *overrides: str, of: SequenceCatalog | None = None) -> EpochOrder:
    settings = load_settings(overrides=overrides)
    return epoch_order(of or catalog(), make_schedule(settings)[phase - 1], epoch, settings)


def test_it_is_a_pure_function_of_seed_epoch_and_data() -> None:
    assert order(2, 3) == order(2, 3)
    assert order(1, 1).indices != order(1, 1, "training.seed=7").indices
    assert sorted(order(1, 1).indices) == sorted(order(1, 2).indices) != list(order(1, 2).indices)


def _trend(indices: tuple[int, ...], of: SequenceCatalog) -> float:
    """Correlation of the place in the order with the difficulty score."""
    return float(np.corrcoef(np.arange(len(indices)), of.score[list(indices)])[0, 1])


def test_the_first_epoch_goes_from_easy_to_hard_and_the_last_is_shuffled() -> None:
    data = catalog(short=200, long=1)
    first, last = order(1, 1, of=data), order(1, 5, of=data)
    assert 0.7 < _trend(first.indices, data) < 0.999, "easy first, with jitter"
    assert abs(_trend(last.indices, data)) < 0.2


def test_replay_mixes_in_the_share_of_tokens_from_shorter_phases() -> None:
    data = catalog(short=200, long=100)
    one = order(2, 1, "data.replay_share=0.2", of=data)
    replayed = [index for index in one.indices if data.lengths[index] <= 1024]
    assert len(replayed) == one.replayed > 0
    share = sum(data.lengths[replayed]) / one.tokens
    assert share == pytest.approx(0.2, abs=0.01)
    halves = len([i for i in one.indices[: len(one.indices) // 2] if i in set(replayed)]) / len(replayed)
    assert 0.25 < halves < 0.75, "spread over the epoch"
    other = order(2, 2, "data.replay_share=0.2", of=data)
    assert not set(replayed) & {i for i in other.indices if data.lengths[i] <= 1024}, "the next epoch replays others"
    assert order(1, 1, of=data).replayed == 0 == order(2, 1, "data.replay_share=0", of=data).replayed


def test_under_a_cap_every_sequence_has_its_turn() -> None:
    data = catalog(short=40, long=1)
    cap = 10_000
    alone = (f"training.max_tokens_per_epoch={cap}", "long_context.phase2_epochs=0")
    orders = [order(1, n, *alone, of=data) for n in range(1, 6)]
    assert all(0 < one.tokens <= cap for one in orders)
    assert len({frozenset(one.indices) for one in orders}) == 5, "each epoch a different part"
    assert set().union(*(one.indices for one in orders)) == set(range(40))
    assert all(len(one.indices) + one.left_out["token cap"] == 40 for one in orders)
    bands = [data.difficulty[index] for index in orders[0].indices]
    assert set(bands) <= {"easy", "medium"}, "the phase's bands have the first turn"


def test_strict_difficulty_leaves_out_and_counts() -> None:
    data = catalog()
    one = order(1, 1, "long_context.strict_difficulty=true", of=data)
    assert {data.difficulty[index] for index in one.indices} == {"easy", "medium"}
    assert one.left_out == {"length": 30, "difficulty": 40 - len(one.indices), "token cap": 0}
    assert sum(one.by_difficulty.values()) == len(one.indices)


def test_a_stretch_holds_at_least_one_and_goes_round() -> None:
    lengths = np.array([5, 5, 5, 50])
    assert take_from_pool([0, 1, 2, 3], lengths, 10, 0) == [0, 1]
    assert take_from_pool([0, 1, 2, 3], lengths, 10, 1) == [2]
    assert take_from_pool([0, 1, 2, 3], lengths, 10, 2) == [3], "longer than the budget, alone"
    assert take_from_pool([0, 1, 2, 3], lengths, 10, 3) == [0, 1]
    assert take_from_pool([0, 1, 2, 3], lengths, 1000, 1) == [0, 1, 2, 3], "none twice"
    assert take_from_pool([], lengths, 10, 2) == []


def test_under_a_cap_each_phase_begins_with_files_of_its_own() -> None:
    data, capped = catalog(), ("training.max_tokens_per_epoch=1500", "data.replay_share=0.4")
    capped += ("long_context.phase1_epochs=2", "long_context.phase2_epochs=2")
    used = [
        {data.files[index] for epoch in (1, 2) for index in order(phase, epoch, *capped, of=data).indices}
        for phase in (1, 2)
    ]
    assert all(used) and not used[0] & used[1]
    much = {data.files[index] for index in order(1, 1, "training.max_tokens_per_epoch=10000000", of=data).indices}
    assert much == set(data.files), "after them, all others"


def test_other_splits_are_never_trained_on() -> None:
    data = catalog()
    held = replace(data, split=("train", "validation", "test") * 23 + ("train",))
    used = set(order(1, 1, of=held).indices) | set(order(2, 1, of=held).indices)
    assert {held.split[index] for index in used} == {"train"}


def test_updates_count_the_short_last_window() -> None:
    settings = Settings.model_validate({"training": {"batch_size_reference": 2, "gradient_accumulation_steps": 3}})
    one = order(1, 1)
    assert len(one.indices) == 40 and count_updates(one, settings) == 7  # 20 batches in windows of 3
