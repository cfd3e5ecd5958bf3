"""Bad input, as a user gives it: one clear line, status 2, nothing lost and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from git_helper import make_repo
from small_repository import small_repository

from longrepo import embedded

ROOT = Path(__file__).parents[2]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {"LONGREPO_CACHE": os.environ["LONGREPO_CACHE"]}  # one plan of the embedded model is enough
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(cwd), **kept}
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
    "a folder that isn't there": (["--repo", "../shop", "--path", "nowhere"], ["--path nowhere", "no such folder"]),
    "patterns that leave nothing": (
        ["--repo", "../shop", "--set", "data.exclude=*"],
        ["data.exclude", "no text files"],
    ),
    "a pattern that isn't one": (["--repo", "../shop", "--set", "data.include=['!']"], ["data.include", "'!'"]),
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
    assert not (places / "work" / "out").exists()


@pytest.mark.parametrize(
    ("door", "option"), [("prepare_long_context.py", "--output-dir"), ("run_pipeline_dynamic.py", "--output")]
)
def test_a_place_that_cannot_be_written(door: str, option: str, places: Path) -> None:
    done = run(door, "--repo", "../shop", "--model", "embedded", option, "../file/out", cwd=places / "work")
    assert done.returncode == 2, done.stderr
    assert "file" in done.stderr and "Traceback" not in done.stderr
    assert (places / "file").read_text() == "a file"


def test_a_model_that_cannot_be_loaded_leaves_the_output_free(places: Path, tmp_path: Path) -> None:
    base = shutil.copytree(embedded.path(), tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors", "__*"))
    made = run(
        *("tokenizers/git_tokenizer_rich.py", "--repo", places / "shop", "--model", "embedded", "--output", "s.jsonl"),
        *("--sequence-length", "256", "--overlap", "32"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    train = ("training/model_trainer_unified.py", "--sequences", "s.jsonl", "--model", base, "--output", "run")
    short = ("--set", "long_context.phase2_epochs=0", "--set", "long_context.phase1_max_length=256")
    done = run(*train, *short, cwd=tmp_path)
    assert done.returncode == 2 and "can't be loaded" in done.stderr, done.stderr
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"]


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
    assert "the sequences are written with data.structure_tokens=none, and this uses added" in done.stderr
    assert not (tmp_path / "run").exists()
    whole = (tmp_path / "s.jsonl").read_bytes()
    (tmp_path / "s.jsonl").write_bytes(whole[: len(whole) // 2])
    done = run(*train, cwd=tmp_path)
    assert done.returncode == 2
    assert "s.jsonl: " in done.stderr and "cut short" in done.stderr and len(done.stderr.splitlines()) == 1


def source(name: str, functions: int) -> str:
    """Code whose lines are all its own."""
    return "".join(
        f"def {name}_{n}(first_{name}_{n}, other):\n    {name}_{n}_sum = first_{name}_{n} + other * {n}\n"
        f"    return {name}_{n}_sum - {len(name) * n}\n\n\n"
        for n in range(functions)
    )


NAMES = ("gable", "hinge", "joist", "lintel", "mullion", "newel", "purlin", "rafter")
ODD: dict[str, dict[str | bytes, str | bytes]] = {
    "minified files": {
        "app.min.js": "var a=1;" * 4000,
        "packed.js": ";".join(f"function f{n}(a,b){{return a+b*{n}}}" for n in range(4000)),
        "theme.css": "a{b:c}" * 3000,
    },
    "CRLF line endings": {f"{name}.py": source(name, 30).replace("\n", "\r\n").encode() for name in NAMES},
    "invalid UTF-8": {
        "broken.py": source("broken", 20).encode() + b"# \xff\xfe\x80 caf\xe9\n",
        "utf16.py": source("wide", 20).encode("utf-16"),
        "latin.txt": ("Stra\u00dfe und \u00e4hnliches\n" * 60).encode("latin-1"),
    },
    "undecodable paths": {b"caf\xe9/na\xffme.py": source("odd", 20), b"new\nline.py": source("line", 20)},
    "paths that differ only in case": {
        "Read.py": source("upper", 20),
        "read.py": source("lower", 20),
        "src/READ.py": source("shout", 20),
    },
    "one line of 200,000 characters": {
        "line.py": "DATA = [" + ", ".join(map(str, range(30_000))) + "]\n",
        "line.txt": "word and another word " * 9_100,
        "among_others.py": source("among", 180) + "DATA = [" + ", ".join(map(str, range(30_000))) + "]\n",
    },
    "300 tiny files": {f"pkg{n % 7}/tiny_{n}.py": f"VALUE_{n} = {n * 37}\n" for n in range(300)},
    "empty files": {"__init__.py": "", "pkg/__init__.py": "", "blank.py": " \n\n", "newline.txt": "\n"},
}


LEFT_OUT = {
    "invalid UTF-8": {"unknown encoding": 1},  # broken.py: no encoding has both of its odd bytes
    "minified files": {"generated": 3},
    "one line of 200,000 characters": {"generated": 2},
    "empty files": {"empty": 4},
}


@pytest.mark.parametrize("case", ODD)
def test_odd_files_are_prepared_or_counted(case: str, tmp_path: Path) -> None:
    files = {f"{name}.py": source(name, 30) for name in NAMES} | ODD[case]
    edited = {path: text + "last = 1\n" for path, text in files.items() if isinstance(text, str) and len(text) > 9}
    make_repo(tmp_path / "repo", [files, edited], checkout=False)
    words = ["--repo", "repo", "--output-dir", "out", "--model", "embedded", "--phases", "2"]
    words += ["--quiet" if case == "empty files" else "--json", "--set"]
    done = run("prepare_long_context.py", *words, "data.held_out_per_length=4", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    written = (tmp_path / "out" / "preparation_summary.json").read_text()
    assert done.stdout == ("out/sequences\n" if case == "empty files" else written)
    summary = json.loads(written)
    (facts,) = summary["repositories"]
    assert facts["files"]["count"] + sum(facts["files"]["left_out"].values()) == len(files)
    for account in summary["accounts"].values():
        assert account["tokenized"] == account["used"] + sum(account["dropped"].values())
    assert facts["files"]["left_out"] == LEFT_OUT.get(case, {})
