"""A repository given by its URL: cloned once, updated when opened again, and never a way to run anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from small_repository import small_repository
from typer.testing import CliRunner

from longrepo.cli.app import app
from longrepo.errors import InputError
from longrepo.repository import clone
from longrepo.repository.clone import url_of
from longrepo.repository.repository import Repository


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGREPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clone, "_updated", {})
    return tmp_path / "cache"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return small_repository(tmp_path / "shop")


def git(folder: Path, *words: str) -> str:
    options = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
    return subprocess.run(["git", *options, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def opened(url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, tuple[str, ...]]:
    """Name, HEAD and notes, as in a process of its own."""
    monkeypatch.setattr(clone, "_updated", {})
    with Repository.open(Path(url)) as repository:
        return repository.name, repository.resolve(), repository.notes


def test_a_url_is_cloned_once_and_follows_the_repository(
    shop: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{shop}"
    name, head, notes = opened(url, monkeypatch)
    assert (name, head) == ("shop", git(shop, "rev-parse", "HEAD").strip())
    assert notes[0] == f"read from a clone of {url}"
    (shop / "new.py").write_text("new = 1\n")
    git(shop, "add", "new.py")
    git(shop, "commit", "-m", "New")
    assert opened(url, monkeypatch)[1:] == (git(shop, "rev-parse", "HEAD").strip(), notes)
    assert len(list((cache / "clones").iterdir())) == 1
    shop.rename(shop.with_name("moved"))
    name, again, notes = opened(url, monkeypatch)
    assert again == git(shop.with_name("moved"), "rev-parse", "HEAD").strip()
    assert "can't be reached" in notes[0] and "its clone of 20" in notes[0]


def test_nothing_of_it_is_run_or_checked_out(shop: Path, cache: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    template = tmp_path / "template" / "hooks"
    template.mkdir(parents=True)
    for hooks in (shop / ".git" / "hooks", template):
        for name in ("post-checkout", "reference-transaction", "post-update"):
            hooks.mkdir(exist_ok=True)
            (hooks / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
            (hooks / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_TEMPLATE_DIR", str(template.parent))
        with Repository.open(Path(f"file://{shop}")):
            pass
    ran.unlink(missing_ok=True)  # what the origin's own hooks did there is its affair
    (folder,) = (cache / "clones").glob("*/shop.git")
    assert not (folder / "hooks").exists() and not list(folder.rglob("account.py"))


def test_a_clone_gives_the_sequences_of_the_folder(shop: Path, tmp_path: Path) -> None:
    hashes = set()
    for number, place in enumerate((str(shop), f"file://{shop}")):
        folder = tmp_path / f"prep{number}"
        words = ["prepare", "--repo", place, "--output-dir", str(folder), "--model", "embedded", "--phases", "1"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (done.output, done.exception)
        assert str(tmp_path / "cache") not in (folder / "sequences" / "README.md").read_text()
        hashes.add((folder / "preparation_summary.json").read_text().partition('"sequences_sha256"')[2])
    assert len(hashes) == 1


REFUSED = {
    "http://host/x.git": "http isn't read",
    "git://host/x.git": "git isn't read",
    "https://me:secret@host/x.git": "leave the user and password for host out of the URL",
    "https://token@host/x.git": "leave the user and password for host out of the URL",
    "ssh://-oProxyCommand=touch/x": "not the URL of a git repository",
    "-oProxyCommand=x@host:x": "no such folder",
    "file:///nowhere/at/all": "can't be cloned",
    "ext::sh -c touch": "no such folder",
}


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_not_cloned_is_said_in_a_line_without_a_secret(url: str, cache: Path) -> None:
    with pytest.raises(InputError) as caught:
        Repository.open(Path(url))
    assert REFUSED[url] in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert "secret" not in str(caught.value) and "token" not in str(caught.value)
    assert not list(cache.rglob("*.git"))


def test_without_a_cache_there_is_no_place_for_a_clone(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGREPO_CACHE", "off")
    with pytest.raises(InputError, match="LONGREPO_CACHE is off"):
        Repository.open(Path(f"file://{shop}"))


def test_a_folder_is_a_folder_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me@host:x").mkdir()
    assert url_of(Path("me@host:x")) is None
    for place in ("C:\\work\\shop", "C:/work/shop", "../shop", "shop", "owner/name"):
        assert url_of(Path(place)) is None
    assert url_of(Path("git@github.com:owner/name.git")) == "git@github.com:owner/name.git"
    assert url_of(Path("https://host/owner/name/")) == "https://host/owner/name"
