"""The two documented commands, run as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_packages import NAMES, module
from tokenizers import Tokenizer

from longrepo.data.dataset import read_sequences

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, backend: Tokenizer) -> Path:
    """A repository in `repo` and a model's tokenizer in `model`."""
    from git_helper import make_repo

    folder = tmp_path_factory.mktemp("commands")
    make_repo(folder / "repo", [{f"{name}.py": module(name, None, 8) for name in NAMES}])
    (folder / "model").mkdir()
    backend.save(str(folder / "model" / "tokenizer.json"))
    return folder


def test_prepare_writes_sequences_and_a_summary(folder: Path) -> None:
    done = run(
        "prepare_long_context.py",
        *("--repo", folder / "repo", "--output-dir", folder / "out", "--model", folder / "model"),
        *("--max-sequence-length", "1024", "--phases", "1", "--set", "data.held_out_per_length=4", "--verbose"),
    )
    assert done.returncode == 0, done.stderr
    assert "phase 1 (≤1024)" in done.stdout and "100.0% of" in done.stdout and "held out as well" in done.stdout
    file = read_sequences(folder / "out" / "sequences")
    summary = json.loads((folder / "out" / "preparation_summary.json").read_text())
    assert len(file) == file.header.rows > 0 and summary["repositories"][0]["files"]["count"] == len(NAMES)
    assert file.column("split").count("test") <= 4


def test_tokenize_writes_windows_by_suffix(folder: Path) -> None:
    done = run(
        "tokenizers/git_tokenizer_rich.py",
        *("--repo", folder / "repo", "--model", folder / "model", "--output", folder / "windows.json"),
        *("--sequence-length", "1024", "--overlap", "128"),
    )
    assert done.returncode == 0, done.stderr
    file = read_sequences(folder / "windows.json")
    assert "window" in file.column("kind") and file.header.made_by == "tokenize, overlap 128"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--repo", "/nowhere/at/all"), "no such folder"),
        (("--repo", ".", "--model", "./no-model"), "no such folder; give a model folder"),
        (("--repo", ".", "--set", "data.overlp=3"), "did you mean data.overlap?"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = run("prepare_long_context.py", "--output-dir", tmp_path / "out", *arguments)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_overlap_as_long_as_the_window_is_refused(folder: Path) -> None:
    done = run(
        "tokenizers/git_tokenizer_rich.py",
        *("--repo", folder / "repo", "--output", folder / "w.json", "--sequence-length", "512", "--overlap", "512"),
    )
    assert done.returncode == 2 and "--overlap 512: must be below --sequence-length (512)" in done.stderr


def test_the_guides_import_works() -> None:
    done = run("-c", "from dataset_builder_long_context import LongContextSequence, LongContextSequenceBuilder")
    assert done.returncode == 0, done.stderr
