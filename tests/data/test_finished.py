"""A run that would make the same again is recognised before anything is read, and what it gives is the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from git_helper import Made, git, make_repo
from small_packages import NAMES, module
from whole import Case, prepared

from longrepo.config.schema import Settings
from longrepo.data import finished, prepare
from longrepo.data.prepare import write_prepared
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.repository.repository import Repository
from longrepo.utils.cache import SqliteCache

Run = Callable[..., Case]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {f"src/{name}.py": module(name, None, 8) for name in NAMES}
    return make_repo(tmp_path / "source" / "r", [files, {"src/amber.py": module("amber", None, 9)}])


@pytest.fixture
def run(repository: Path, tokenizer: RepoTokenizer, settings: Settings, tmp_path: Path) -> Run:
    """Prepares the repository with one cache and writes to `out`."""

    def once(out: Path, folder: Path = repository, settings: Settings = settings, **given: object) -> Case:
        cache = SqliteCache(tmp_path / "cache")
        try:
            made = prepared(folder, tokenizer, settings, cache=cache, **({"phases": 1} | given))  # type: ignore[arg-type]
            write_prepared(out, made.prepared)
            if made.prepared.finished and made.prepared.finished.known:
                made.rows  # noqa: B018  (while the cache is open)
            return made
        finally:
            cache.close()

    return once


@pytest.fixture
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, whatever is not recognised fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("made anew")

    return lambda: monkeypatch.setattr(prepare, "assemble_sequences", refuse)


def test_with_nothing_new_nothing_is_read_and_the_files_are_the_same(
    run: Run, nothing_read: Callable[[], None], tmp_path: Path
) -> None:
    first = run(tmp_path / "out")
    before = contents(tmp_path / "out")
    nothing_read()
    again, other = run(tmp_path / "out"), run(tmp_path / "other")
    assert len(before) >= 6 and contents(tmp_path / "out") == contents(tmp_path / "other") == before
    assert (
        again.prepared.header.counts == first.prepared.header.counts
        and again.prepared.summary == first.prepared.summary
    )
    assert len(other.rows) == len(first.rows)
    for one, row in zip(first.rows, other.rows, strict=True):
        assert (one.input_ids == row.input_ids).all() and (one.loss_weights == row.loss_weights).all()
        assert (one.files, one.difficulty_parts, one.split) == (row.files, row.difficulty_parts, row.split)


def test_what_was_altered_is_put_right_and_what_was_not_is_left_alone(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = contents(tmp_path / "out")
    data = tmp_path / "out" / "sequences" / "data-00000-of-00001.arrow"
    place = data.stat().st_ino
    run(tmp_path / "out")
    assert data.stat().st_ino == place
    altered = bytearray(data.read_bytes())
    altered[len(altered) // 2] ^= 1
    data.write_bytes(altered)
    (tmp_path / "out" / "sequences" / "README.md").unlink()
    (tmp_path / "out" / "preparation_summary.json").write_text("{}")
    run(tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_what_decides_the_result_is_asked_for(
    run: Run, repository: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(**given: object) -> bool:
        made = run(tmp_path / "out", **given).prepared
        return made.finished is not None and made.finished.known

    assert not known() and known()
    data = settings.data.model_copy(update={"random_order_share": 0.9})
    assert not known(settings=settings.model_copy(update={"data": data}))
    assert not known(commit="HEAD~1") and known(commit="HEAD~1")
    assert not known(phases=2) and not known(weights=[2.0])
    renamed = repository.rename(repository.with_name("renamed"))
    assert not known(folder=renamed), "its name stands in the rows"
    renamed.rename(repository)
    assert known()
    monkeypatch.setattr(finished, "code", lambda: "a later version")
    assert not known()


def test_a_kept_result_that_is_not_whole_is_made_anew(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = contents(tmp_path / "out")
    for spoil in ("DELETE FROM entries WHERE key LIKE 'f:%arrow%'", "UPDATE entries SET value = zeroblob(size)"):
        with sqlite3.connect(tmp_path / "cache" / "texts.sqlite") as connection:
            connection.execute(spoil)
        connection.close()
        found = run(tmp_path / "other").prepared.finished
        assert found is not None and not found.known and contents(tmp_path / "other") == before


def test_the_state_of_a_repository_tells_how_much_of_it_is_there(tmp_path: Path) -> None:
    commits = [Made({"a.py": module("amber", None, number)}, f"Step {number}") for number in range(1, 4)]
    whole = make_repo(tmp_path / "r", commits)
    git(tmp_path, "clone", "-q", "--depth", "2", f"file://{whole}", str(tmp_path / "shallow"))
    states = []
    for folder in (whole, tmp_path / "shallow"):
        with Repository.open(folder) as repository:
            states.append(repository.state())
            assert repository.state() == states[-1]
    assert states[0] != states[1]
