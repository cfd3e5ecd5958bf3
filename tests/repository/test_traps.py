"""A repository can name programs in its configuration and attributes; reading it runs none of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from git_helper import Submodule, commit_ids, environment, git, make_repo

from longrepo.repository.repository import Repository

TRAPS = (
    "core.fsmonitor",
    "core.sshCommand",
    "core.pager",
    "core.editor",
    "core.askPass",
    "core.gitProxy",
    "core.alternateRefsCommand",
    "credential.helper",
    "diff.external",
    "diff.evil.textconv",
    "diff.evil.command",
    "filter.evil.clean",
    "filter.evil.smudge",
    "filter.evil.process",
    "gpg.program",
    "uploadpack.packObjectsHook",
    "remote.origin.uploadpack",
)
HOOKS = ("post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc", "fsmonitor-watchman")


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A repository in which every setting that can run a program would leave a file in `ran/`."""
    (tmp_path / "ran").mkdir()
    start = {
        ".gitattributes": "* diff=evil filter=evil merge=evil text eol=crlf\n",
        ".gitmodules": f'[submodule "sub"]\n\tpath = sub\n\turl = ext::{tmp_path}/trap-submodule\n',
        "sub": Submodule(),
    }
    text = "".join(f"line {n}\n" for n in range(30))
    commits = [{"a.py": text, **start}, {"a.py": None, "b.py": text + "more\n"}, {"b.py": text + "end\n"}]
    folder = make_repo(tmp_path / "repo", commits)
    included = tmp_path / "included"
    included.write_text(f"[alias]\n\tseen = !{script(tmp_path, 'included')}\n")
    git(folder, "config", "include.path", str(included))
    git(folder, "config", f"includeIf.gitdir:{tmp_path}/.path", str(included))
    for name in TRAPS:
        git(folder, "config", name, script(tmp_path, name))
    for name in HOOKS:
        script(tmp_path, f"hook-{name}", folder / ".git" / "hooks" / name)
    git(folder, "config", "core.hooksPath", str(folder / ".git" / "hooks"))
    git(folder, "config", "log.showSignature", "true")
    git(folder, "config", "diff.renames", "false")
    for name in ("cat-file", "look"):  # git never lets an alias replace a command of its own
        git(folder, "config", f"alias.{name}", "!" + script(tmp_path, "alias"))
    submodule = script(tmp_path, "submodule")
    git(folder, "config", "submodule.sub.url", f"ext::{submodule}")
    git(folder, "config", "submodule.sub.update", f"!{submodule}")
    git(folder, "config", "submodule.recurse", "true")
    git(folder, "config", "protocol.ext.allow", "always")
    (folder / "b.py").write_text("changed\n")
    return folder


def script(tmp_path: Path, name: str, at: Path | None = None) -> str:
    """A program that leaves a trace when it runs."""
    at = at or tmp_path / f"trap-{name}"
    at.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran/{name}'\nexit 1\n")
    at.chmod(0o755)
    return str(at)


def plain_git(folder: Path, *commands: Iterable[str]) -> None:
    for command in commands:
        subprocess.run(["git", *command], cwd=folder, env=environment(), capture_output=True)


def ran(folder: Path) -> set[str]:
    return {path.name for path in (folder.parent / "ran").iterdir()}


def read_everything(folder: Path) -> tuple[list[str], list[str]]:
    with Repository.open(folder) as repository:
        head = repository.resolve()
        repository.resolve("HEAD@{0}")
        repository.first_parents(head, 5)
        files = [file.path for file in repository.snapshot(head).files]
        records = list(repository.log(head))
        blobs = [entry.blob for entry in repository.tracked(head)]
        list(repository.texts([*blobs, *(one.before for record in records for one in record.changes if one.before)]))
        assert repository.people(head) == (("Ada Example", "ada@example.com"),)
        return files, [commit.message for commit in repository.commits("HEAD")]


def test_nothing_a_repository_names_is_run(trapped: Path) -> None:
    index = (trapped / ".git" / "index").read_bytes()
    files, messages = read_everything(trapped)
    assert files == [".gitattributes", ".gitmodules", "b.py"] and messages == ["Change 2", "Change 1", "Change 0"]
    assert ran(trapped) == set()
    assert (trapped / ".git" / "index").read_bytes() == index


def test_the_traps_would_have_been_sprung_by_plain_git(trapped: Path) -> None:
    commands = [["status"], ["diff"], ["config", "--remove-section", "filter.evil"], ["diff", "HEAD~1", "HEAD"]]
    for name in ("diff.evil.command", "diff.external"):  # git asks one program for a difference: the next in line
        commands += [["config", "--unset", name], ["diff", "HEAD~1", "HEAD"]]
    commands += [["look"], ["seen"], ["fetch", "ssh://nobody@localhost/x"], ["update-ref", "refs/heads/new", "HEAD"]]
    commands += [["-c", "protocol.ext.allow=always", "submodule", "update", "--init"]]
    plain_git(trapped, *commands)
    sprung = {"core.fsmonitor", "filter.evil.process", "diff.external", "diff.evil.command", "diff.evil.textconv"}
    sprung |= {"alias", "included", "submodule", "core.sshCommand", "hook-reference-transaction"}
    assert sprung - ran(trapped) == set()


def test_a_missing_object_asks_no_remote(trapped: Path) -> None:
    blob = git(trapped, "rev-parse", "HEAD:b.py")
    (trapped / ".git" / "objects" / blob[:2] / blob[2:]).unlink(missing_ok=True)
    if subprocess.run(["git", "cat-file", "-e", blob], cwd=trapped, env=environment()).returncode == 0:
        pytest.fail("the object should be missing")
    for url in ("ssh://nobody@localhost/x", f"ext::{trapped.parent}/trap-core.sshCommand"):
        git(trapped, "config", "remote.origin.url", url)
        git(trapped, "config", "remote.origin.promisor", "true")
        git(trapped, "config", "protocol.ext.allow", "always")
        files, messages = read_everything(trapped)
        assert files == [".gitattributes", ".gitmodules"] and messages == ["Change 1", "Change 0"]
        with Repository.open(trapped) as repository, pytest.raises(Exception, match="no commit"):
            repository.resolve("1" * 40)
        assert ran(trapped) == set()
        plain_git(trapped, ["cat-file", "-p", blob])
        assert ran(trapped) == {"core.sshCommand"}
        (trapped.parent / "ran" / "core.sshCommand").unlink()


def test_a_link_that_leads_outside_is_not_followed(tmp_path: Path) -> None:
    from git_helper import Link

    (tmp_path / "secret.py").write_text("secret = 1\n")
    folder = make_repo(tmp_path / "repo", [{"a.py": "x\n", "out.py": Link("../secret.py"), "up": Link("..")}])
    with Repository.open(folder) as repository:
        snapshot = repository.snapshot("HEAD")
    assert [file.path for file in snapshot.files] == ["a.py"] and snapshot.left_out == {"symlink": 2}
    assert len(commit_ids(folder)) == 1
