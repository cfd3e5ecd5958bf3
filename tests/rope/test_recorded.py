"""An adapter says at which positions it was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from longrepo.config.schema import ContextSettings
from longrepo.errors import InputError
from longrepo.rope.apply import CONTEXT_FILE, read_context, write_context

YARN = ContextSettings(method="yarn", target_length=8192, window="full")


def test_what_is_recorded_is_read_back(tmp_path: Path) -> None:
    assert read_context(tmp_path) == ContextSettings()
    write_context(tmp_path, YARN)
    assert read_context(tmp_path) == YARN


def test_nothing_is_written_for_a_base_s_own_positions(tmp_path: Path) -> None:
    write_context(tmp_path, ContextSettings())
    assert not list(tmp_path.iterdir())


def test_a_record_that_was_cut_off_is_one_line(tmp_path: Path) -> None:
    (tmp_path / CONTEXT_FILE).write_text('{"method": ')
    with pytest.raises(InputError, match="can't be read as a position setting"):
        read_context(tmp_path)
