from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from git_helper import commit_ids, git, make_repo
from small_packages import NAMES, module
from whole import Case, prepared, shown, weighed

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.data.dataset import read_sequences
from longrepo.data.prepare import check_writable, write_prepared
from longrepo.data.stored_text import StoredText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError
from longrepo.repository.repository import Repository


@pytest.fixture(scope="module")
def case(long_history: Path, tokenizer: RepoTokenizer, settings: Settings) -> Case:
    return prepared(long_history, tokenizer, settings)


@pytest.fixture(scope="module")
def windowed(long_history: Path, tokenizer: RepoTokenizer, settings: Settings) -> Case:
    return prepared(long_history, tokenizer, settings, overlap=512)


def test_every_phase_is_filled_and_nothing_is_longer_than_its_cap(case: Case) -> None:
    for band in case.prepared.header.bands:
        lengths = [len(row.input_ids) for row in case.of("train", band["phase"])]
        assert lengths and sum(length >= band["low"] for length in lengths) >= len(lengths) - 1
        assert sum(lengths) / len(lengths) > 0.75 * band["cap"]
    assert max(len(row.input_ids) for row in case.rows) <= 4096
    assert {row.kind for row in case.of("train")} == {"hierarchical", "commit_evolution", "qa"}


def test_every_token_is_used_or_counted_as_dropped(case: Case, windowed: Case) -> None:
    for one in (case, windowed):
        assert len(one.prepared.header.accounts) == len(one.prepared.header.bands)
        for phase, account in one.prepared.header.accounts.items():
            assert account["tokenized"] == account["used"] + sum(account["dropped"].values()), phase
        for built, row in zip(one.prepared.sequences, one.rows, strict=True):
            assert sum(built.builder.roles.values()) == len(built) == len(row.input_ids) == len(row.loss_weights)
            assert built.builder.target_tokens() == (row.loss_weights == 1).sum()


def test_each_training_file_is_scored_once_in_each_phase(case: Case, tokenizer: RepoTokenizer) -> None:
    with Repository.open(case.folder) as repository:
        files = repository.snapshot(case.prepared.header.repositories[0].validation_from or "").files
    for phase in (1, 2, 3):
        scored = Counter(
            line.text
            for row in case.of("train", phase, "hierarchical")
            for line in StoredText(tokenizer).lines(row.input_ids, row.kind, row.loss_weights)
            if line.scored
        )
        for file in files:
            for line in file.text.split("\n"):
                if line.startswith("def "):
                    assert scored[line] == 1, (phase, file.path, line)


def test_held_out_commits_are_not_reachable_from_training(case: Case) -> None:
    facts = case.prepared.header.repositories[0]
    reached = set(commit_ids(case.folder, facts.validation_from or ""))
    until_test = set(commit_ids(case.folder, facts.test_from or ""))
    for row in case.of("train"):
        assert set(row.commits) <= reached
    for split, allowed in (("validation", until_test - reached), ("test", set(commit_ids(case.folder)) - until_test)):
        commits = {commit for row in case.of(split) for commit in row.commits}
        assert commits and commits <= allowed
        assert abs(len(allowed) - 4) <= 1  # a tenth of 41 commits


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_same_targets_stand_at_every_length(case: Case, tokenizer: RepoTokenizer, split: str) -> None:
    at_length = [sorted(weighed(tokenizer, row) for row in case.of(split, phase)) for phase in (1, 2, 3)]
    assert at_length[0] == at_length[1] == at_length[2] and len(at_length[0]) >= 8
    structure = {*tokenizer.structure_ids.values(), tokenizer.end_id}
    for row in case.of(split):
        assert {*row.loss_weights.tolist()} == {0.0, 1.0} and row.input_ids[-1] == tokenizer.end_id
        assert not structure & {*row.input_ids[row.loss_weights > 0].tolist()}
        assert shown(tokenizer, row).rpartition("<|FILE_START|>")[2].startswith(f" {row.files[-1]}\n")
    for band in case.prepared.header.bands:
        assert min(len(row.input_ids) for row in case.of(split, band["phase"])) > 0.9 * band["cap"]


def test_questions_have_answers_that_stand_in_the_repository(long_history: Path, tokenizer: RepoTokenizer) -> None:
    case = prepared(long_history, tokenizer, load_settings(None, ["data.question_share=0.2"]), phases=2)
    rows = case.of("train", kind="qa")
    asked = [text for row in rows for text in shown(tokenizer, row).split("\nQUESTION: ")[1:]]
    assert len({tuple(text.split()[:3]) for text in asked}) >= 4
    assert len(asked) == len({text.partition("\n")[0] for text in asked}) >= 2 * len(rows)
    for row in rows:
        assert np.count_nonzero(row.loss_weights == 1) >= 0.05 * len(row.loss_weights)
    for text in asked:
        question, _, answer = text.removesuffix("<|endoftext|>").partition("\nANSWER: ")
        if "defined?" in question:
            name = question.split()[-2].rpartition("_step_")[0]
            assert answer.startswith(f"package/{name}.py, in<|SNIPPET_")


def test_difficulties_are_quarters_of_each_phase(case: Case) -> None:
    """Equal scores, of which small sequences have many, stand in one quarter: halves are never split by them here."""
    for phase in (1, 2):
        rows = case.of("train", phase)
        counts = Counter(row.difficulty for row in rows)
        assert 0.4 < (counts["easy"] + counts["medium"]) / len(rows) < 0.6
        assert counts["easy"] and 0.1 < counts["very_hard"] / len(rows) < 0.4


def test_what_is_written_is_what_the_summary_says(case: Case, tmp_path: Path) -> None:
    write_prepared(tmp_path, case.prepared)
    summary = json.loads((tmp_path / "preparation_summary.json").read_text())
    read = read_sequences(tmp_path / "sequences")
    assert summary["summary_version"] == 3 and summary["sequences_sha256"] == read.content_sha256
    assert summary["sequences"] == read.header.counts and summary["accounts"] == read.header.accounts
    (facts,) = summary["repositories"]
    assert (facts["name"], facts["files"]["count"]) == ("package-of-ten", 11)
    assert facts["history"]["changes"] > 0 and facts["dependencies"]["edges"] == 9
    assert len(read) == len(case.rows)
    for index in (0, len(read) // 2, len(read) - 1):
        row = read.row(index)
        assert row["input_ids"] == case.rows[index].input_ids.tolist()
        assert row["repository"] == "package-of-ten" and row["files"] == case.rows[index].files


def test_the_length_is_raised_to_the_longest_phase_and_said(case: Case) -> None:
    assert any("raised from 2048 to 4096" in note for note in case.prepared.header.notes)


def test_a_young_repository_holds_out_files_and_says_so(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    files = {f"{name}.py": module(name, None, 8) for name in NAMES}
    commits = [files, {"amber.py": module("amber", None, 9)}, {"birch.py": module("birch", None, 9)}]
    found = prepared(make_repo(tmp_path / "young", commits), tokenizer, load_settings())
    held = found.prepared.header.repositories[0].held_out_files
    assert held["validation"] and held["test"] and not set(held["validation"]) & set(held["test"])
    assert any("held out as well" in note for note in found.prepared.header.notes)
    for row in found.of("train"):
        assert not set(row.files) & {*held["validation"], *held["test"]}
        for path in (*held["validation"], *held["test"]):
            assert f"{path.removesuffix('.py')}_0_result" not in shown(tokenizer, row)
    for split in ("validation", "test"):
        assert {row.files[-1] for row in found.of(split)} <= set(held[split])
        assert found.of(split, 1)


def test_a_tiny_repository_says_which_phase_it_cannot_fill(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "tiny", [{"a.py": module("amber", None, 3)}])
    header = prepared(folder, tokenizer, load_settings()).prepared.header
    assert header.counts["train"]["1"]["sequences"] >= 1
    assert header.accounts["3"]["dropped"]["too little text to fill this length"] > 0
    assert any(note.startswith("phase 3: ") for note in header.notes)


def test_a_repository_without_text_is_refused(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "none", [{"a.bin": b"\0\1\2"}])
    with pytest.raises(InputError, match="no text files"):
        prepared(folder, tokenizer, load_settings())


def test_without_structure_tokens_the_names_are_text(tmp_path: Path, backend: object) -> None:
    plain = RepoTokenizer(backend, "plain", structure_tokens="none")  # type: ignore[arg-type]
    folder = make_repo(tmp_path / "plain", [{f"{name}.py": module(name, None, 8) for name in NAMES}])
    found = prepared(folder, plain, load_settings(None, ["data.structure_tokens=false"]), phases=1)
    assert max(row.input_ids.max() for row in found.rows) < plain.vocabulary_size
    assert shown(plain, found.rows[0]).startswith("<|FILE_START|> ")
    assert max(len(row.input_ids) for row in found.rows) <= 1024


def test_windows_score_each_token_once_and_overlap_without_weight(windowed: Case, tokenizer: RepoTokenizer) -> None:
    assert {band["phase"] for band in windowed.prepared.header.bands} == {1, 2}
    for phase, cap in ((1, 1024), (2, 2048)):
        rows = windowed.of("train", phase)
        assert {row.kind for row in rows} == {"window"} and len(rows) > 3
        for row in rows[1:-1]:
            assert 350 < (row.loss_weights == 0).sum() <= 520
            assert len(row.input_ids) > cap // 2 and row.input_ids[-1] == tokenizer.end_id
        code = "".join(weighed(tokenizer, row) for row in rows)
        assert code.count("def amber_step_0(") == code.count("def heath_step_3(") == 1
        assert code.count("<|FILE_END|>") == code.count("a module of the test") + 1 > 6  # and README.md
        assert [row.loss_weights[-1] for row in rows] == [0.0] * (len(rows) - 1) + [1.0]
    assert windowed.of("validation", 1) and windowed.of("test", 2)


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="can't be written to"):
        check_writable(tmp_path / "file" / "folder")
    with pytest.raises(InputError, match="file: is a file; give a folder"):
        check_writable(tmp_path / "file")


def test_a_commit_other_than_head_can_be_prepared(case: Case, tokenizer: RepoTokenizer, settings: Settings) -> None:
    earlier = git(case.folder, "rev-parse", "HEAD~5")
    found = prepared(case.folder, tokenizer, settings, commit=earlier, phases=1, length=1024)
    assert found.prepared.header.repositories[0].head == earlier and len(found.prepared.header.bands) == 1
