"""Bad input, as a user gives it: one clear line, status 2, nothing lost and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from git_helper import make_repo
from small_repository import small_repository

ROOT = Path(__file__).parents[2]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(cwd), "LONGREPO_CACHE": "off"}
    command = [sys.executable, str(ROOT / words[0]), *map(str, words[1:])]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    make_repo(folder / "no-commits")
    make_repo(folder / "no-text", [{"picture.png": b"\x89PNG\x00\x00\x01", "link.bin": b"\x00\x01"}])
    small_repository(folder / "shop")
    (folder / "file").write_text("a file")
    (folder / "wrong.yaml").write_text("lora:\n  rr: 3\ntraining:\n  base_learning_rate: fast\n")
    (folder / "work").mkdir()
    return folder


CASES = {
    "an empty folder": (["--repo", "../empty"], ["empty", "not a git repository"]),
    "a repository without commits": (["--repo", "../no-commits"], ["no-commits", "no commits"]),
    "a repository without text": (["--repo", "../no-text"], ["no text files"]),
    "an unknown revision": (["--repo", "../shop", "--revision", "v9"], ["v9"]),
    "a wrong key and a wrong value": (
        ["--repo", "../shop", "--config", "../wrong.yaml"],
        ["2 problems", "unknown key lora.rr; did you mean lora.r?", "base_learning_rate: expected a valid number"],
    ),
    "a model that can't be had": (["--repo", "../shop", "--model", "nobody/nothing"], ["nobody/nothing"]),
    "a folder that isn't a model": (["--repo", "../shop", "--model", "../empty"], ["../empty"]),
}


@pytest.mark.parametrize("door", ["prepare_long_context.py", "run_pipeline_dynamic.py"])
@pytest.mark.parametrize("case", CASES)
def test_one_clear_line_and_status_2(door: str, case: str, places: Path) -> None:
    arguments, expected = CASES[case]
    output = "--output-dir" if door.startswith("prepare") else "--output"
    model = [] if "--model" in arguments else ["--model", "embedded"]
    done = run(door, *arguments, *model, output, "out", cwd=places / "work")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    error = done.stderr[done.stderr.index("error: ") :]
    assert all(words in error for words in expected), error
    assert len(error.splitlines()) == (3 if "problems" in error else 1), error
    assert not [path for path in (places / "work").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("door", "option"), [("prepare_long_context.py", "--output-dir"), ("run_pipeline_dynamic.py", "--output")]
)
def test_a_place_that_cannot_be_written(door: str, option: str, places: Path) -> None:
    done = run(door, "--repo", "../shop", "--model", "embedded", option, "../file/out", cwd=places / "work")
    assert done.returncode == 2, done.stderr
    assert "file" in done.stderr and "Traceback" not in done.stderr
    assert (places / "file").read_text() == "a file"


def test_sequences_of_another_tokenizer(places: Path, tmp_path: Path) -> None:
    made = run(
        *("tokenizers/git_tokenizer_rich.py", "--repo", places / "shop", "--model", "embedded", "--output", "s.jsonl"),
        *("--sequence-length", "1024", "--set", "data.structure_tokens=false"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    train = ["training/model_trainer_unified.py", "--sequences", "s.jsonl", "--model", "embedded", "--output", "run"]
    done = run(*train, "--set", "long_context.phase2_epochs=0", cwd=tmp_path)
    assert done.returncode == 2
    assert "the sequences were made with the tokenizer of embedded" in done.stderr
    assert not (tmp_path / "run").exists()
    whole = (tmp_path / "s.jsonl").read_bytes()
    (tmp_path / "s.jsonl").write_bytes(whole[: len(whole) // 2])
    done = run(*train, cwd=tmp_path)
    assert done.returncode == 2
    assert "s.jsonl: " in done.stderr and "cut short" in done.stderr and len(done.stderr.splitlines()) == 1
