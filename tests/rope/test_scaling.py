"""Each method's frequencies, as transformers and the MLX engine compute them, against formulas written in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from transformers import LlamaConfig, Starcoder2Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longrepo.config.schema import ContextSettings
from longrepo.engines.mlx.rotary import rope
from longrepo.rope.apply import config_changes, engine_config_changes, fixed_length_changes

Array = npt.NDArray[np.float64]
NATIVE, TARGET, THETA, SIZE = 2048, 16384, 1e5, 32
SCALE = TARGET / NATIVE
PLAIN = THETA ** -(np.arange(0, SIZE, 2) / SIZE)
TURNS = NATIVE * PLAIN / (2 * math.pi)  # within the native length


def linear() -> Array:
    """Chen et al. 2023: f(x, m) becomes f(x, m L / L')."""
    return PLAIN / SCALE


def base() -> Array:
    """Peng et al. 2023, definition 1: b' = b s^(|D| / (|D| - 2))."""
    return (THETA * SCALE ** (SIZE / (SIZE - 2))) ** -(np.arange(0, SIZE, 2) / SIZE)


def yarn() -> Array:
    """Peng et al. 2023, definition 2, with the ramp over dimensions of the authors' code; see the bounds' own test."""

    def dimension(turns: float) -> float:
        return SIZE / 2 * math.log(NATIVE / (turns * 2 * math.pi)) / math.log(THETA)

    low, high = math.floor(dimension(32)), math.ceil(dimension(1))
    kept = 1 - np.clip((np.arange(SIZE // 2) - low) / (high - low), 0, 1)
    return (1 - kept) * PLAIN / SCALE + kept * PLAIN


def llama3() -> Array:
    """Llama 3.1's published code: wavelengths above L stretched, below L / 4 left, a ramp in L / wavelength between."""
    smooth = np.clip((TURNS - 1) / (4 - 1), 0, 1)
    return (1 - smooth) * PLAIN / SCALE + smooth * PLAIN


def longrope() -> Array:
    """Ding et al. 2024: each frequency divided by a factor of its own."""
    return PLAIN / FACTORS


FACTORS = np.linspace(1, 9, SIZE // 2)
METHODS: dict[str, tuple[Callable[[], Array], float]] = {
    "linear": (linear, 1.0),
    "base": (base, 1.0),
    "dynamic": (base, 1.0),  # at the target itself s is the same (section 3.3)
    "yarn": (yarn, 0.1 * math.log(SCALE) + 1),
    "llama3": (llama3, 1.0),
    "longrope": (longrope, math.sqrt(1 + math.log(SCALE) / math.log(NATIVE))),
}


def settings(method: str, **changed: Any) -> ContextSettings:
    factors = tuple(FACTORS.tolist()) if method == "longrope" else None
    return ContextSettings(method=method, target_length=TARGET, long_factors=factors, **changed)  # type: ignore[arg-type]


def config(**changed: Any) -> dict[str, Any]:
    shape: dict[str, Any] = {"hidden_size": 4 * SIZE, "num_attention_heads": 4, "max_position_embeddings": NATIVE}
    parameters = {"rope_type": "default", "rope_theta": THETA}
    return LlamaConfig(**shape, rope_parameters=parameters, **changed).to_dict()


def by_transformers(tree: dict[str, Any], length: int) -> tuple[Array, float]:
    """Frequencies and scale of a text of `length` tokens."""
    import torch

    module = LlamaRotaryEmbedding(LlamaConfig(**tree))
    module(torch.zeros(1), torch.arange(length)[None])
    return module.inv_freq.double().numpy(), module.attention_scaling


def by_mlx(tree: dict[str, Any]) -> tuple[Array, float]:
    """Read off what the module makes of a unit vector in each plane, one token after the first."""
    module = rope(tree["rope_parameters"], SIZE, tree["max_position_embeddings"])
    ones = mx.concatenate([mx.ones((1, 1, 2, SIZE // 2)), mx.zeros((1, 1, 2, SIZE // 2))], axis=-1)
    turned = np.array(module(ones), dtype=np.float64)[0, 0, 1]
    real, imaginary = turned[: SIZE // 2], turned[SIZE // 2 :]
    return np.arctan2(imaginary, real), float(np.hypot(real, imaginary).mean())


@pytest.mark.parametrize("method", METHODS)
def test_frequencies_are_those_of_the_formula_in_both_libraries(method: str) -> None:
    expected, scale = METHODS[method][0](), METHODS[method][1]
    tree = config() | engine_config_changes(config(), settings(method))
    for found, attention in (by_transformers(tree, 8), by_mlx(tree)):
        np.testing.assert_allclose(found, expected, rtol=3e-6)
        assert attention == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("method", ["dynamic", "longrope"])
def test_at_one_length_the_frequencies_are_those_transformers_takes_for_it(method: str) -> None:
    """What a folder says depends on the text; what engines compute doesn't, and is the same at that length."""
    folder = config() | config_changes(config(), settings(method))
    for length in (NATIVE // 2, NATIVE + 1000, TARGET):
        fixed = folder | fixed_length_changes(folder, length)
        expected = by_transformers(folder, length)[0]
        for text in (8, length):
            np.testing.assert_allclose(by_transformers(fixed, text)[0], expected, rtol=1e-6)
        np.testing.assert_allclose(by_mlx(fixed)[0], expected, rtol=3e-6)


def test_yarn_leaves_what_turns_32_times_and_scales_what_turns_less_than_once() -> None:
    """The paper bounds turns; between the bounds it ramps over turns, the authors' code over dimensions."""
    found = by_transformers(config() | engine_config_changes(config(), settings("yarn")), 8)[0]
    np.testing.assert_allclose(found[TURNS > 32], PLAIN[TURNS > 32], rtol=1e-6)
    np.testing.assert_allclose(found[TURNS < 1], PLAIN[TURNS < 1] / SCALE, rtol=1e-6)
    assert np.all((found <= PLAIN * (1 + 1e-6)) & (found >= PLAIN / SCALE * (1 - 1e-6)))


def test_without_found_factors_longrope_divides_as_yarn_does() -> None:
    context = ContextSettings(method="longrope", target_length=TARGET)
    found = by_transformers(config() | engine_config_changes(config(), context), 8)[0]
    np.testing.assert_allclose(found, yarn(), rtol=1e-6)


def test_dynamic_s_factor_is_how_much_faster_than_the_length_its_base_grows() -> None:
    """transformers' formula: b (f l / L - (f - 1))^(d / (d - 2))."""
    tree = config() | engine_config_changes(config(), settings("dynamic", factor=2.0))
    stretched = THETA * (2 * SCALE - 1) ** (SIZE / (SIZE - 2))
    assert tree["rope_parameters"]["rope_theta"] == pytest.approx(stretched)


def test_a_part_of_a_head_is_scaled_as_a_head_of_that_size() -> None:
    whole = config()
    whole["rope_parameters"] |= {"partial_rotary_factor": 0.5}
    for method, parameters in (("base", 16), ("longrope", 8)):
        found = config_changes(whole, ContextSettings(method=method, target_length=TARGET))["rope_parameters"]  # type: ignore[arg-type]
        assert found["partial_rotary_factor"] == 0.5
        if method == "base":
            assert found["rope_theta"] == pytest.approx(THETA * SCALE ** (parameters / (parameters - 2)))
        else:
            assert len(found["long_factor"]) == parameters


def test_starcoder2_s_heads_are_counted() -> None:
    tree = Starcoder2Config(max_position_embeddings=NATIVE).to_dict()
    found = config_changes(tree, ContextSettings(method="longrope", target_length=TARGET))
    assert len(found["rope_parameters"]["long_factor"]) == 3072 // 24 // 2
