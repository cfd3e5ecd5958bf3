"""Git plumbing, nothing of the repo executed.

`git cat-file`, asked ahead of its answers.

Git's plumbing, run so that nothing a repository says is run.

A repository can name programs in its configuration: a file-system monitor, hooks, diff drivers, filters, an ssh
command, a promisor remote that is asked for missing objects. So objects are read through a throw-away git folder of
our own that has no configuration, references or working tree and only borrows the repository's object store
(`GIT_OBJECT_DIRECTORY`): none of those settings exists there, and the user's own can't change a result either.
Only what needs references (resolving a revision) runs in the repository itself, with the options below.

Commits with their raw changes, from one `git diff-tree --stdin`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from subprocess import Popen
from threading import Thread
from typing import IO, NamedTuple

from longrepo.errors import InputError, RunError

MAX_PENDING_IDS = 250  # 65 bytes each: always fits an empty pipe, so asking before reading can't lock up
MISSING = "missing"
_ENDED_EARLY = "git cat-file ended in the middle of its answers; check the repository with git fsck"


class ObjectBatch:
    """One process, asked for object ids and answering in order: a header each, and the content with `--batch`.

    No more than `ASKED_AHEAD` ids may be without an answer.
    """

    def __init__(self, process: Popen[bytes]) -> None:
        assert process.stdin and process.stdout
        self._requests, self._answers = process.stdin, process.stdout

    def ask(self, ids: Iterable[str]) -> None:
        """Ask for objects. Raises RunError where git has ended."""
        try:
            self._requests.write("".join(f"{one}\n" for one in ids).encode())
            self._requests.flush()
        except BrokenPipeError:
            raise RunError(_ENDED_EARLY) from None

    def header(self) -> tuple[str, int]:
        """(type, bytes) of the next object; the type is MISSING where it isn't here."""
        words = self._answers.readline().split()
        if len(words) == 3:
            return words[1].decode(), int(words[2])
        if len(words) == 2 and words[1] == b"missing":
            return MISSING, 0
        raise RunError(_ENDED_EARLY)

    def content(self, size: int) -> bytes:
        """The content of the object whose header was read last."""
        content = self._answers.read(size)
        if self._answers.read(1) != b"\n":  # ends every content
            raise RunError(_ENDED_EARLY)
        return content


def in_groups(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """The items, `size` at a time."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


# Settings of the command line win over a repository's. An empty value switches a program off.
_CONFIG_OVERRIDES = {
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
_MAX_FIELD_BYTES = 1_000_000  # bytes: a message or a path of more is nobody's work


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
        "GIT_CONFIG_COUNT": str(len(_CONFIG_OVERRIDES)),
        "LC_ALL": "C",
    }
    for number, (key, value) in enumerate(_CONFIG_OVERRIDES.items()):
        env[f"GIT_CONFIG_KEY_{number}"], env[f"GIT_CONFIG_VALUE_{number}"] = key, value
    return env


def git_program() -> str:
    """The git program's path. Raises InputError where there is none."""
    program = shutil.which("git")
    if program is None:
        raise InputError("git isn't installed or not on PATH; install it and try again")
    return program


def run_git_in(folder: Path, *arguments: str) -> tuple[str | None, str]:
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
        self._checker: ObjectBatch | None = None
        self._closing = ExitStack()
        self._running: set[subprocess.Popen[bytes]] = set()
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
        self._checker = None
        self._closing.close()
        for process in tuple(self._running):
            _end_process(process)
        self._running.clear()
        self._folder.cleanup()

    def output(self, *arguments: str) -> bytes:
        """Everything a git command prints. Raises RunError with git's last lines where it fails."""
        done = subprocess.run(
            self._command(arguments), env=self._environment, stdin=subprocess.DEVNULL, capture_output=True
        )
        if done.returncode:
            raise _command_error(arguments[0], done.stderr)
        return done.stdout

    def fields(
        self,
        *arguments: str,
        end: bytes = b"\0",
        stdin: Iterable[str] = (),
        strict: bool = True,
        most_bytes: int | None = None,
    ) -> Iterator[bytes]:
        """What a git command prints, as it prints it, cut at `end`; a field's bytes past a megabyte are dropped.

        Raises RunError where the command fails; with `strict=False` that just ends the fields. `most_bytes` bounds
        git's own memory where the system can: it fails when it wants more.
        """
        with (
            tempfile.TemporaryFile() as said,
            self._process(arguments, stdin=subprocess.PIPE, stderr=said) as process,
        ):
            assert process.stdin and process.stdout
            if most_bytes:
                _limit_memory(process.pid, most_bytes)
            feeder = Thread(target=_write_lines, args=(process.stdin, tuple(stdin)), daemon=True)
            feeder.start()
            try:
                yield from _split_fields(process.stdout, end)
            except BaseException:  # also where the caller stops early
                process.kill()
                raise
            finally:
                feeder.join()
            if process.wait() and strict:
                said.seek(0)
                raise _command_error(arguments[0], said.read())

    def sizes(self, ids: Iterable[str]) -> Iterator[tuple[str, str, int]]:
        """(id, type, bytes) of each object without reading it, in order; type is MISSING where it isn't here."""
        for group in in_groups(ids, MAX_PENDING_IDS):
            if self._checker is None:
                self._checker = self._closing.enter_context(self.batch("--batch-check"))
            self._checker.ask(group)
            yield from [(one, *self._checker.header()) for one in group]

    @contextmanager
    def batch(self, mode: str = "--batch") -> Iterator[ObjectBatch]:
        """A `git cat-file` of one's own, ended on leaving."""
        with self._process(["cat-file", mode], stdin=subprocess.PIPE) as process:
            if mode == "--batch":
                _enlarge_pipe(process.stdout)
            yield ObjectBatch(process)

    @contextmanager
    def _process(
        self, arguments: Sequence[str], stdin: int | IO[bytes], stderr: int | IO[bytes] = subprocess.DEVNULL
    ) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            self._command(arguments),
            env=self._environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=1 << 16,
        )
        self._running.add(process)
        try:
            yield process
        finally:
            _end_process(process)
            self._running.discard(process)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [self._program, "--no-pager", *arguments]


def _enlarge_pipe(pipe: IO[bytes] | None) -> None:
    """Let git work a megabyte ahead where the system allows it (Linux does, up to a limit for each user)."""
    assert pipe
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _limit_memory(process: int, most_bytes: int) -> None:
    with suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        resource.prlimit(process, resource.RLIMIT_DATA, (most_bytes, most_bytes))


def _split_fields(stream: IO[bytes], end: bytes) -> Iterator[bytes]:
    rest = b""
    while block := stream.read1(1 << 16):  # type: ignore[attr-defined]  # a pipe's reader has it: what is there, now
        *whole, last = block.split(end)
        if whole:
            whole[0] = (rest + whole[0])[:_MAX_FIELD_BYTES]
            yield from whole
            rest = last
        elif len(rest) < _MAX_FIELD_BYTES:
            rest += last


def _write_lines(pipe: IO[bytes], lines: Iterable[str]) -> None:
    with suppress(BrokenPipeError, ValueError), pipe:
        for line in lines:
            pipe.write(f"{line}\n".encode())


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(BrokenPipeError, ValueError):
                pipe.close()
    process.wait()


def _command_error(command: str, said: bytes) -> RunError:
    lines = said.decode(errors="replace").strip().splitlines()[-2:] or ["no message"]
    reason = "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in lines)
    return RunError(f"git {command} failed: {reason}; check the repository with git fsck")


MAX_DIFF_BYTES = 3 << 28  # of git's memory: two files of a gigabyte aren't compared for likeness
_COMMIT_FORMAT = "%H%n%P%n%e%n%an%n%ae%n%B"  # not one of these can hold a NUL, nor all but the last a line break
_DIFF_OPTIONS = ("-r", "-z", "--raw", "--no-abbrev", "--root", "--always", "--no-ext-diff", "--encoding=UTF-8")


class RawChange(NamedTuple):
    """One line of `--raw` output: modes are six octal digits, ids full, `status` a letter of ADMRT, paths bytes."""

    old_mode: str
    new_mode: str
    old_id: str
    new_id: str
    status: str
    path: bytes
    old_path: bytes | None


@dataclass(frozen=True)
class RawCommit:
    """A commit as git prints it. `changes` are the first ones, `files` counts them all."""

    id: str
    parent: str | None
    message: str
    author_name: str
    author_email: str
    changes: list[RawChange]
    files: int


def read_changes(reader: ObjectReader, ids: Sequence[str], most: int) -> Iterator[tuple[str, RawCommit | None, bool]]:
    """(id, commit, whether renames were judged in full) of each id, in order; None where its trees are missing.

    At most `most` changes and one more are kept of a commit. Judging a changed file as renamed reads both texts, so
    a commit that git dies of (one is missing, or too large) is tried once more with exact renames alone; what it dies
    of then is a missing tree.
    """
    rest = deque(ids)
    while rest:
        # A commit of `most` files can't need more comparisons than this limit allows, and others aren't looked into.
        for commit in parse_raw(_diff_tree(reader, list(rest), "-M", f"-l{most + 1}"), most):
            yield rest.popleft(), commit, True
        if rest:
            stuck = rest.popleft()
            yield stuck, next(parse_raw(_diff_tree(reader, [stuck], "-M100%"), most), None), False


def _diff_tree(reader: ObjectReader, ids: Iterable[str], *renames: str) -> Iterator[bytes]:
    options = ("--stdin", *_DIFF_OPTIONS, f"--format={_COMMIT_FORMAT}", *renames)
    return reader.fields("diff-tree", *options, stdin=ids, strict=False, most_bytes=MAX_DIFF_BYTES)


def parse_raw(fields: Iterator[bytes], most: int) -> Iterator[RawCommit]:
    """Commits from the fields of `git diff-tree --stdin -z --raw`.

    A field is a commit's header and message, which begins with its id, or a change, which begins with ":" and is
    followed by its paths: neither a message nor a path that looks like a change can be mistaken for one. git prints a
    commit once all of it is known: the last is whole or absent.
    """
    header, changes, files = b"", list[RawChange](), 0
    for field in fields:
        if field[:1] == b"\n":  # stands between a message and the changes
            field = field[1:]
        if field[:1] != b":":
            if header:
                yield _raw_commit(header, changes, files)
            header, changes, files = field, [], 0
            continue
        old_mode, new_mode, old_id, new_id, status = field[1:].decode("ascii").split(" ")
        path, old_path = next(fields, b""), None
        if status[0] in "RC":
            path, old_path = next(fields, b""), path
        files += 1
        if files <= most + 1:
            changes.append(RawChange(old_mode, new_mode, old_id, new_id, status[0], path, old_path))
    if header:
        yield _raw_commit(header, changes, files)


def _raw_commit(header: bytes, changes: list[RawChange], files: int) -> RawCommit:
    commit, parents, encoding, *rest = header.split(b"\n", 5)
    name, email, message = (decode_message(one, encoding) for one in rest)
    parent = parents.decode("ascii").split(" ")[0] or None
    return RawCommit(commit.decode("ascii"), parent, message.strip("\n"), name, email, changes, files)


def decode_message(raw: bytes, encoding: bytes) -> str:
    """A message or a name. git has made UTF-8 of it where it knows the encoding that the commit names; what isn't
    UTF-8 even so is read in that encoding, or with U+FFFD."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        with suppress(LookupError, ValueError):
            return raw.decode(encoding.decode("ascii", "replace"))
        return raw.decode("utf-8", "replace")


def object_reader(repository: Path, commit: str) -> ObjectReader:
    """Plumbing on a repository's objects. Raises InputError where it isn't one."""
    found, said = run_git_in(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if found is None:
        raise InputError(f"{repository}: can't be read as a git repository ({said})")
    return ObjectReader(Path(found), "sha256" if len(commit) == 64 else "sha1")
