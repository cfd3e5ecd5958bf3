"""Several repositories in one set of sequences, each as often as its weight says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from git_helper import Made, make_repo
from small_packages import module
from tokenizers import Tokenizer
from whole import Case, prepared, shown, weighed

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.dataset import read_sequences
from longrepo.data.prepare import BELOW_FULL_WEIGHT, write_prepared
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError

ROOT = Path(__file__).parents[2]
WORDS = {
    "one": ["ash", "bay", "elm", "fir", "oak", "yew", "box", "gum"],
    "two": ["cod", "eel", "ray", "hake", "ling", "tuna", "bass", "carp"],
}


def repository(folder: Path, words: list[str]) -> Path:
    """A repository of modules with 12 commits that each add to one of them."""
    commits = [Made({f"src/{word}stone.py": module(f"{word}stone", None, 12) for word in words})]
    commits += [
        Made({f"src/{word}stone.py": module(f"{word}stone", None, 15)}, f"Add to {word}")
        for word in (*words, *words[:4])
    ]
    return make_repo(folder, commits)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two repositories of the same name in two folders."""
    base = tmp_path_factory.mktemp("several")
    return [repository(base / name / "api", words) for name, words in WORDS.items()]


@pytest.fixture(scope="module")
def case(folders: list[Path], tokenizer: RepoTokenizer, settings: Settings) -> Case:
    return prepared(folders, tokenizer, settings, phases=2)


def test_every_row_names_its_repository_and_same_names_are_told_apart(
    case: Case, tokenizer: RepoTokenizer, tmp_path: Path
) -> None:
    assert [one.name for one in case.prepared.header.repositories] == ["api", "api-2"]
    for row in case.rows:
        own, other = (WORDS["one"], WORDS["two"]) if row.repository == "api" else (WORDS["two"], WORDS["one"])
        text = shown(tokenizer, row)
        assert row.repository in ("api", "api-2")
        assert any(f"{word}stone" in text for word in own) and not any(f"{word}stone" in text for word in other)
    for split in ("train", "validation", "test"):
        assert {row.repository for row in case.of(split)} == {"api", "api-2"}
    header = write_prepared(tmp_path, case.prepared)
    assert set(read_sequences(tmp_path / "sequences").column("repository")) == {"api", "api-2"}
    assert header.name == "api, api-2" and [one["name"] for one in case.prepared.summary["repositories"]] == [
        "api",
        "api-2",
    ]


def test_both_are_accounted_for(case: Case, folders: list[Path], tokenizer: RepoTokenizer, settings: Settings) -> None:
    alone = [prepared(folder, tokenizer, settings, phases=2).prepared.header.accounts for folder in folders]
    for phase, account in case.prepared.header.accounts.items():
        assert account["tokenized"] == account["used"] + sum(account["dropped"].values())
        assert account["tokenized"] == sum(one[phase]["tokenized"] for one in alone)
        assert account["used"] == sum(one[phase]["used"] for one in alone)


@pytest.mark.parametrize(("weights", "expected"), [((0.5, 1.0), 0.5), ((2.0, 1.0), 2.0), ((2.5, 0.25), 2.5)])
def test_a_weight_multiplies_a_repository_s_sequences(
    case: Case,
    folders: list[Path],
    tokenizer: RepoTokenizer,
    settings: Settings,
    weights: tuple[float, float],
    expected: float,
) -> None:
    found = prepared(folders, tokenizer, settings, phases=2, weights=weights)
    for name, weight in zip(("api", "api-2"), weights, strict=True):
        before = sum(row.repository == name for row in case.of("train"))
        after = sum(row.repository == name for row in found.of("train"))
        assert after == pytest.approx(weight * before, rel=0.35), (name, before, after)
    assert [one.weight for one in found.prepared.header.repositories] == list(weights)
    for account in found.prepared.header.accounts.values():
        assert account["tokenized"] == account["used"] + sum(account["dropped"].values())
        assert (BELOW_FULL_WEIGHT in account["dropped"]) == any(weight % 1 for weight in weights)
    for split in ("validation", "test"):
        assert len(found.of(split)) == len(case.of(split)), "what is held out has no weight"


def test_twice_is_with_other_neighbours(folders: list[Path], tokenizer: RepoTokenizer) -> None:
    settings = load_settings(None, ["data.fim_share=0", "data.commit_share=0", "data.question_share=0"])
    found = prepared(folders[0], tokenizer, settings, phases=1, weights=[2.0])
    rows = found.of("train")
    code = "".join(weighed(tokenizer, row) for row in rows)
    counts = [code.count(f"def ashstone_step_{n}(") for n in range(12)]
    held = found.prepared.header.repositories[0].held_out_files
    assert set(counts) == {2} or any("ashstone" in path for paths in held.values() for path in paths)
    assert len({row.input_ids.tobytes() for row in rows}) > 0.9 * len(rows)


def test_nothing_scored_in_one_is_trained_on_in_the_other(
    tokenizer: RepoTokenizer, settings: Settings, tmp_path: Path
) -> None:
    """The second repository is the first one some commits later: what the first holds out, the second trains on."""
    words = WORDS["one"]
    commits = [Made({f"src/{word}stone.py": module(f"{word}stone", None, 12) for word in words})]
    commits += [Made({f"src/{word}stone.py": module(f"{word}stone", None, 15)}) for word in (*words, *words)]
    later = [Made({f"src/{word}stone.py": module(f"{word}stone", None, 15 + n)}) for n in (1, 2, 3) for word in words]
    one = make_repo(tmp_path / "one", commits)
    two = make_repo(tmp_path / "two", [*commits, *later])
    found = prepared([one, two], tokenizer, settings, phases=1)
    seen = {line.strip(" +-") for row in found.of("train") for line in shown(tokenizer, row).split("\n")}
    for split in ("validation", "test"):
        for row in found.of(split):
            lines = {line.strip() for line in weighed(tokenizer, row).split("\n")} - {""}
            assert lines and not lines & seen, row.repository


WRONG = {
    "fewer weights than repositories": (["--weight", "1"], "--weight is given 1 times and --repo 2 times"),
    "a weight of nothing": (["--weight", "0", "--weight", "1"], "--weight 0: expected a number above 0"),
    "a negative weight": (["--weight=-1", "--weight", "1"], "--weight -1: expected a number above 0"),
    "a weight beyond all measure": (["--weight", "1", "--weight", "11"], "--weight 11: expected a number above 0"),
    "a weight that is no number": (["--weight", "nan", "--weight", "1"], "--weight nan: expected a number above 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights_are_one_line_and_status_2(
    name: str, folders: list[Path], backend: Tokenizer, tmp_path: Path
) -> None:
    arguments, said = WRONG[name]
    repos = [word for folder in folders for word in ("--repo", folder)]
    done = run(*repos, *arguments, "--output-dir", tmp_path / "out", "--model", "embedded")
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_repository_given_twice_is_refused_whatever_its_spelling(folders: list[Path], tmp_path: Path) -> None:
    same = folders[0].parent / "." / folders[0].name
    done = run("--repo", folders[0], "--repo", f"{same}/", "--output-dir", tmp_path / "out", "--model", "embedded")
    assert done.returncode == 2 and "given twice; use --weight 2" in done.stderr


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "prepare_long_context.py"), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_windows_refuse_a_weight(folders: list[Path], tokenizer: RepoTokenizer, settings: Settings) -> None:
    with pytest.raises(InputError, match="--weight"):
        prepared(folders, tokenizer, settings, overlap=64, weights=[1.0, 2.0])
