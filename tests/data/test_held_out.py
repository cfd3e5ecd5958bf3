"""What validation and test score stands nowhere in training; the rest of it isn't scored."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from git_helper import Made, git, make_repo
from small_packages import NAMES, history, module
from whole import Case, prepared, shown, weighed

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.contamination import check_leaks
from longrepo.data.dataset import SequenceFile, read_sequences, write_sequences
from longrepo.data.dedup import TrainingTexts
from longrepo.data.prepare import write_prepared
from longrepo.data.rows import SequenceRow
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.utils.hashing import MIN_CHARACTERS

SIGNS = ("+", "-", " ")


@pytest.fixture(scope="module")
def case(long_history: Path, tokenizer: RepoTokenizer, settings: Settings) -> Case:
    return prepared(long_history, tokenizer, settings)


@pytest.fixture(scope="module")
def windowed(long_history: Path, tokenizer: RepoTokenizer, settings: Settings) -> Case:
    return prepared(long_history, tokenizer, settings, overlap=256)


def lines_of(text: str) -> set[str]:
    """What lines of a row say, marks and signs of a diff apart, but for those of few characters."""
    for mark in (
        "<|FILE_END|>",
        "<|COMMIT_END|>",
        "<|COMMIT_START|>",
        "<|FILE_START|>",
        "<|endoftext|>",
        "<fim_suffix>",
    ):
        text = text.replace(mark, "\n")
    for mark in ("<fim_prefix>", "<fim_middle>"):
        text = text.replace(mark, "\n")
    found = {line.strip() for line in text.split("\n")}
    found |= {line[1:].strip() for line in text.split("\n") if line[:1] in SIGNS}
    return {line for line in found if len(line) >= MIN_CHARACTERS}


def scored_lines(tokenizer: RepoTokenizer, row: SequenceRow) -> set[str]:
    return {line.strip() for line in weighed(tokenizer, row).split("\n")} - {""}


@pytest.mark.parametrize("made", ["case", "windowed"])
def test_training_holds_no_scored_line(made: str, tokenizer: RepoTokenizer, request: pytest.FixtureRequest) -> None:
    one: Case = request.getfixturevalue(made)
    seen: set[str] = set()
    kinds = {"hierarchical", "commit_evolution", "qa"} if made == "case" else {"window"}
    for kind in kinds:
        rows = one.of("train", kind=kind)
        assert rows
        seen |= set().union(*(lines_of(shown(tokenizer, row)) for row in rows))
    for split in ("validation", "test"):
        assert one.of(split)
        for row in one.of(split):
            lines = scored_lines(tokenizer, row)
            assert lines and not seen & lines


def test_the_check_that_runs_on_its_own_finds_nothing_and_bites(
    case: Case, tokenizer: RepoTokenizer, tmp_path: Path
) -> None:
    def leaks(file: SequenceFile) -> int:
        return len(check_leaks(file, tokenizer, lambda: None).leaks)

    header = write_prepared(tmp_path, case.prepared)
    assert leaks(read_sequences(tmp_path / "sequences")) == 0
    target = case.of("test", 1)[0]
    write_sequences(tmp_path / "leaky.jsonl", [*case.rows, replace(target, split="train")], header)
    assert leaks(read_sequences(tmp_path / "leaky.jsonl")) > 0


def test_only_what_the_commit_added_and_training_lacks_is_scored(case: Case, tokenizer: RepoTokenizer) -> None:
    unscored = 0
    for split in ("validation", "test"):
        for row in case.of(split, 1):
            (commit,) = row.commits
            diff = git(case.folder, "show", "--format=", "-U0", commit, "--", row.files[-1])
            added = {line[1:].strip() for line in diff.split("\n") if line.startswith("+")}
            lines = scored_lines(tokenizer, row)
            assert lines <= added
            after = {line.strip() for line in git(case.folder, "show", f"{commit}:{row.files[-1]}").split("\n")}
            target = shown(tokenizer, row).rpartition("<|FILE_START|>")[2]
            unscored += len({line.strip() for line in target.split("\n")} & after - lines)
    assert unscored > 20, "the commit's other lines stand there unscored"


def test_two_splits_and_two_targets_share_no_line(case: Case, tokenizer: RepoTokenizer) -> None:
    rows = {split: [scored_lines(tokenizer, row) for row in case.of(split, 1)] for split in ("validation", "test")}
    assert not set().union(*rows["validation"]) & set().union(*rows["test"])
    for sets in rows.values():
        for at, one in enumerate(sets):
            assert not any(len(one & other) >= 0.8 * len(one) for other in sets[:at])


def test_context_comes_from_the_training_snapshot(case: Case, tokenizer: RepoTokenizer) -> None:
    before = case.prepared.header.repositories[0].validation_from
    for split in ("validation", "test"):
        for row in case.of(split, 2):
            *context, _ = shown(tokenizer, row).split("<|FILE_START|> ")[1:]
            assert context
            for section in context:
                path, _, code = section.partition("\n")
                code = code.removesuffix("<|FILE_END|>")
                lines = git(case.folder, "show", f"{before}:{path}").split("\n")
                places = [lines.index(line) for line in code.split("\n") if len(line) > 12]
                assert places == sorted(places)


def test_the_same_change_in_many_files_is_one_target(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    files = {f"src/{name}.py": module(name, None, 10) for name in NAMES}
    same = "\n".join(f"LIMIT_{n} = compute_limit_{n}(maximum={n})" for n in range(12)) + "\n"
    commits = [Made(files), *(Made({f"src/{name}.py": module(name, None, 11)}) for name in NAMES[:8])]
    commits += [Made({f"src/{name}.py": files[f"src/{name}.py"] + same for name in NAMES[:6]}, "Limits")]
    settings = load_settings(None, ["data.test_share=0.1", "data.validation_share=0.1"])
    found = prepared(make_repo(tmp_path / "same", commits), tokenizer, settings, phases=1)
    holding = [row for row in found.of("test") if "compute_limit_3" in weighed(tokenizer, row)]
    assert len(holding) == 1


def test_a_target_is_never_longer_than_it_may_be(case: Case, tokenizer: RepoTokenizer) -> None:
    for split in ("validation", "test"):
        for row in case.of(split):
            (places,) = np.nonzero(row.loss_weights)
            assert len(places) >= 12 and places[-1] - places[0] < 400


def test_a_line_is_fresh_that_no_text_shows(
    tokenizer: RepoTokenizer, read: Callable[[str, str], TokenizedText]
) -> None:
    shown_texts = TrainingTexts(tokenizer, [read("a.py", "alpha = 1\n    beta = 2\n"), read("b.py", "gamma = 3\n}\n")])
    asked = read("c.py", "beta = 2\ndelta = 4\n}\n  gamma = 3\ngamma = 33")
    assert shown_texts.fresh(asked.row_hashes).tolist() == [False, True, False, False, True]
    assert TrainingTexts(tokenizer, []).fresh(asked.row_hashes).tolist() == [True, True, False, True, True]


def test_a_copy_with_other_white_space_is_no_target(
    tokenizer: RepoTokenizer, read: Callable[[str, str], TokenizedText]
) -> None:
    text = module("amber", None, 6)
    shown_texts = TrainingTexts(tokenizer, [read("a.py", text)])
    blocks = [
        shown_texts.shingler.of(read("b.py", one).ids) for one in (text.replace(" = ", "="), module("birch", None, 6))
    ]
    assert shown_texts.copied_blocks(blocks) == {0}


def test_a_merged_branch_is_held_out_as_a_whole(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    """By ancestry: a commit that was made early but merged late is no part of training."""
    commits = history(30)
    early = Made({"package/early.py": module("early", None, 14)}, "Early work", branch="side", start="main")
    late = Made({"package/early.py": module("early", None, 14)}, "Merge side", merge="side")
    folder = make_repo(tmp_path / "merged", [*commits[:10], early, *commits[10:30], late, *commits[30:]])
    found = prepared(folder, tokenizer, load_settings(), phases=1)
    facts = found.prepared.header.repositories[0]
    side = git(folder, "rev-parse", "side")
    assert side not in git(folder, "rev-list", facts.validation_from or "").split()
    for row in found.of("train"):
        assert side not in row.commits and "early_step_" not in shown(tokenizer, row)
    assert any(side in row.commits for split in ("validation", "test") for row in found.of(split))


@pytest.mark.parametrize("copies", [0, 12, 24])
def test_copies_among_the_commits_cost_no_target(copies: int, tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    """Held-out commits that repeat what training shows, with other numbers, are passed over for others."""
    files = {f"src/{name}.py": module(name, None, 9) for name in NAMES}
    again = {path: re.sub(r"\d", lambda digit: str((int(digit[0]) + 5) % 10), text) for path, text in files.items()}
    start = [Made(files)] + [Made({f"src/{name}.py": module(name, None, 10)}, f"More {name}") for name in NAMES] * 1
    old = [Made({f"src/old{n}.py": module(f"old{n}", None, 4)}, f"Old {n}") for n in range(70)]
    late: list[Made] = []
    for n in range(30):
        text = again[f"src/{NAMES[n % 10]}.py"] if n < copies else module(f"new{n}", None, 4)
        late.append(Made({f"src/late{n}.py": text + f"\nLATE_{n} = {n}\n"}, f"Late {n}"))
    shares = ["data.test_share=0.25", "data.validation_share=0.05", "data.held_out_per_length=5"]
    case = prepared(make_repo(tmp_path / "r", [*start, *old, *late]), tokenizer, load_settings(None, shares), phases=1)
    rows = case.of("test")
    assert len(rows) == 5
    assert all("def new" in weighed(tokenizer, row) for row in rows)
    assert "test" not in case.prepared.header.repositories[0].held_out_files
