"""A text is computed at the positions of the smallest tier that holds it."""

from __future__ import annotations

from typing import Any

import pytest

from longrepo.config.schema import ContextSettings
from longrepo.engines.tiers import Tiers, plan_tiers
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT

STARCODER2_3B: dict[str, Any] = {
    "model_type": "starcoder2",
    "max_position_embeddings": 16384,
    "sliding_window": 4096,
    "hidden_size": 3072,
    "num_attention_heads": 24,
    "rope_parameters": {"rope_theta": 999999.4420358813, "rope_type": "default"},
}
YARN = ContextSettings(method="yarn", target_length=131072, window="full")
LINEAR_64K = ContextSettings(method="linear", target_length=65536, window="full")


def lengths(tiers: Tiers) -> list[int]:
    return [tier.length for tier in tiers.every]


def test_the_model_s_own_positions_first_then_twice_as_many_each_time() -> None:
    tiers = plan_tiers(STARCODER2_3B, NATIVE_CONTEXT, YARN)
    assert lengths(tiers) == [4096, 8192, 16384, 32768, 65536, 131072]
    assert [tier.context for tier in tiers.every[:3]] == [NATIVE_CONTEXT] * 3
    for tier in tiers.every[3:]:
        assert tier.context == YARN.model_copy(update={"target_length": tier.length})


@pytest.mark.parametrize(
    ("tokens", "length"), [(1, 4096), (4096, 4096), (4097, 8192), (16384, 16384), (16385, 32768), (131072, 131072)]
)
def test_the_smallest_that_holds_a_text_is_taken(tokens: int, length: int) -> None:
    assert plan_tiers(STARCODER2_3B, NATIVE_CONTEXT, YARN).tier_for(tokens).length == length


def test_a_text_that_none_holds_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"16,385 tokens.*reach 16,384.*--set context\.target_length=16385"):
        plan_tiers(STARCODER2_3B, NATIVE_CONTEXT).tier_for(16385)
    with pytest.raises(InputError, match=r"reach 65,536.*context\.target_length=70000 and context\.method=linear"):
        plan_tiers(STARCODER2_3B, LINEAR_64K).tier_for(70000)


def test_what_was_tuned_at_scaled_positions_is_never_used_at_others() -> None:
    tiers = plan_tiers(STARCODER2_3B, LINEAR_64K)
    assert lengths(tiers) == [4096, 8192, 16384, 32768, 65536]
    assert {tier.context for tier in tiers.every} == {LINEAR_64K}
    farther = plan_tiers(STARCODER2_3B, LINEAR_64K, LINEAR_64K.model_copy(update={"target_length": 131072}))
    assert lengths(farther) == [4096, 8192, 16384, 32768, 65536, 131072]
    assert [tier.context.target_length for tier in farther.every] == [65536] * 5 + [131072]


@pytest.mark.parametrize(
    ("trained", "asked", "expected"),
    [
        (LINEAR_64K, YARN, "only its own method works .--set context.method=linear.*target_length=131072"),
        (LINEAR_64K, YARN.model_copy(update={"target_length": 32768}), "ask for the same .*or for a larger"),
        (LINEAR_64K, NATIVE_CONTEXT, "ask for the same .--set context.method=linear --set context.target_length=65536"),
        (NATIVE_CONTEXT, ContextSettings(window="full"), "ask for the same .no context settings"),
        (NATIVE_CONTEXT, ContextSettings(method="linear", target_length=131072), "reaches no further"),
    ],
)
def test_other_positions_than_it_was_trained_at_are_refused(
    trained: ContextSettings, asked: ContextSettings, expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        plan_tiers(STARCODER2_3B, trained, asked)
    assert "\n" not in str(caught.value)


def test_factors_that_were_given_are_for_the_target_alone() -> None:
    for more in ({"factor": 16.0}, {"method": "longrope", "long_factors": (4.0,) * 64}):
        tiers = plan_tiers(STARCODER2_3B, NATIVE_CONTEXT, YARN.model_copy(update=more))
        assert lengths(tiers) == [4096, 8192, 16384, 131072]


def test_a_short_or_uneven_native_length_is_a_tier_itself() -> None:
    short = STARCODER2_3B | {"max_position_embeddings": 256, "sliding_window": None}
    assert lengths(plan_tiers(short, NATIVE_CONTEXT, YARN.model_copy(update={"target_length": 3000}))) == [
        256, 512, 1024, 2048, 3000,
    ]  # fmt: skip
    uneven = STARCODER2_3B | {"max_position_embeddings": 20000}
    assert lengths(plan_tiers(uneven, NATIVE_CONTEXT, YARN)) == [4096, 8192, 16384, 20000, 32768, 65536, 131072]


def test_a_window_that_is_kept_reaches_any_length_at_the_same_positions() -> None:
    tiers = plan_tiers(STARCODER2_3B, NATIVE_CONTEXT, ContextSettings(target_length=65536))
    assert lengths(tiers) == [4096, 8192, 16384, 32768, 65536]
    assert {(tier.context.method, tier.context.window) for tier in tiers.every} == {("none", "keep")}


def test_a_model_without_a_number_of_positions_has_the_least_it_is_asked_for() -> None:
    assert lengths(plan_tiers({"model_type": "bloom"}, NATIVE_CONTEXT, None, 6000)) == [4096, 6000]
    with pytest.raises(InputError, match="no rotary positions"):
        plan_tiers({"model_type": "bloom"}, NATIVE_CONTEXT, YARN, 6000)
