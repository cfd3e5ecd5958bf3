"""The planner reads a model's configuration as the engines compute it."""

from __future__ import annotations

import pytest

from longrepo.config.schema import ContextSettings
from longrepo.engines.model_shape import read_config, read_shape
from longrepo.errors import InputError


def test_positions_and_windows_are_those_of_the_settings() -> None:
    for method in ("none", "yarn", "dynamic"):
        context = ContextSettings(method=method, target_length=16384, window="full")  # type: ignore[arg-type]
        config = read_config("embedded", None, context)
        assert config.sliding_window is None
        assert read_shape(config).max_positions == 16384
        assert config.rope_parameters["rope_type"] == ("yarn" if method == "yarn" else "default")
    assert read_shape(read_config("embedded")).max_positions == 2048


def test_what_cannot_be_names_the_model() -> None:
    with pytest.raises(InputError, match=r"model embedded: context\.method: linear to 16,384 tokens"):
        read_config("embedded", None, ContextSettings(method="linear", target_length=16384))
