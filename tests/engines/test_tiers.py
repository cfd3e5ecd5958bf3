"""Positions follow the text: one engine, moved from tier to tier, computes what one made at that tier computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TinyTokenizer, model_folder, settings

from longrepo.config.schema import ContextSettings
from longrepo.engines.base import Batch
from longrepo.engines.registry import choose_engine, create_engine
from longrepo.engines.tiers import SHORT_PROMPT, TieredEngine, measure_speeds, model_tiers
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT

YARN = ContextSettings(method="yarn", target_length=256, window="full")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("short") / "model", max_position_embeddings=64)


def made(model: Path, name: str, *overrides: str) -> Any:
    given: Any = TinyTokenizer()
    return create_engine(
        choose_engine(name, "cpu"), settings(model, "model.quantization=none", *overrides), given, "cpu"
    )


def scores(engine: Any, tokens: int) -> np.ndarray:
    ids = [1 + place % 90 for place in range(tokens)]
    found: np.ndarray = engine.score(Batch.of([(ids, [1.0] * tokens)], 0))
    return found


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_each_text_is_computed_at_its_tier(model: Path, name: str) -> None:
    engine = made(model, name)
    adaptive = TieredEngine(engine, model_tiers(settings(model).model, NATIVE_CONTEXT, YARN))
    assert [tier.length for tier in adaptive.tiers.every] == [64, 128, 256]
    short = scores(engine, 60)
    for tokens in (100, 200, 60):
        tier = adaptive.select_tier(tokens)
        scaled = f"context.method={tier.context.method}", f"context.window={tier.context.window}"
        target = [f"context.target_length={tier.length}"] if tier.context != NATIVE_CONTEXT else []
        assert np.array_equal(scores(engine, tokens), scores(made(model, name, *scaled, *target), tokens))
    assert np.array_equal(scores(engine, 60), short)
    before = scores(engine, 60)
    with pytest.raises(InputError, match="257 tokens, but the model's positions reach 256"):
        adaptive.select_tier(257)
    assert np.array_equal(scores(engine, 60), before), "it stays as it was"


def test_an_engine_is_moved_only_where_its_tier_has_other_positions(model: Path) -> None:
    moved: list[ContextSettings] = []

    class Counted:
        def position(self, context: ContextSettings) -> None:
            moved.append(context)

    engine: Any = Counted()
    adaptive = TieredEngine(engine, model_tiers(settings(model).model, NATIVE_CONTEXT, YARN))
    for tokens in (10, 64, 65, 128, 129, 256, 3):
        adaptive.select_tier(tokens)
    assert [one.target_length for one in moved] == [128, 256, None]


def test_what_cannot_be_names_the_model(model: Path) -> None:
    with pytest.raises(InputError, match=f"model {model}: it was trained at other positions"):
        model_tiers(settings(model).model, YARN, NATIVE_CONTEXT)


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_speed_is_measured_tier_by_tier_as_long_as_there_is_time(model: Path, name: str) -> None:
    adaptive = TieredEngine(made(model, name), model_tiers(settings(model).model, NATIVE_CONTEXT, YARN))
    found = list(measure_speeds(adaptive, 90, 1000.0))
    assert [one.prompt for one in found] == [SHORT_PROMPT - 16, 64 - 16, 128 - 16, 256 - 16]
    assert all(one.prompt_seconds > 0 and one.peak > 0 and 1 <= one.new <= 16 for one in found)
    assert [one.prompt for one in measure_speeds(adaptive, 90, 0.0)] == [SHORT_PROMPT - 16]
