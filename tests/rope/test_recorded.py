"""An adapter says at which positions it was trained; loaded at others it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from longrepo.config.schema import ContextSettings
from longrepo.errors import InputError
from longrepo.rope.apply import CONTEXT_FILE, check_trained_context, read_context, write_context

YARN = ContextSettings(method="yarn", target_length=8192, window="full")
DYNAMIC = ContextSettings(method="dynamic", target_length=8192, window="full")


def test_what_is_recorded_is_read_back(tmp_path: Path) -> None:
    assert read_context(tmp_path) == ContextSettings()
    write_context(tmp_path, YARN)
    assert read_context(tmp_path) == YARN
    check_trained_context(tmp_path, YARN)


def test_nothing_is_written_for_a_base_s_own_positions(tmp_path: Path) -> None:
    write_context(tmp_path, ContextSettings())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "asked",
    [
        ContextSettings(),
        YARN.model_copy(update={"target_length": 16384}),
        DYNAMIC,
        YARN.model_copy(update={"window": "keep"}),
    ],
)
def test_other_positions_are_refused_with_the_way_out(tmp_path: Path, asked: ContextSettings) -> None:
    write_context(tmp_path, YARN)
    with pytest.raises(InputError, match="trained with other positions") as caught:
        check_trained_context(tmp_path, asked)
    assert "--set context.method=yarn --set context.target_length=8192 --set context.window=full" in str(caught.value)


def test_a_base_s_own_positions_are_no_others(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no context settings"):
        check_trained_context(tmp_path, YARN)


def test_with_dynamic_the_length_is_the_text_s(tmp_path: Path) -> None:
    write_context(tmp_path, DYNAMIC)
    check_trained_context(tmp_path, DYNAMIC.model_copy(update={"target_length": 4096}))


def test_a_record_that_was_cut_off_is_one_line(tmp_path: Path) -> None:
    (tmp_path / CONTEXT_FILE).write_text('{"method": ')
    with pytest.raises(InputError, match="can't be read as a position setting"):
        read_context(tmp_path)
