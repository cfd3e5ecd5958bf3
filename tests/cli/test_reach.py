"""`prepare` and `tokenize` build no sequences that are longer than the model's positions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_repository import small_repository
from typer.testing import CliRunner, Result

from longrepo import embedded
from longrepo.cli.app import app
from longrepo.errors import InputError


def longrepo(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_repository(tmp_path_factory.mktemp("reach") / "shop")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, as if it had been trained to 1,024 positions."""
    folder = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(embedded.path(), folder, ignore=shutil.ignore_patterns("*.safetensors", "__*", "*.py"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    return folder


def prepared_phases(shop: Path, folder: Path, *words: str | Path) -> tuple[list[int], str]:
    """The phases that were built, and what was printed."""
    done = longrepo("prepare", "--repo", shop, "--output-dir", folder, *words)
    assert done.exit_code == 0, (done.output, done.exception)
    summary = json.loads((folder / "preparation_summary.json").read_text())
    return [phase["phase"] for phase in summary["phases"]], " ".join(done.output.split())


def test_phases_that_are_off_and_beyond_the_positions_are_left_out(shop: Path, short: Path, tmp_path: Path) -> None:
    phases, text = prepared_phases(shop, tmp_path / "a", "--model", "embedded")
    assert phases == [1, 2]
    assert "phase 3 (up to 4,096 tokens) is left out: the positions of embedded reach 2,048" in text
    assert "length raised" not in text
    phases, text = prepared_phases(shop, tmp_path / "b", "--model", "embedded", "--phases", "2")
    assert phases == [1, 2] and "left out: the positions" not in text
    phases, text = prepared_phases(shop, tmp_path / "c", "--model", short, "--set", "long_context.phase2_epochs=0")
    assert phases == [1] and "phase 2 (up to 2,048 tokens) is left out" in text and "phase 3 (up to" in text


def test_positions_that_are_extended_count(shop: Path, tmp_path: Path) -> None:
    words = [f"context.{one}" for one in ("method=yarn", "target_length=4096", "window=full")]
    sets = [word for one in words for word in ("--set", one)]
    phases, text = prepared_phases(shop, tmp_path / "a", "--model", "embedded", *sets)
    assert phases == [1, 2, 3] and "left out: the positions" not in text


REFUSED = {
    "a phase that is trained": (
        ["prepare", "--model", "embedded", "--set", "long_context.phase3_enabled=true"],
        "long_context.phase3_max_length: 4,096 tokens, and the positions of embedded reach 2,048",
    ),
    "a phase that can't be off": (["prepare", "--model", "SHORT"], "long_context.phase2_max_length: 2,048 tokens"),
    "longer windows": (["tokenize", "--model", "embedded", "--sequence-length", "4096"], "windows of 4,096 tokens"),
    "windows of the usual length": (["tokenize", "--model", "SHORT"], "windows of 2,048 tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_computed_is_refused_before_anything_is_built(
    case: str, shop: Path, short: Path, tmp_path: Path
) -> None:
    words, expected = REFUSED[case]
    output = "--output-dir" if words[0] == "prepare" else "--output"
    named = [str(short) if word == "SHORT" else word for word in words]
    done = longrepo(*named, "--repo", shop, output, tmp_path / "out")
    assert isinstance(done.exception, InputError) and expected in str(done.exception)
    assert "1,024" in str(done.exception) or "2,048" in str(done.exception)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
