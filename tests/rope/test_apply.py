"""What the `context` settings make of a configuration, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, GPT2Config, LlamaConfig, Qwen2Config, Starcoder2Config

from longrepo.config.loader import load_settings
from longrepo.config.schema import ContextSettings
from longrepo.errors import InputError
from longrepo.rope.apply import config_changes, context_messages, context_reach, engine_config_changes
from longrepo.rope.scaling import check_published_config

STARCODER2 = Starcoder2Config(max_position_embeddings=16384, sliding_window=4096).to_dict()
LLAMA = LlamaConfig(max_position_embeddings=4096, rope_parameters={"rope_type": "default", "rope_theta": 1e4}).to_dict()
QWEN2: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 512, "num_hidden_layers": 4}


def settings(*given: str) -> ContextSettings:
    return load_settings(None, [f"context.{one}" for one in given]).context


def test_the_seed_s_case() -> None:
    """4K to 128K, linear: a factor of 32 and the same base."""
    found = config_changes(LLAMA, settings("method=linear", "target_length=131072"))
    assert found["max_position_embeddings"] == 131072
    assert found["rope_parameters"] == {"rope_type": "linear", "rope_theta": 1e4, "factor": 32.0}


def test_without_settings_nothing_changes() -> None:
    for config in (LLAMA, STARCODER2, GPT2Config().to_dict()):
        assert config_changes(config, settings()) == engine_config_changes(config, settings()) == {}
        assert not list(context_messages(config, settings()))


def test_a_kept_window_reads_on_unscaled() -> None:
    """StarCoder2's distances never exceed 4,095: it reads any length, and no farther back."""
    context = settings("target_length=131072")
    assert context_reach(STARCODER2 | config_changes(STARCODER2, context)) == 131072
    assert "no token sees another that is 4,096 or more away" in "".join(context_messages(STARCODER2, context))
    wide = settings("target_length=131072", "window=full")
    assert config_changes(STARCODER2, wide)["sliding_window"] is None
    assert "extrapolated" in "".join(context_messages(STARCODER2, wide))


@pytest.mark.parametrize("window", ["full", "131072"])
def test_a_wider_window_can_be_scaled(window: str) -> None:
    context = settings("method=yarn", "target_length=131072", f"window={window}")
    found = config_changes(STARCODER2, context)
    assert found["sliding_window"] == (None if window == "full" else 131072)
    assert found["rope_parameters"]["factor"] == 8.0


def test_a_model_with_full_layers_among_its_windowed_ones_can_be_scaled_as_it_is() -> None:
    mixed = Qwen2Config(**QWEN2, max_window_layers=2).to_dict()
    context = settings("method=linear", "target_length=131072")
    assert config_changes(mixed, context)["rope_parameters"]["factor"] == 4.0
    opened = config_changes(mixed, settings("window=full"))
    assert opened == {
        "sliding_window": None,
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * 4,
    }
    with pytest.raises(InputError, match="attention window of 512"):
        config_changes(Qwen2Config(**QWEN2, max_window_layers=0).to_dict(), context)


def test_what_was_extended_is_extended_anew_from_the_native_length() -> None:
    once = LLAMA | config_changes(LLAMA, settings("method=yarn", "target_length=16384"))
    twice = config_changes(once, settings("method=linear", "target_length=131072"))
    assert twice == config_changes(LLAMA, settings("method=linear", "target_length=131072"))
    again = AutoConfig.for_model(**once).to_dict()
    assert config_changes(again, settings("method=linear", "target_length=131072")) == twice


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "no rotary positions": (GPT2Config().to_dict(), ("method=linear", "target_length=8192"), "no rotary positions"),
    "below the native length": (STARCODER2, ("target_length=8192",), "8,192 is below the 16,384 tokens"),
    "nothing to scale": (LLAMA, ("method=yarn", "target_length=4096"), "nothing to scale.*method=none"),
    "the window kept": (
        STARCODER2,
        ("method=yarn", "target_length=131072"),
        r"window of 4,096 reaches no further.*context\.window=full \(or 131072\)",
    ),
    "a window too narrow still": (
        STARCODER2,
        ("method=linear", "target_length=131072", "window=32768"),
        "window of 32,768 reaches no further",
    ),
    "a window narrower than its own": (STARCODER2, ("window=1024",), "narrower than the 4,096 tokens"),
    "a window where there is none": (LLAMA, ("window=4096",), "have no window"),
    "a factor that doesn't reach": (
        LLAMA,
        ("method=linear", "target_length=131072", "factor=16"),
        "16 reaches 65,536 tokens.*needs at least 32",
    ),
    "too few factors": (
        LLAMA,
        ("method=longrope", "target_length=8192", "long_factors=[1, 2]"),
        "has 2, and longrope takes one per frequency: 64",
    ),
    "scaled already": (
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        ("method=yarn", "target_length=131072"),
        "scaled already",
    ),
    "each kind of layer its own way": (
        LLAMA | {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
        ("method=yarn", "target_length=131072"),
        "each kind of its layers has its own",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_a_way_out(case: str) -> None:
    config, given, expected = REFUSED[case]
    with pytest.raises(InputError, match=expected) as caught:
        config_changes(config, settings(*given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("method=yarn", "needs a length to reach"),
        ("factor=2", "scales nothing"),
        ("factor=0.5", "greater than or equal to 1"),
        ("long_factors=[1, 2]", "only context.method=longrope"),
        ("method=alibi", "context.method: expected"),
        ("window=wide", "context.window: expected"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        settings(given)


NEW = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ({"rope_parameters": NEW, "rope_theta": 1e6}, "rope_theta says 1000000.0, rope_parameters 10000.0"),
        ({"rope_parameters": NEW, "rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling says yarn"),
        ({"rope_parameters": NEW, "rope_scaling": {"type": "linear", "factor": 4.0}}, "factor says 4.0"),
        ({"rope_parameters": NEW, "rope_scaling": None}, "rope_scaling says null"),
    ],
)
def test_a_folder_that_says_two_things_is_refused(published: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        check_published_config(published)
    check_published_config(
        {"rope_parameters": NEW, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    )
    check_published_config({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}})
