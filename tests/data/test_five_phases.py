"""Sequences for phases after the third: each repository's text at every length, and held-out sets there too."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_helper import make_repo
from whole import prepared

from longrepo.config.loader import load_settings
from longrepo.data.packing import bands_up_to, last_phase, phase_bands
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError

FURTHER = (
    "long_context.further_phases=[{min_length: 500, max_length: 768, epochs: 1}, "
    "{min_length: 800, max_length: 1024, epochs: 1}, {min_length: 4000, max_length: 8192, epochs: 1, enabled: false}]"
)
SHORT = (
    "long_context.phase1_max_length=128", "long_context.phase2_min_length=192", "long_context.phase2_max_length=256",
    "long_context.phase3_min_length=300", "long_context.phase3_max_length=384", FURTHER,
)  # fmt: skip


def test_what_is_off_below_the_last_is_not_built_and_moves_no_other() -> None:
    given = load_settings(None, SHORT)
    assert last_phase(given) == 5
    chosen, notes = phase_bands(given, 5, 512)
    assert [(band.phase, band.floor, band.cap) for band in chosen] == [
        (1, 0, 128), (2, 128, 256), (4, 384, 768), (5, 768, 1024)
    ]  # fmt: skip
    assert notes == ["length raised from 512 to 1024 tokens: phase 5 is asked for and needs it"]
    assert [band.phase for band in phase_bands(given, 3, 512)[0]] == [1, 2, 3], "asked for by its number"
    assert phase_bands(given, 6, 512)[0][-1].cap == 8192
    assert [(band.phase, band.cap) for band in bands_up_to(given, 700)] == [(1, 128), (2, 256), (4, 700)]
    with pytest.raises(
        InputError, match=r"phase 7 is asked for, but the settings have 6: add it to long_context\.further"
    ):
        phase_bands(given, 7, 512)


def test_every_phase_gets_sequences_of_its_lengths(tmp_path: Path, tokenizer: RepoTokenizer) -> None:
    files = {
        f"part{n}.py": "".join(f"def act_{n}_{k}(one, two):\n    return one * {k} + two - {n}\n\n\n" for k in range(60))
        for n in range(4)
    }
    later = {"part0.py": files["part0.py"] + "def added(three):\n    return three\n"}
    folder = make_repo(tmp_path / "r", [files, later, {"part1.py": files["part1.py"] + "LAST = 7\n"}])
    settings = load_settings(None, (*SHORT, "long_context.phase3_enabled=true", "data.overlap=0"))
    header = prepared(folder, tokenizer, settings, phases=5).prepared.header
    assert {band["phase"]: band["cap"] for band in header.bands} == {1: 128, 2: 256, 3: 384, 4: 768, 5: 1024}
    train = header.counts["train"]
    assert set(train) == {"1", "2", "3", "4", "5"}
    assert all(cell["within_range"] / cell["sequences"] > 0.5 for cell in train.values()), train
