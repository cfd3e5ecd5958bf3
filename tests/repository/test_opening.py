"""Every unusual kind of repository opens with a note on what it means; what can't be read is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from git_helper import Made, commit_ids, git, make_repo

from longrepo.errors import InputError
from longrepo.repository.repository import Repository

THREE = [{"a.py": f"x = {n}\n"} for n in range(3)]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught, Repository.open(path):
        pass
    message = str(caught.value)
    assert "\n" not in message and str(path.name) in message
    return message


def test_an_ordinary_repository_needs_no_note(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "my project", THREE)
    with Repository.open(folder) as repository:
        assert (repository.name, repository.path, repository.notes) == ("my project", folder, ())
        assert repository.resolve() == commit_ids(folder)[-1]


def test_what_is_no_repository_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "not a git repository" in refusal(tmp_path / "empty") and "git init" in refusal(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file")
    assert "no commits yet" in refusal(make_repo(tmp_path / "fresh"))
    inside = make_repo(tmp_path / "whole", THREE) / "docs"
    inside.mkdir()
    assert f"inside the repository {tmp_path / 'whole'}" in refusal(inside)


def test_a_repository_that_lost_its_objects_is_refused(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "damaged", THREE)
    for one in (folder / ".git" / "objects").rglob("*"):
        if one.is_file():
            one.chmod(0o644)
            one.write_bytes(b"")
    assert str(folder) in refusal(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_repository_is_refused_with_the_command_that_trusts_it(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "theirs", THREE)
    for one in (folder, *folder.rglob("*")):
        os.chown(one, 12345, 12345)
    assert "git config --global --add safe.directory" in refusal(folder)


def test_head_without_commits_names_the_branches_there_are(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "odd", [Made({"a": "1\n"}, branch="other")], checkout=False)
    assert "other" in refusal(folder)


def test_a_bare_repository_is_named_without_its_suffix(tmp_path: Path) -> None:
    with Repository.open(make_repo(tmp_path / "tool.git", THREE, bare=True)) as repository:
        assert repository.name == "tool"
        assert len(repository.notes) == 1 and "Bare" in repository.notes[0]
        assert len(repository.snapshot("HEAD").files) == 1


def test_a_shallow_clone_says_how_much_history_it_has(tmp_path: Path) -> None:
    source = make_repo(tmp_path / "source", [{"a.py": f"x = {n}\n"} for n in range(6)])
    git(tmp_path, "clone", "-q", "--depth", "3", f"file://{source}", "shallow")
    with Repository.open(tmp_path / "shallow") as repository:
        assert "Shallow clone with 3 commits" in repository.notes[0]
        assert repository.first_parents("HEAD", 10) == commit_ids(source)[:2:-1]


def test_a_detached_head_and_a_linked_worktree_are_said(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "main copy", THREE)
    first = commit_ids(folder)[0]
    git(folder, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"), first)
    with Repository.open(tmp_path / "linked") as repository:
        notes = " ".join(repository.notes)
        assert "Linked worktree" in notes and f"Detached HEAD at {first[:10]}" in notes
        assert repository.resolve() == first and repository.snapshot("main").files[0].text == "x = 2\n"


def test_a_repository_with_other_object_ids_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "sha256"
    folder.mkdir()
    git(folder, "init", "-q", "--object-format=sha256", "-b", "main")
    (folder / "a.py").write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "One")
    with Repository.open(folder) as repository:
        assert len(repository.resolve()) == 64
        assert repository.snapshot("HEAD").files[0].text == "x = 1\n"
        assert [commit.message for commit in repository.commits("HEAD")] == ["One"]


def test_a_configuration_in_another_encoding_is_read_as_git_reads_it(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", THREE)
    with open(folder / ".git" / "config", "ab") as file:
        file.write("[user]\n\tname = Jürgen Beißner\n".encode("latin-1"))
    git(folder, "branch", "-m", "b\udcfcro")
    with Repository.open(folder) as repository:
        assert repository.notes == () and len(repository.snapshot("HEAD").files) == 1
        with pytest.raises(InputError, match=r"branches here: b.ro"):
            repository.resolve("nope")


def test_a_configuration_that_git_refuses_is_named(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "broken", THREE)
    with open(folder / ".git" / "config", "a") as file:
        file.write("[user\n\tname = x\n")
    assert "configuration" in refusal(folder) and "line" in refusal(folder)


@pytest.mark.parametrize("revision", ["nope", "--help", "HEAD:a.py", "f" * 40, "", "HEAD~99", "a b"])
def test_an_unknown_revision_is_refused_with_the_branches_there_are(tmp_path: Path, revision: str) -> None:
    with Repository.open(make_repo(tmp_path / "repo", THREE)) as repository:
        for call in (repository.resolve, repository.snapshot, lambda one: list(repository.commits(one))):
            with pytest.raises(InputError) as caught:
                call(revision)
            assert "main" in str(caught.value) and "\n" not in str(caught.value)


def test_revisions_of_every_kind_resolve_to_a_commit(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", THREE)
    git(folder, "tag", "-a", "v1", "-m", "One", "HEAD~1")
    ids = commit_ids(folder)
    with Repository.open(folder) as repository:
        assert [repository.resolve(one) for one in ("v1", "main", ids[0][:8], "HEAD^^")] == [
            ids[1],
            ids[2],
            ids[0],
            ids[0],
        ]


def test_the_environment_of_a_hook_does_not_lead_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_repo(tmp_path / "other", [{"b.py": "y\n"}])
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git" / "objects"))
    with Repository.open(make_repo(tmp_path / "repo", THREE)) as repository:
        assert [file.path for file in repository.snapshot("HEAD").files] == ["a.py"]


def test_closing_leaves_no_process_and_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    repository = Repository.open(make_repo(tmp_path / "repo", [{"a.py": f"x = {n}\n"} for n in range(40)]))
    walk = repository.commits("HEAD")
    next(walk)
    repository.snapshot("HEAD")
    repository.close()
    repository.close()
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert list(scratch.iterdir()) == []
