"""The log yields commits as object ids; a second run asks git only for new commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from git_helper import Link, Made, Submodule, commit_ids, git, make_repo

from longrepo.repository import history
from longrepo.repository.git import ObjectReader
from longrepo.repository.repository import Repository
from longrepo.repository.types import CommitRecord, FileChange

LONG = "".join(f"line {n}\n" for n in range(30))
COMMITS = [
    Made({"a.py": LONG, "yarn.lock": "1\n"}, "Start", author="Bo Bø <bo@example.com>"),
    Made({"a.py": None, "ä b.py": LONG + "more\n", "s": Link("a.py"), "vendor/x.c": "1\n"}, "Move\n\nWhy."),
    Made({"p.png": b"\0"}, "Picture"),
    Made({"sub": Submodule()}, "Others' things"),
    Made({f"f{n}.py": f"{n}\n" for n in range(31)}, "Add many"),
    Made({"x.py": "1\n"}, "Bump", author="dependabot[bot] <1@example.com>"),
]


class Store(dict[str, bytes]):
    """Stores entries in memory and records how many were put at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[int] = []

    def get(self, ids: Sequence[str]) -> Mapping[str, bytes]:  # type: ignore[override]
        return {one: self[one] for one in ids if one in self}

    def put(self, items: Mapping[str, bytes]) -> None:
        self.update(items)
        self.puts.append(len(items))


def walk(folder: Path, known: Store | None = None) -> tuple[list[CommitRecord], Counter[str]]:
    left_out = Counter[str]()
    with Repository.open(folder) as repository:
        return list(repository.log("HEAD", left_out=left_out, known=known)), left_out


def blob(folder: Path, name: str) -> str:
    return git(folder, "rev-parse", name)


def test_a_record_names_its_blobs_and_counts_what_is_left_out(tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "repo", COMMITS, checkout=False)
    ids = commit_ids(folder)
    before, after = blob(folder, f"{ids[0]}:a.py"), blob(folder, f"{ids[1]}:ä b.py")
    (picture, move, start), left_out = walk(folder)
    assert picture.changes[0].path == "p.png", "a binary file is found out when it is read"
    assert move == CommitRecord(
        ids[1], ids[0], "Move\n\nWhy.", "Ada Example", "ada@example.com",
        (FileChange("ä b.py", before, after, "a.py"),), 3,
    )  # fmt: skip
    assert (start.parent, start.author_name, start.author_email) == (None, "Bo Bø", "bo@example.com")
    assert start.changes == (FileChange("a.py", None, before),) and start.files == 2
    changes = {"change: lock file": 1, "change: symlink": 1, "change: vendored": 1, "change: submodule": 1}
    assert left_out == {"bulk": 1, "bot": 1, "no text change": 1, **changes}


def test_a_second_run_compares_only_new_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, store = make_repo(tmp_path / "repo", COMMITS), Store()
    assert walk(folder, store) == walk(folder) and store.puts == [6]
    assert walk(folder, store) == walk(folder) and store.puts == [6]
    (folder / "new.py").write_text("1\n")
    git(folder, "add", "new.py")
    git(folder, "commit", "-q", "-m", "New")
    asked: list[str] = []
    real = history.read_changes
    monkeypatch.setattr(history, "read_changes", lambda reader, ids, most: asked.extend(ids) or real(reader, ids, most))
    found = walk(folder, store)
    assert asked == [blob(folder, "HEAD")] and store.puts == [6, 1]
    assert found == walk(folder) and found[0][0].message == "New"
    monkeypatch.setattr(history, "RECORD_VERSION", history.RECORD_VERSION + 1)
    asked.clear()
    assert walk(folder, store) == found and len(asked) == 7, "another version's entries are made anew"


def test_what_is_missing_today_is_asked_for_again(tmp_path: Path) -> None:
    source = make_repo(tmp_path / "source", [{"a.py": LONG}, {"a.py": None, "b.py": LONG + "more\n"}])
    git(source, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", "--no-checkout", f"file://{source}", "partial")
    store = Store()
    found, _ = walk(tmp_path / "partial", store)
    assert [change.old_path for change in found[0].changes] == [None, None], "without the texts it is no rename"
    assert list(store) == commit_ids(source)[:1]


def test_a_log_reads_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_repo(tmp_path / "repo", COMMITS)
    monkeypatch.setattr(ObjectReader, "batch", lambda *_: pytest.fail("a text was read"))
    assert len(walk(folder)[0]) == 3


def test_a_message_may_look_like_anything(tmp_path: Path) -> None:
    messages = [
        ":100644 100644 " + "1" * 40 + " " + "2" * 40 + " M",
        "0" * 40 + "\n\n\n:a",
        "CRLF\r\nand tabs\t",
        "x" * 3_000_000,
    ]
    folder = make_repo(tmp_path / "repo", [Made({"=\n": f"{n}\n"}, text) for n, text in enumerate(messages)])
    found = [record.message for record in walk(folder)[0]][::-1]
    assert found[:3] == messages[:3] and found[3][:900_000] == "x" * 900_000 and len(found[3]) <= 1_000_000


def test_people_are_the_authors_and_committers_of_everything_reached(tmp_path: Path) -> None:
    commits = [
        Made({"a": "1\n"}, author="Bo Bø <bo@example.com>"),
        Made({"b": "1\n"}, branch="side", start="main", author="Cy <>"),
        Made({"b": "1\n"}, merge="side", author="Bo Bø <bo@example.com>"),
        Made({"c": "1\n"}, branch="other", start="main", author="Di <di@example.com>"),
        Made({".mailmap": "Else <else@example.com> <bo@example.com>\n"}, author="Bo Bø <bo@example.com>"),
    ]
    folder = make_repo(tmp_path / "repo", commits)
    with Repository.open(folder) as repository:
        people = repository.people("HEAD")
    committer = ("Ada Example", "ada@example.com")
    assert people == (committer, ("Bo Bø", "bo@example.com"), ("Cy", ""))
