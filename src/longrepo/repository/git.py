"""Git's plumbing, run so that nothing a repository says is run.

A repository can name programs in its configuration: a file-system monitor, hooks, diff drivers, filters, an ssh
command, a promisor remote that is asked for missing objects. So objects are read through a throw-away git folder of
our own that has no configuration, references or working tree and only borrows the repository's object store
(`GIT_OBJECT_DIRECTORY`): none of those settings exists there, and the user's own can't change a result either.
Only what needs references (resolving a revision) runs in the repository itself, with the options below.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import IO

from longrepo.errors import InputError, RunError

# Settings of the command line win over a repository's. An empty value switches a program off.
_OVERRIDES = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.sshCommand": "false",
    "core.askPass": "",
    "core.pager": "cat",
    "credential.helper": "",
    "protocol.allow": "never",
    "log.showSignature": "false",
    "safe.bareRepository": "all",
}
_REQUESTS_AT_ONCE = 100  # 65 bytes each: always fits an empty pipe, so writing before reading can't lock up
MISSING = "missing"


def safe_environment() -> dict[str, str]:
    """This process's environment for git in a repository that isn't trusted.

    Variables such as GIT_DIR are dropped: longrepo started from a hook would read the wrong repository.
    `GIT_NO_LAZY_FETCH` is known to git 2.44 and later; the empty `GIT_ALLOW_PROTOCOL` refuses a fetch in any version.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env |= {
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_CONFIG_COUNT": str(len(_OVERRIDES)),
        "LC_ALL": "C",
    }
    for number, (key, value) in enumerate(_OVERRIDES.items()):
        env[f"GIT_CONFIG_KEY_{number}"], env[f"GIT_CONFIG_VALUE_{number}"] = key, value
    return env


def git_program() -> str:
    """The git program's path. Raises InputError where there is none."""
    program = shutil.which("git")
    if program is None:
        raise InputError("git isn't installed or not on PATH; install it and try again")
    return program


def run_inside(folder: Path, *arguments: str) -> tuple[str | None, str]:
    """(what a git command in the repository itself prints, what it says about an error); the first None if it fails.

    Only for what needs references, such as resolving a revision: git's own check of who owns the folder applies.
    """
    try:
        done = subprocess.run(
            [git_program(), "--no-pager", *arguments],
            cwd=folder,
            env=safe_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except (OSError, ValueError) as error:  # no permission to enter, or a NUL in an argument
        return None, str(error)
    said = done.stderr.decode(errors="replace").strip()
    return (None if done.returncode else done.stdout.decode(errors="replace").strip()), said


class ObjectReader:
    """Runs plumbing on a repository's objects alone. Close it, or use it in a `with`, to end its processes.

    `common_dir` is the folder that holds `objects`; `hash_name` is sha1 or sha256.
    """

    def __init__(self, common_dir: Path, hash_name: str = "sha1") -> None:
        self._program = git_program()
        self._folder = tempfile.TemporaryDirectory(prefix="longrepo-git-")
        self._batches: dict[str, subprocess.Popen[bytes]] = {}
        self._streams: set[subprocess.Popen[bytes]] = set()
        own = Path(self._folder.name)
        for name in ("refs", "objects"):
            (own / name).mkdir()
        (own / "HEAD").write_text("ref: refs/heads/none\n")
        version = "0" if hash_name == "sha1" else f"1\n[extensions]\n\tobjectFormat = {hash_name}"
        (own / "config").write_text(f"[core]\n\tbare = true\n\trepositoryFormatVersion = {version}\n")
        shallow = common_dir / "shallow"
        if shallow.exists():  # without it git looks for parents that a shallow clone doesn't have
            shutil.copyfile(shallow, own / "shallow")
        self._environment = safe_environment() | {
            "GIT_DIR": str(own),
            "GIT_OBJECT_DIRECTORY": str(common_dir / "objects"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
        }

    def __enter__(self) -> ObjectReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove the throw-away folder. May be called twice."""
        for process in (*self._batches.values(), *self._streams):
            _end(process)
        self._batches.clear()
        self._streams.clear()
        self._folder.cleanup()

    def output(self, *arguments: str) -> bytes:
        """Everything a git command prints. Raises RunError with git's last line where it fails."""
        done = subprocess.run(
            self._command(arguments), env=self._environment, stdin=subprocess.DEVNULL, capture_output=True
        )
        if done.returncode:
            raise RunError(f"git {arguments[0]} failed: {_last_line(done.stderr)}")
        return done.stdout

    @contextmanager
    def stream(self, *arguments: str, stdin: Iterable[str] = ()) -> Iterator[IO[bytes]]:
        """What a git command prints, as it prints it, while a thread feeds it lines. Leaving early ends the process.

        A failing command just ends the stream: a commit whose trees are missing is the reader's to notice.
        """
        process = subprocess.Popen(
            self._command(arguments),
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin and process.stdout
        feeder = Thread(target=_feed, args=(process.stdin, stdin), daemon=True)
        self._streams.add(process)
        feeder.start()
        try:
            yield process.stdout
        finally:
            process.kill()
            feeder.join()
            _end(process)
            self._streams.discard(process)

    def sizes(self, ids: Iterable[str]) -> Iterator[tuple[str, str, int]]:
        """(id, type, bytes) of each object without reading it, in order; type is MISSING where it isn't here."""
        for group in _groups(ids):
            replies = self._request("--batch-check", group)
            for one in group:
                kind, size = self._header(replies)
                yield one, kind, size

    def read(self, ids: Iterable[str]) -> Iterator[tuple[str, str, bytes]]:
        """(id, type, content) of each object, in order; type is MISSING where it isn't here."""
        for group in _groups(ids):
            replies = self._request("--batch", group)
            for one in group:
                kind, size = self._header(replies)
                content = b""
                if kind != MISSING:
                    content = replies.read(size)
                    if len(content) != size or replies.read(1) != b"\n":
                        raise RunError(
                            "git cat-file ended in the middle of an object; check the repository with git fsck"
                        )
                yield one, kind, content

    def _request(self, mode: str, ids: Sequence[str]) -> IO[bytes]:
        process = self._batches.get(mode)
        if process is None:
            process = self._batches[mode] = subprocess.Popen(
                self._command(["cat-file", mode]),
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert process.stdin and process.stdout
        try:
            process.stdin.write("".join(f"{one}\n" for one in ids).encode())
            process.stdin.flush()
        except BrokenPipeError:
            raise RunError("git cat-file ended early; check the repository with git fsck") from None
        return process.stdout

    def _header(self, replies: IO[bytes]) -> tuple[str, int]:
        words = replies.readline().split()
        if len(words) == 3:
            return words[1].decode(), int(words[2])
        if len(words) == 2 and words[1] == b"missing":
            return MISSING, 0
        raise RunError("git cat-file ended early; check the repository with git fsck")

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [self._program, "--no-pager", *arguments]


def _groups(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while group := list(islice(rest, _REQUESTS_AT_ONCE)):
        yield group


def _feed(pipe: IO[bytes], lines: Iterable[str]) -> None:
    with suppress(BrokenPipeError, ValueError), pipe:
        for line in lines:
            pipe.write(f"{line}\n".encode())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(BrokenPipeError, ValueError):
                pipe.close()
    process.wait()


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["no message"])[-1].removeprefix("fatal: ")
