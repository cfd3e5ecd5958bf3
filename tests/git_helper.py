"""Real git repositories for tests, with fixed names and dates, so that every commit id is the same on every machine.

    make_repo(tmp_path / "repo", commits=[{"a.py": "x = 1\n"}, Made({"a.py": None, "b.py": "x = 2\n"}, "Move it")])

Written through `git fast-import`: one process however many commits, and any bytes may stand in a path.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

FIRST_DATE = 1_700_000_000  # seconds since 1970; each commit is an hour after the one before
AUTHOR = "Ada Example <ada@example.com>"


@dataclass(frozen=True)
class Link:
    """A symbolic link and what it points to."""

    target: str


@dataclass(frozen=True)
class Submodule:
    """A submodule entry at a commit that is not in this repository."""

    commit: str = "1" * 40


Content = str | bytes | Link | Submodule | None  # None deletes the file


@dataclass(frozen=True)
class Made:
    """One commit: the files it writes or deletes on top of `branch`, and the branch it names as second parent.

    A merge takes nothing over by itself: give the files it ends up with.
    """

    files: Mapping[str | bytes, Content]
    message: str = ""
    author: str = AUTHOR
    branch: str = "main"
    merge: str | None = None
    start: str | None = None  # the branch a new branch starts from


def environment() -> dict[str, str]:
    """The process environment without anything of the user's that would change what git does."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return env | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "Ada Example",
        "GIT_AUTHOR_EMAIL": "ada@example.com",
        "GIT_AUTHOR_DATE": f"{FIRST_DATE} +0000",
        "GIT_COMMITTER_NAME": "Ada Example",
        "GIT_COMMITTER_EMAIL": "ada@example.com",
        "GIT_COMMITTER_DATE": f"{FIRST_DATE} +0000",
    }


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    """Run git in `folder` and return what it printed, without the last line break. Raises where git fails."""
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), input=stdin, capture_output=True)
    if done.returncode:
        raise AssertionError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace").rstrip("\n")


def make_repo(
    folder: Path,
    commits: Iterable[Made | Mapping[str, Content] | Mapping[str | bytes, Content]] = (),
    *,
    bare: bool = False,
    checkout: bool = True,
) -> Path:
    """Make a repository with these commits (a plain mapping is a commit on main) and return its folder.

    `checkout=False` leaves the working tree empty: for paths the file system can't hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main", *(["--bare"] if bare else []))
    stream = b"".join(_commit(number, commit) for number, commit in enumerate(commits))
    if stream:
        git(folder, "fast-import", "--quiet", "--force", stdin=b"feature done\n" + stream + b"done\n")
        if checkout and not bare:
            git(folder, "reset", "-q", "--hard", "main")
    return folder


def commit_ids(folder: Path, revision: str = "main") -> list[str]:
    """Full ids of the commits reachable from a revision, oldest first."""
    return git(folder, "rev-list", "--topo-order", "--reverse", revision).split()


def _commit(number: int, given: Made | Mapping[str, Content] | Mapping[str | bytes, Content]) -> bytes:
    made = given if isinstance(given, Made) else Made(given)  # type: ignore[arg-type]
    when = f"{FIRST_DATE + 3600 * number} +0000"
    message = (made.message or f"Change {number}").encode()
    lines = [
        f"commit refs/heads/{made.branch}".encode(),
        f"author {made.author} {when}".encode(),
        f"committer {AUTHOR} {when}".encode(),
        b"data %d\n%s" % (len(message), message),
    ]
    if made.start:
        lines.append(f"from refs/heads/{made.start}".encode())
    if made.merge:
        lines.append(f"merge refs/heads/{made.merge}".encode())
    for path, content in made.files.items():
        lines.append(_file(path.encode() if isinstance(path, str) else path, content))
    return b"\n".join(lines) + b"\n\n"


def _file(path: bytes, content: Content) -> bytes:
    escaped = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    quoted = b'"' + escaped + b'"'
    if content is None:
        return b"D " + quoted
    if isinstance(content, Submodule):
        return b"M 160000 %s %s" % (content.commit.encode(), quoted)
    if isinstance(content, Link):
        mode, data = b"120000", content.target.encode()
    else:
        mode, data = b"100644", content.encode() if isinstance(content, str) else content
    return b"M %s inline %s\ndata %d\n%s" % (mode, quoted, len(data), data)
