"""Names of files and folders: what ends like a file of another format is refused; what `prepare` wrote is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_repository import small_repository
from typer.testing import CliRunner, Result

from longrepo.cli.app import app
from longrepo.errors import InputError


def longrepo(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_repository(tmp_path_factory.mktemp("names") / "shop")


@pytest.fixture(scope="module")
def prepared(shop: Path) -> Path:
    """What --output-dir of `prepare` named."""
    folder = shop.parent / "prep"
    words = ("prepare", "--repo", shop, "--output-dir", folder, "--model", "embedded", "--phases", "1")
    done = longrepo(*words, "--set", "long_context.phase1_max_length=256")
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("name", ["x.csv", "x.JSON", "x.json.gz", "x.arrow", "x.h5", "x.txt"])
def test_windows_are_not_written_under_the_name_of_another_format(name: str, shop: Path, tmp_path: Path) -> None:
    done = longrepo("tokenize", "--repo", shop, "--output", tmp_path / name, "--model", "embedded")
    assert isinstance(done.exception, InputError)
    assert "give a name ending in .json, .jsonl, .parquet, or a folder's name" in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x", "x.v2", "shop-1.4", "x.jsonl"])
def test_names_of_folders_and_of_known_formats_are_written(name: str, shop: Path, tmp_path: Path) -> None:
    done = longrepo("tokenize", "--repo", shop, "--output", tmp_path / name, "--model", "embedded")
    assert done.exit_code == 0, done.output
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert longrepo("inspect", tmp_path / name).exit_code == 0


FOLDERS = {
    "prepare": ["--repo", "SHOP", "--model", "embedded", "--output-dir", "NAME"],
    "pipeline": ["--repo", "SHOP", "--model", "embedded", "--output", "NAME"],
    "train": ["--sequences", "PREP", "--model", "embedded", "--output", "NAME"],
    "pretrain": ["--preset", "embedded_256", "--repo", "SHOP", "--output", "NAME"],
    "extend": ["embedded", "--to", "4096", "--window", "full", "--output", "NAME"],
    "report": ["PREP", "--output", "NAME"],
}


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("name", ["out.json", "out.gguf"])
def test_a_folder_is_not_made_under_the_name_of_a_file(
    command: str, name: str, prepared: Path, shop: Path, tmp_path: Path
) -> None:
    places = {"SHOP": str(shop), "PREP": str(prepared), "NAME": str(tmp_path / name)}
    done = longrepo(command, *(places.get(word, word) for word in FOLDERS[command]))
    assert isinstance(done.exception, InputError) and name in str(done.exception)
    assert not list(tmp_path.iterdir())


SHORT = [
    word
    for key, value in {
        "long_context.phase1_max_length": 256,
        "long_context.phase1_epochs": 1,
        "long_context.phase2_epochs": 0,
        "training.max_tokens_per_epoch": 600,
        "training.max_validation_sequences": 1,
        "training.report_to": "none",
    }.items()
    for word in ("--set", f"{key}={value}")
]


def test_every_command_takes_the_folder_that_prepare_wrote(prepared: Path, shop: Path, tmp_path: Path) -> None:
    for words in (
        ("inspect", prepared),
        ("inspect", prepared, "--index", "0"),
        ("check-leaks", prepared),
        ("plan", "--model", "embedded", "--sequences", prepared, *SHORT),
    ):
        done = longrepo(*words)
        assert done.exit_code == 0, (words, done.output, done.exception)
    done = longrepo("train", "--model", "embedded", "--sequences", prepared, "--output", tmp_path / "run", *SHORT)
    assert done.exit_code == 0, done.output
    assert str((prepared / "sequences").resolve()) in (tmp_path / "run" / "last" / "state.json").read_text()


def test_a_folder_without_sequences_is_still_refused(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "sequences").mkdir()
    done = longrepo("inspect", tmp_path)
    assert isinstance(done.exception, InputError) and "holds no sequences" in str(done.exception)
    assert longrepo("inspect", prepared / "sequences").exit_code == 0
