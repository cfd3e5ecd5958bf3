"""What was read once is not read again, and a cache in any state changes nothing but the time it takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from git_helper import Made, make_repo
from small_packages import NAMES, history, module
from whole import Case, prepared

from longrepo.config.schema import Settings
from longrepo.data.features import FeatureExtractor, FileJob, Job, StepJob
from longrepo.data.prepare import write_prepared
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.utils import cache as caching
from longrepo.utils.cache import SqliteCache, cache_folder

Bytes = Callable[[Case], dict[str, bytes]]


@pytest.fixture
def written(tmp_path: Path) -> Bytes:
    """What a prepared repository becomes on disk: name → bytes."""

    def files(case: Case) -> dict[str, bytes]:
        folder = tmp_path / f"written{len(list(tmp_path.glob('written*')))}"
        write_prepared(folder, case.prepared)
        return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}

    return files


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    """Every job that is analysed while the test runs."""
    done: list[Job] = []
    plain = FeatureExtractor._read

    def counted(self: FeatureExtractor, job: Job) -> object:
        done.append(job)
        return plain(self, job)

    monkeypatch.setattr(FeatureExtractor, "_read", counted)
    yield done


def test_what_was_put_is_there_in_another_process_of_the_same_folder(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "deep" / "folder")
    items = {f"key {n}": bytes([n % 256]) * n for n in range(1700)}
    cache.put(items)
    assert cache.get([*items, "another"]) == items
    cache.close()
    cache.close()
    again = SqliteCache(tmp_path / "deep" / "folder")
    assert again.get(["key 3", "key 1699", "nothing"]) == {key: items[key] for key in ("key 3", "key 1699")}
    again.put({"key 3": b"newer"})
    assert again.get(["key 3"]) == {"key 3": b"newer"} and again.get([]) == {}
    again.close()


def test_without_a_folder_it_lasts_as_long_as_the_object() -> None:
    cache, other = SqliteCache(), SqliteCache()
    cache.put({"a": b"1"})
    assert cache.get(["a"]) == {"a": b"1"} and other.get(["a"]) == {}


def test_beyond_its_limit_what_was_used_longest_ago_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86_400
    for number in range(4):
        monkeypatch.setattr(caching.time, "time", lambda at=number: 10 * day + at * 2 * day)
        cache = SqliteCache(tmp_path)
        cache.put({f"from day {number}": b"x" * 1000})
        if number == 2:
            cache.get(["from day 0"])  # used again two days later
        cache.close()
    limited = SqliteCache(tmp_path, most_bytes=3500)
    limited.close()
    left = SqliteCache(tmp_path)
    assert set(left.get([f"from day {n}" for n in range(4)])) == {"from day 0", "from day 2", "from day 3"}
    left.close()


def test_where_it_is_can_be_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LONGREPO_CACHE", "off")
    assert cache_folder() is None
    monkeypatch.setenv("LONGREPO_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("LONGREPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(caching.sys, "platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "longrepo"


def _garbage(file: Path) -> None:
    file.write_bytes(b"no database at all " * 5000)


def _other_table(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE entries (other INTEGER)")
    connection.close()


def _folder(file: Path) -> None:
    file.mkdir()
    (file / "something").write_text("in the way")


@pytest.mark.parametrize("spoil", [_garbage, _other_table, _folder])
def test_a_file_that_cannot_be_used_is_as_good_as_an_empty_one(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tmp_path / "texts.sqlite")
    cache = SqliteCache(tmp_path)
    assert cache.get(["a"]) == {}
    cache.put({"a": b"1"})
    assert cache.get(["a"]) in ({}, {"a": b"1"})
    cache.close()


def test_a_file_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SqliteCache(tmp_path)
    cache.put({"a": b"1"})
    cache.close()
    connect = sqlite3.connect
    monkeypatch.setattr(
        caching.sqlite3, "connect", lambda file, **more: connect(f"file:{file}?mode=ro", uri=True, **more)
    )
    cache = SqliteCache(tmp_path)
    cache.put({"b": b"2"})
    assert cache.get(["a", "b"]) == {"a": b"1"}
    cache.close()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = SqliteCache(tmp_path / "file" / "cache")
    cache.put({"a": b"1"})
    assert cache.get(["a"]) == {"a": b"1"}
    cache.close()


def test_any_state_of_the_cache_gives_the_same_bytes(
    long_history: Path, tokenizer: RepoTokenizer, settings: Settings, tmp_path: Path, written: Bytes, jobs: list[Job]
) -> None:
    def made(cache: SqliteCache) -> dict[str, bytes]:
        try:
            return written(prepared(long_history, tokenizer, settings, phases=2, cache=cache))
        finally:
            cache.close()

    expected, here = made(SqliteCache()), tmp_path / "cache"
    assert len(expected) >= 4
    first = len(jobs)
    assert made(SqliteCache(here)) == expected and len(jobs) == 2 * first
    assert made(SqliteCache(here)) == expected and len(jobs) == 2 * first, "warm: nothing is analysed"

    whole = (here / "texts.sqlite").read_bytes()
    (here / "texts.sqlite").write_bytes(whole[: len(whole) // 2] + b"\xff" * 1000 + whole[len(whole) // 2 + 1000 :])
    assert made(SqliteCache(here)) == expected, "pages in its middle are damaged"
    (here / "texts.sqlite").write_bytes(whole[: len(whole) // 3])
    assert made(SqliteCache(here)) == expected, "cut short"

    opened = SqliteCache(here)
    for file in here.iterdir():
        file.unlink()
    assert made(opened) == expected, "deleted while in use"


def test_a_value_that_is_not_what_was_put_is_read_anew(
    long_history: Path, tokenizer: RepoTokenizer, settings: Settings, tmp_path: Path, written: Bytes
) -> None:
    def made() -> dict[str, bytes]:
        cache = SqliteCache(tmp_path / "cache")
        try:
            return written(prepared(long_history, tokenizer, settings, phases=1, cache=cache))
        finally:
            cache.close()

    expected = made()
    with sqlite3.connect(tmp_path / "cache" / "texts.sqlite") as connection:
        connection.execute("UPDATE entries SET value = substr(value, 1, length(value) / 2)")
    connection.close()
    assert made() == expected


def test_after_a_commit_only_what_it_changed_is_analysed(
    tokenizer: RepoTokenizer, settings: Settings, tmp_path: Path, jobs: list[Job], written: Bytes
) -> None:
    commits = history(40)
    cache = SqliteCache(tmp_path / "cache")
    prepared(make_repo(tmp_path / "one" / "r", commits), tokenizer, settings, phases=2, cache=cache)
    first = len(jobs)
    jobs.clear()
    extended = make_repo(
        tmp_path / "two" / "r", [*commits, Made({"package/novel.py": module("novel", None, 7)}, "Novel")]
    )
    found = prepared(extended, tokenizer, settings, phases=2, cache=cache)
    files = [job for job in jobs if isinstance(job, FileJob)]
    assert len(files) <= 3, "one more commit is trained on, with the files it changed"
    assert len([job for job in jobs if isinstance(job, StepJob)]) <= 4
    assert len(jobs) < first / 3
    assert written(found) == written(prepared(extended, tokenizer, settings, phases=2))
    cache.close()


def test_a_file_that_moved_is_not_read_again(
    tokenizer: RepoTokenizer, settings: Settings, tmp_path: Path, jobs: list[Job]
) -> None:
    cache = SqliteCache()
    files = {f"src/{name}.py": module(name, None, 8) for name in NAMES}
    prepared(make_repo(tmp_path / "one", [files]), tokenizer, settings, phases=1, cache=cache)
    jobs.clear()
    moved = {path.replace("src/", "library/deep/"): text for path, text in files.items()}
    prepared(make_repo(tmp_path / "two", [moved]), tokenizer, settings, phases=1, cache=cache)
    assert not [job for job in jobs if isinstance(job, FileJob)]


def test_a_new_author_has_just_the_files_that_name_him_read_again(
    tokenizer: RepoTokenizer, settings: Settings, tmp_path: Path, jobs: list[Job], written: Bytes
) -> None:
    files = {f"src/{name}.py": module(name, None, 8) for name in NAMES}
    files["src/cedar.py"] += "# Thought out by Ottilie Fernbach on a train.\n"
    commits = [Made(files)]
    cache = SqliteCache()
    before = prepared(make_repo(tmp_path / "one" / "r", commits), tokenizer, settings, phases=1, cache=cache)
    assert any("Ottilie Fernbach" in tokenizer.decode(row.input_ids.tolist()) for row in before.rows)
    jobs.clear()
    commits.append(Made({"notes.bin": b"\0"}, "A stamp", author="Ottilie Fernbach <of@fernbach-works.org>"))
    extended = make_repo(tmp_path / "two" / "r", commits)
    after = prepared(extended, tokenizer, settings, phases=1, cache=cache)
    assert {job.path for job in jobs} == {"src/cedar.py"}
    assert not any("Fernbach" in tokenizer.decode(row.input_ids.tolist()) for row in after.rows)
    assert written(after) == written(prepared(extended, tokenizer, settings, phases=1))


def test_another_setting_that_matters_is_another_entry(
    long_history: Path, tokenizer: RepoTokenizer, settings: Settings, jobs: list[Job]
) -> None:
    cache = SqliteCache()
    prepared(long_history, tokenizer, settings, phases=1, cache=cache)
    for name, value in (("redact", False), ("context_weight", 0.3)):
        jobs.clear()
        data = settings.data.model_copy(update={name: value})
        prepared(long_history, tokenizer, settings.model_copy(update={"data": data}), phases=1, cache=cache)
        assert jobs, name
