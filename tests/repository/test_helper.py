"""Repositories made for tests have the same ids on every machine."""

from __future__ import annotations

from pathlib import Path

from git_helper import Made, commit_ids, git, make_repo


def test_equal_commits_have_equal_ids(tmp_path: Path) -> None:
    commits = [
        {"a b.py": "x = 1\n", "ä\nb.py": b"y\n"},
        Made({"c.py": "z\n"}, branch="side", start="main"),
        Made({"a b.py": None, "c.py": "z\n", "d.py": "w\n"}, "Merge it", merge="side"),
    ]
    first, second = make_repo(tmp_path / "one", commits), make_repo(tmp_path / "two", commits, bare=True)
    assert commit_ids(first) == commit_ids(second)
    assert len(commit_ids(first)) == 3
    assert (first / "d.py").read_text() == "w\n" and (first / "c.py").exists() and not (first / "a b.py").exists()
    assert git(first, "status", "--porcelain") == ""
