from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from git_helper import commit_ids, git, make_repo
from small_packages import NAMES, module

from longrepo.config.load import load_settings
from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.repository.repository import Repository
from longrepo.sequences.output import check_writable, write_prepared
from longrepo.sequences.prepare import Prepared, prepare
from longrepo.sequences.sequence import LongContextSequence
from longrepo.sequences.store import read_sequences
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.windows import windows

OVERHEAD = 3  # fill-in-the-middle tokens kept free


@dataclass
class Case:
    """A prepared repository."""

    folder: Path
    prepared: Prepared

    def of(self, split: str, phase: int | None = None) -> list[LongContextSequence]:
        bands = {band["phase"]: band for band in self.prepared.header.bands}
        low, high = (bands[phase]["floor"], bands[phase]["cap"]) if phase else (0, 10**9)
        return [one for one in self.prepared.sequences if one.metadata["split"] == split and low < len(one) <= high]


@pytest.fixture(scope="module")
def case(long_history: Path, tokenizer: RepoTokenizer, settings: Settings) -> Case:
    with Repository.open(long_history) as repository:
        return Case(long_history, prepare(repository, settings, tokenizer))


@pytest.fixture(scope="module")
def windowed(long_history: Path, tokenizer: RepoTokenizer, settings: Settings) -> Case:
    with Repository.open(long_history) as repository:
        return Case(long_history, windows(repository, settings, tokenizer, "HEAD", 2048, 512))


def scored(tokenizer: RepoTokenizer, one: LongContextSequence, weight: float = 1.0) -> str:
    return tokenizer.decode([id for id, w in zip(one.tokens, one.loss_weights, strict=True) if w == weight])


def test_every_phase_is_filled_and_nothing_is_longer_than_its_cap(case: Case) -> None:
    for band in case.prepared.header.bands:
        lengths = [len(one) for one in case.of("train", band["phase"])]
        assert lengths and sum(length >= band["low"] for length in lengths) >= len(lengths) - 1
        assert sum(lengths) / len(lengths) > 0.75 * band["cap"]
    assert max(map(len, case.prepared.sequences)) <= 4096
    assert {one.metadata["kind"] for one in case.of("train")} == {"hierarchical", "commit_evolution", "qa"}


def test_every_token_is_used_or_counted_as_dropped(case: Case, windowed: Case) -> None:
    for one in (case, windowed):
        for phase, account in one.prepared.header.accounts.items():
            assert account["tokenized"] == account["used"] + sum(account["dropped"].values()), phase
        for sequence in one.prepared.sequences:
            assert sum(sequence.metadata["roles"].values()) == len(sequence)


def test_each_training_file_is_scored_once_in_each_phase(case: Case, tokenizer: RepoTokenizer) -> None:
    with Repository.open(case.folder) as repository:
        files = repository.snapshot(case.prepared.header.repository.validation_from or "").files
    for phase in (1, 2, 3):
        sequences = [one for one in case.of("train", phase) if one.metadata["kind"] == "hierarchical"]
        code = "".join(scored(tokenizer, one) for one in sequences)
        for file in files:
            for line in file.text.split("\n"):
                if line.startswith("def "):
                    assert code.count(line) == 1, (phase, file.path, line)


def test_training_never_saw_a_scored_held_out_line(case: Case, tokenizer: RepoTokenizer) -> None:
    seen = {line.strip(" +-") for one in case.of("train") for line in tokenizer.decode(one.tokens).split("\n")}
    for split in ("validation", "test"):
        assert case.of(split)
        for one in case.of(split):
            lines = [line.strip() for line in scored(tokenizer, one).split("\n") if line.strip()]
            assert lines and not seen & set(lines)


def test_held_out_commits_are_not_reachable_from_training(case: Case) -> None:
    facts = case.prepared.header.repository
    reached = set(commit_ids(case.folder, facts.validation_from or ""))
    until_test = set(commit_ids(case.folder, facts.test_from or ""))
    for one in case.of("train"):
        assert set(one.metadata["commits_included"]) <= reached
    for split, allowed in (("validation", until_test - reached), ("test", set(commit_ids(case.folder)) - until_test)):
        commits = {commit for one in case.of(split) for commit in one.metadata["commits_included"]}
        assert commits and commits <= allowed
        assert abs(len(allowed) - 4) <= 1  # a tenth of 41 commits


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_same_targets_stand_at_every_length(case: Case, tokenizer: RepoTokenizer, split: str) -> None:
    at_length = [sorted(scored(tokenizer, one) for one in case.of(split, phase)) for phase in (1, 2, 3)]
    assert at_length[0] == at_length[1] == at_length[2] and len(at_length[0]) >= 8
    structure = set(tokenizer.structure_ids.values()) | {tokenizer.end_id}
    for one in case.of(split):
        assert set(one.loss_weights) == {0.0, 1.0} and one.tokens[-1] == tokenizer.end_id
        assert not structure & {id for id, w in zip(one.tokens, one.loss_weights, strict=True) if w}
        assert (
            tokenizer.decode(one.tokens)
            .rpartition("<|FILE_START|>")[2]
            .startswith(f" {one.metadata['files_included'][-1]}")
        )
    for band in case.prepared.header.bands:
        assert min(map(len, case.of(split, band["phase"]))) > 0.9 * band["cap"]


def test_questions_have_answers_that_stand_in_the_repository(case: Case, tokenizer: RepoTokenizer) -> None:
    asked = [
        tokenizer.decode(one.tokens).rpartition("QUESTION: ")[2]
        for one in case.of("train")
        if one.metadata["kind"] == "qa"
    ]
    assert len({tuple(text.split()[:3]) for text in asked}) >= 4
    for text in asked:
        question, _, answer = text.removesuffix("<|endoftext|>").partition("\nANSWER: ")
        if "defined?" in question:
            name = question.split()[-2].rpartition("_step_")[0]
            assert answer.startswith(f"package/{name}.py, in<|SNIPPET_")


def test_difficulties_are_quarters_of_each_phase(case: Case) -> None:
    for phase in (1, 2):
        sequences = case.of("train", phase)
        for difficulty in ("easy", "very_hard"):
            count = sum(one.metadata["curriculum_difficulty"] == difficulty for one in sequences)
            assert 0.1 < count / len(sequences) < 0.4


def test_the_same_repository_gives_the_same_bytes(
    case: Case, tokenizer: RepoTokenizer, settings: Settings, tmp_path: Path
) -> None:
    with Repository.open(case.folder) as repository:
        again = prepare(repository, settings, tokenizer)
    write_prepared(tmp_path / "one", case.prepared)
    write_prepared(tmp_path / "two", again)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) >= 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    summary = json.loads((tmp_path / "one" / "preparation_summary.json").read_text())
    read = read_sequences(tmp_path / "one" / "sequences")
    assert summary["summary_version"] == 1 and summary["sequences_sha256"] == read.content_sha256
    assert summary["sequences"] == read.header.counts and summary["accounts"] == read.header.accounts


def test_the_length_is_raised_to_the_longest_phase_and_said(case: Case) -> None:
    assert any("raised from 2048 to 4096" in note for note in case.prepared.header.repository.notes)


def test_a_young_repository_holds_out_files_and_says_so(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    files = {f"{name}.py": module(name, None, 8) for name in NAMES}
    commits = [files, {"amber.py": module("amber", None, 9)}, {"birch.py": module("birch", None, 9)}]
    folder = make_repo(tmp_path / "young", commits)
    with Repository.open(folder) as repository:
        found = Case(folder, prepare(repository, load_settings(), tokenizer))
    held = found.prepared.header.repository.held_out_files
    assert held["validation"] and held["test"] and not set(held["validation"]) & set(held["test"])
    assert any("held out as well" in note for note in found.prepared.header.repository.notes)
    for one in found.of("train"):
        assert not set(one.metadata["files_included"]) & {*held["validation"], *held["test"]}
        for path in (*held["validation"], *held["test"]):
            assert f"{path.removesuffix('.py')}_0_result" not in tokenizer.decode(one.tokens)
    for split in ("validation", "test"):
        assert {one.metadata["files_included"][-1] for one in found.of(split)} <= set(held[split])
        assert found.of(split, 1)


def test_a_tiny_repository_says_which_phase_it_cannot_fill(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "tiny", [{"a.py": module("amber", None, 3)}])
    with Repository.open(folder) as repository:
        prepared = prepare(repository, load_settings(), tokenizer)
    assert prepared.header.counts["train"]["1"]["sequences"] >= 1
    assert prepared.header.accounts["3"]["dropped"]["too little text to fill this length"] > 0
    assert any(note.startswith("phase 3: ") for note in prepared.header.repository.notes)


def test_a_repository_without_text_is_refused(tokenizer: RepoTokenizer, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "none", [{"a.bin": b"\0\1\2"}])
    with Repository.open(folder) as repository, pytest.raises(InputError, match="no text files"):
        prepare(repository, load_settings(), tokenizer)


def test_without_structure_tokens_the_names_are_text(tmp_path: Path, backend: object) -> None:
    plain = RepoTokenizer(backend, "plain", structure_tokens=False)  # type: ignore[arg-type]
    folder = make_repo(tmp_path / "plain", [{f"{name}.py": module(name, None, 8) for name in NAMES}])
    with Repository.open(folder) as repository:
        prepared = prepare(repository, load_settings(None, ["data.structure_tokens=false"]), plain, phases=1)
    assert max(one for sequence in prepared.sequences for one in sequence.tokens) < plain.vocabulary_size
    assert plain.decode(prepared.sequences[0].tokens).startswith("<|FILE_START|> ")
    assert max(map(len, prepared.sequences)) <= 1024


def test_windows_score_each_token_once_and_overlap_without_weight(windowed: Case, tokenizer: RepoTokenizer) -> None:
    assert {band["phase"] for band in windowed.prepared.header.bands} == {1, 2}
    for phase, cap in ((1, 1024), (2, 2048)):
        sequences = windowed.of("train", phase)
        assert {one.metadata["kind"] for one in sequences} == {"window"} and len(sequences) > 3
        for one in sequences[1:-1]:
            repeated = sum(weight == 0 for weight in one.loss_weights)
            assert 350 < repeated <= 520 and len(one) > cap // 2 and one.tokens[-1] == tokenizer.end_id
        code = "".join(scored(tokenizer, one) for one in sequences)
        assert code.count("def amber_step_0(") == code.count("def heath_step_3(") == 1
    assert windowed.of("validation", 1) and windowed.of("test", 2)


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="can't be written to"):
        check_writable(tmp_path / "file" / "folder")


def test_a_commit_other_than_head_can_be_prepared(case: Case, tokenizer: RepoTokenizer, settings: Settings) -> None:
    earlier = git(case.folder, "rev-parse", "HEAD~5")
    with Repository.open(case.folder) as repository:
        prepared = prepare(repository, settings, tokenizer, earlier, phases=1, max_length=1024)
    assert prepared.header.repository.head == earlier and len(prepared.header.bands) == 1
