"""Commits come newest first with their text changes; noise is left out and counted by reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from git_helper import Link, Made, Submodule, commit_ids, git, make_repo

from longrepo.errors import RunError
from longrepo.repository.repository import Repository


def walk(folder: Path, **options: int | str | None) -> tuple[list[tuple[str, list[str]]], Counter[str]]:
    """Return (message, changed paths) of each commit, and the counts of what was left out."""
    left_out = Counter[str]()
    with Repository.open(folder) as repository:
        found = list(repository.commits("HEAD", left_out=left_out, **options))  # type: ignore[arg-type]
    return [(commit.message, [change.path for change in commit.changes]) for commit in found], left_out


def test_a_commit_holds_its_changes_before_and_after(tmp_path: Path) -> None:
    folder = make_repo(
        tmp_path / "repo",
        [
            Made({"a.py": "one\n", "b.py": "two\n"}, ": begins with a colon\n\nAnd a body.\n"),
            Made({"a.py": "three\n", "b.py": None, "c.py": "four\n"}, "Second", author="Bo Bø <bo@example.com>"),
        ],
    )
    ids = commit_ids(folder)
    with Repository.open(folder) as repository:
        second, first = repository.commits("HEAD")
    assert (first.id, first.parent, second.id, second.parent) == (ids[0], None, ids[1], ids[0])
    assert first.message == ": begins with a colon\n\nAnd a body." and second.author_name == "Bo Bø"
    assert [(c.path, c.before, c.after) for c in first.changes] == [("a.py", None, "one\n"), ("b.py", None, "two\n")]
    assert [(c.path, c.before, c.after) for c in second.changes] == [
        ("a.py", "one\n", "three\n"),
        ("b.py", "two\n", None),
        ("c.py", None, "four\n"),
    ]


def test_a_rename_keeps_where_it_came_from(tmp_path: Path) -> None:
    text = "".join(f"line {n}\n" for n in range(30))
    moves = Made({"old.py": None, ":new\n.py": text + "more\n"}, "Move")
    with Repository.open(make_repo(tmp_path / "repo", [{"old.py": text}, moves])) as repository:
        (change,) = next(iter(repository.commits("HEAD"))).changes
    assert (change.path, change.old_path, change.before, change.after) == (":new\n.py", "old.py", text, text + "more\n")


def test_noise_is_left_out_and_counted(tmp_path: Path) -> None:
    commits = [
        Made({"a.py": "x=1\n", "s.py": "1\n"}, "Start"),
        Made({"side.py": "1\n"}, "Side work", branch="side", start="main"),
        Made({"a.py": "x = 2\n"}, "Main work"),
        Made({"side.py": "1\n"}, "Merge side", merge="side"),
        Made({"a.py": "x = 3\n"}, "Bump a", author="dependabot[bot] <1+dependabot[bot]@example.com>"),
        Made({"a.py": "x = 4\n"}, "Bump b", author="Renovate Bot <bot@example.com>"),
        Made({"a.py": "x = 2\n"}, 'Revert "Bump b"\n\nThis reverts commit 0123456789.'),
        Made({f"f{n}.py": f"{n}\n" for n in range(31)}, "Add many"),
        Made({"a.py": "x  =  2\n\n"}, "Format"),
        Made({"p.png": b"\0"}, "Picture"),
        Made({"sub": Submodule(), "l": Link("a.py"), "yarn.lock": "1\n", "vendor/v.c": "1\n"}, "Others' things"),
        Made({}, "Nothing"),
        Made({"a.py": "x = 5\n", "p.png": b"\0\0"}, "Work by Abbott", author="Abbott Costello <a@example.com>"),
    ]
    found, left_out = walk(make_repo(tmp_path / "repo", commits, checkout=False))
    assert found == [
        ("Work by Abbott", ["a.py"]),
        ("Side work", ["side.py"]),
        ("Main work", ["a.py"]),
        ("Start", ["a.py", "s.py"]),
    ]
    assert left_out == {
        "merge": 1,
        "bot": 2,
        "revert": 1,
        "bulk": 1,
        "formatting": 1,
        "no text change": 3,
        "change: binary": 2,
        "change: submodule": 1,
        "change: symlink": 1,
        "change: lock file": 1,
        "change: vendored": 1,
    }


def test_a_limit_counts_what_is_kept_and_exclude_ends_the_walk(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [{"a.py": f"x = {n}\n"} for n in range(50)])
    ids = commit_ids(folder)
    assert [message for message, _ in walk(folder, limit=3)[0]] == ["Change 49", "Change 48", "Change 47"]
    assert [message for message, _ in walk(folder, exclude=ids[46])[0]] == ["Change 49", "Change 48", "Change 47"]
    assert walk(folder, limit=0)[0] == [] and len(walk(folder)[0]) == 50
    with Repository.open(folder) as repository:
        assert repository.first_parents("HEAD", 2) == [ids[49], ids[48]]


def test_a_message_in_another_encoding_is_read(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [{"a.py": "1\n"}])
    (folder / "a.py").write_text("2\n")
    (tmp_path / "message").write_bytes("Größer".encode("latin-1"))
    git(folder, "-c", "i18n.commitEncoding=latin-1", "commit", "-q", "-a", "-F", str(tmp_path / "message"))
    assert walk(folder)[0][0] == ("Größer", ["a.py"])


def test_a_shallow_clones_edge_does_not_seem_to_add_every_file(tmp_path: Path) -> None:
    source = make_repo(tmp_path / "source", [{"a.py": f"x = {n}\n", "b.py": "y\n"} for n in range(6)])
    git(tmp_path, "clone", "-q", "--depth", "3", f"file://{source}", "shallow")
    found, left_out = walk(tmp_path / "shallow")
    assert found == [("Change 5", ["a.py"]), ("Change 4", ["a.py"])] and left_out == {"shallow edge": 1}


def test_a_change_whose_text_is_missing_is_left_out_and_nothing_is_fetched(tmp_path: Path) -> None:
    long = "".join(f"line {n}\n" for n in range(30))
    commits = [{"a.py": "1\n", "b.py": "b\n"}, {"a.py": "2\n"}, {"a.py": "3\n", "c.py": long}]
    commits += [{"c.py": None, "d.py": long + "more\n"}]  # judging this as a rename would read both texts
    source = make_repo(tmp_path / "source", commits)
    git(source, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{source}", "partial")
    packs = tmp_path / "partial" / ".git" / "objects" / "pack"
    before = sorted(packs.iterdir())
    found, left_out = walk(tmp_path / "partial")
    assert found == [("Change 3", ["d.py"]), ("Change 0", ["b.py"])]
    assert left_out == {"change: missing": 5, "no text change": 2}
    assert sorted(packs.iterdir()) == before


def test_commits_without_their_trees_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    source = make_repo(tmp_path / "source", [{"d/a.py": f"x = {n}\n"} for n in range(4)])
    git(source, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=tree:0", f"file://{source}", "partial")
    found, left_out = walk(tmp_path / "partial")
    assert found == [] and left_out == {"missing": 4}


def test_an_octopus_merge_is_a_merge_and_its_branches_are_read(tmp_path: Path) -> None:
    sides = [Made({f"{name}.py": "1\n"}, f"Side {name}", branch=name, start="main") for name in "abc"]
    folder = make_repo(tmp_path / "repo", [Made({"m.py": "1\n"}, "Start"), *sides])
    git(folder, "merge", "-q", "-m", "Octopus", "a", "b", "c")
    assert len(git(folder, "rev-list", "--parents", "-1", "HEAD").split()) == 4
    found, left_out = walk(folder)
    assert {message for message, _ in found} == {"Start", "Side a", "Side b", "Side c"} and left_out == {"merge": 1}


def test_an_emptied_file_is_a_change_and_an_empty_commit_is_none(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [{"a.py": "x\r\n", "A.py": "y\n"}, {"a.py": ""}, {}], checkout=False)
    with Repository.open(folder) as repository:
        emptied, first = repository.commits("HEAD")
    assert [(one.path, one.before, one.after) for one in emptied.changes] == [("a.py", "x\r\n", "")]
    assert [(one.path, one.after) for one in first.changes] == [("A.py", "y\n"), ("a.py", "x\r\n")]


def test_grafts_and_replaced_objects_are_ignored(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [{"a.py": f"x = {n}\n"} for n in range(4)])
    plain = walk(folder)
    ids = commit_ids(folder)
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "grafts").write_text(f"{ids[3]} {ids[0]}\n")
    git(folder, "replace", ids[0], ids[1])
    git(folder, "replace", git(folder, "rev-parse", f"{ids[1]}:a.py"), git(folder, "rev-parse", f"{ids[0]}:a.py"))
    assert len(commit_ids(folder)) < 4, "git itself follows them"
    assert walk(folder) == plain and len(plain[0]) == 4


def test_a_repository_may_change_while_it_is_read(tmp_path: Path) -> None:
    commits = [{f"{n % 7}.py": f"x = {n}\n" * 40} for n in range(3000)]
    folder = make_repo(tmp_path / "repo", commits)
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", "--bare", str(folder), str(copy))
    with Repository.open(copy) as repository:
        expected = list(repository.commits("HEAD"))
        files = repository.snapshot("HEAD")
    with Repository.open(folder) as repository:
        head = repository.resolve()
        walk, log, tracked = repository.commits(head), repository.log(head), repository.tracked(head)
        found, records, entries = [next(walk)], [next(log)], [next(tracked)]
        (folder / "0.py").write_text("new\n")
        git(folder, "commit", "-q", "-a", "-m", "New")
        git(folder, "repack", "-q", "-a", "-d", "-f", "--depth=3")
        found += [next(walk) for _ in range(500)]
        git(folder, "gc", "-q", "--prune=now")
        assert [*found, *walk] == expected and repository.snapshot(head) == files
        assert [one.id for one in [*records, *log]] == [one.id for one in expected] and len([*entries, *tracked]) == 7
        assert next(iter(repository.commits("HEAD"))).message == "New"


def test_a_history_with_a_lost_commit_is_an_error_and_not_a_short_history(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", [{"a.py": f"x = {n}\n"} for n in range(4)])
    lost = commit_ids(folder)[1]
    (folder / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    with Repository.open(folder) as repository:
        for read in (repository.commits, repository.log, repository.people):
            with pytest.raises(RunError, match=rf"^git (rev-list|log) failed: .*{lost}.*git fsck"):
                list(read("HEAD"))  # type: ignore[operator]
