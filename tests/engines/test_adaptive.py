"""Positions follow the text: one engine, moved from tier to tier, computes what one made at that tier computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TinyTokenizer, model_folder, settings

from longrepo.config.schema import ContextSettings
from longrepo.engines.base import Batch
from longrepo.engines.registry import choose, create
from longrepo.engines.tiers import SHORT, Adaptive, speeds, tiers_for
from longrepo.errors import InputError
from longrepo.rope.apply import OWN

YARN = ContextSettings(method="yarn", target_length=256, window="full")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("short") / "model", max_position_embeddings=64)


def made(model: Path, name: str, *overrides: str) -> Any:
    given: Any = TinyTokenizer()
    return create(choose(name, "cpu"), settings(model, "model.quantization=none", *overrides), given, "cpu")


def scores(engine: Any, tokens: int) -> np.ndarray:
    ids = [1 + place % 90 for place in range(tokens)]
    found: np.ndarray = engine.score(Batch.of([(ids, [1.0] * tokens)], 0))
    return found


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_each_text_is_computed_at_its_tier(model: Path, name: str) -> None:
    engine = made(model, name)
    adaptive = Adaptive(engine, tiers_for(settings(model).model, OWN, YARN))
    assert [tier.length for tier in adaptive.tiers.every] == [64, 128, 256]
    short = scores(engine, 60)
    for tokens in (100, 200, 60):
        tier = adaptive.hold(tokens)
        scaled = f"context.method={tier.context.method}", f"context.window={tier.context.window}"
        target = [f"context.target_length={tier.length}"] if tier.context != OWN else []
        assert np.array_equal(scores(engine, tokens), scores(made(model, name, *scaled, *target), tokens))
    assert np.array_equal(scores(engine, 60), short)
    before = scores(engine, 60)
    with pytest.raises(InputError, match="257 tokens, and its positions reach 256"):
        adaptive.hold(257)
    assert np.array_equal(scores(engine, 60), before), "it stays as it was"


def test_an_engine_is_moved_only_where_its_tier_has_other_positions(model: Path) -> None:
    moved: list[ContextSettings] = []

    class Counted:
        def position(self, context: ContextSettings) -> None:
            moved.append(context)

    engine: Any = Counted()
    adaptive = Adaptive(engine, tiers_for(settings(model).model, OWN, YARN))
    for tokens in (10, 64, 65, 128, 129, 256, 3):
        adaptive.hold(tokens)
    assert [one.target_length for one in moved] == [128, 256, None]


def test_what_cannot_be_names_the_model(model: Path) -> None:
    with pytest.raises(InputError, match=f"model {model}: it was trained at other positions"):
        tiers_for(settings(model).model, YARN, OWN)


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_speed_is_measured_tier_by_tier_as_long_as_there_is_time(model: Path, name: str) -> None:
    adaptive = Adaptive(made(model, name), tiers_for(settings(model).model, OWN, YARN))
    found = list(speeds(adaptive, 90, 1000.0))
    assert [one.prompt for one in found] == [SHORT - 16, 64 - 16, 128 - 16, 256 - 16]
    assert all(one.prompt_seconds > 0 and one.peak > 0 and 1 <= one.new <= 16 for one in found)
    assert [one.prompt for one in speeds(adaptive, 90, 0.0)] == [SHORT - 16]
