"""Git's plumbing commands, run so that no program a repository names is ever executed.

A repository can name programs in its configuration: a file-system monitor, hooks, diff drivers, filters, an ssh
command, a promisor remote that is asked for missing objects. So objects are read through a temporary git folder that
has no configuration, references or working tree and only borrows the repository's object store
(`GIT_OBJECT_DIRECTORY`): none of those settings exists there, and the user's own can't change a result either.
Only what needs references (resolving a revision) runs in the repository itself, with the options below.
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

MAX_PENDING_IDS = 250  # 65 bytes each: always fits an empty pipe, so writing requests before reading can't deadlock
MISSING = "missing"
_ENDED_EARLY = "git cat-file ended before its last answer; check the repository with git fsck"


class ObjectBatch:
    """One `git cat-file` process. It answers object ids in order: a header for each, then the content with `--batch`.

    At most `MAX_PENDING_IDS` ids may be unanswered.
    """

    def __init__(self, process: Popen[bytes]) -> None:
        assert process.stdin and process.stdout
        self._requests, self._answers = process.stdin, process.stdout

    def ask(self, ids: Iterable[str]) -> None:
        """Request objects. Raises RunError if git has ended."""
        try:
            self._requests.write("".join(f"{one}\n" for one in ids).encode())
            self._requests.flush()
        except BrokenPipeError:
            raise RunError(_ENDED_EARLY) from None

    def header(self) -> tuple[str, int]:
        """Return (type, bytes) of the next object; the type is MISSING if it isn't in this repository."""
        words = self._answers.readline().split()
        if len(words) == 3:
            return words[1].decode(), int(words[2])
        if len(words) == 2 and words[1] == b"missing":
            return MISSING, 0
        raise RunError(_ENDED_EARLY)

    def content(self, size: int) -> bytes:
        """Return the content of the object whose header was read last."""
        content = self._answers.read(size)
        if self._answers.read(1) != b"\n":  # ends every content
            raise RunError(_ENDED_EARLY)
        return content


def in_groups(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the items in lists of `size`."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


# Settings given on the command line override a repository's. An empty value switches a program off.
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
_MAX_FIELD_BYTES = 1_000_000  # bytes: nobody writes a longer message or path


def safe_environment() -> dict[str, str]:
    """Return the environment in which git runs on a repository that isn't trusted.

    Variables such as GIT_DIR are dropped: longrepo, started from a hook, would read the wrong repository.
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
    """Return the path of the git program. Raises InputError if there is none."""
    program = shutil.which("git")
    if program is None:
        raise InputError("git isn't installed or not on PATH; install it and try again")
    return program


def run_git_in(folder: Path, *arguments: str) -> tuple[str | None, str]:
    """Run a git command in the repository itself; return (standard output, or None if it fails; standard error).

    Only for what needs references, such as resolving a revision: git's own check of the folder's owner applies.
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
    errors = done.stderr.decode(errors="replace").strip()
    return (None if done.returncode else done.stdout.decode(errors="replace").strip()), errors


class ObjectReader:
    """Runs plumbing commands on a repository's objects alone. Close it, or use it in a `with`, to end its processes.

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
        own_settings = f"bare = true\n\tattributesFile = {os.devnull}\n\trepositoryFormatVersion = {version}"
        (own / "config").write_text(f"[core]\n\t{own_settings}\n")
        shallow = common_dir / "shallow"
        if shallow.exists():  # otherwise git looks for parents that a shallow clone doesn't have
            shutil.copyfile(shallow, own / "shallow")
        local_attributes = common_dir / "info" / "attributes"
        self.has_local_attributes = local_attributes.is_file()
        if self.has_local_attributes:  # git puts them above those of the tree
            (own / "info").mkdir()
            shutil.copyfile(local_attributes, own / "info" / "attributes")
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
        """End the processes and remove the temporary folder. May be called twice."""
        self._checker = None
        self._closing.close()
        for process in tuple(self._running):
            _end_process(process)
        self._running.clear()
        self._folder.cleanup()

    def output(self, *arguments: str) -> bytes:
        """Return everything a git command prints. Raises RunError with git's last lines if it fails."""
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
        stdin_end: str = "\n",
        strict: bool = True,
        most_bytes: int | None = None,
        index: Path | None = None,
    ) -> Iterator[bytes]:
        """Yield what a git command prints, split at `end`, as it arrives; a field is cut after a megabyte.

        Raises RunError if the command fails; with `strict=False` a failure just ends the fields. `most_bytes` limits
        git's own memory on systems that can: git fails if it needs more. `index` is the index file to use.
        """
        with (
            tempfile.TemporaryFile() as errors,
            self._process(arguments, subprocess.PIPE, errors, index) as process,
        ):
            assert process.stdin and process.stdout
            if most_bytes:
                _limit_memory(process.pid, most_bytes)
            feeder = Thread(target=_write_lines, args=(process.stdin, tuple(stdin), stdin_end), daemon=True)
            feeder.start()
            try:
                yield from _split_fields(process.stdout, end)
            except BaseException:  # also if the caller stops early
                process.kill()
                raise
            finally:
                feeder.join()
            if process.wait() and strict:
                errors.seek(0)
                raise _command_error(arguments[0], errors.read())

    def sizes(self, ids: Iterable[str]) -> Iterator[tuple[str, str, int]]:
        """Yield (id, type, bytes) of each object in order without reading it; the type is MISSING if it isn't there."""
        for group in in_groups(ids, MAX_PENDING_IDS):
            if self._checker is None:
                self._checker = self._closing.enter_context(self.batch("--batch-check"))
            self._checker.ask(group)
            yield from [(one, *self._checker.header()) for one in group]

    def attributes(
        self, files: Iterable[tuple[str, str]], paths: Iterable[str], names: Sequence[str]
    ) -> dict[str, dict[str, str]]:
        """Return path -> attribute -> value as git reads the `.gitattributes` files (blob, path) and the repository's
        `info/attributes`: "set", "unset", a value; what isn't specified is left out. Works on an index of its own with
        nothing but these files."""
        lines = [f"100644 {blob} 0\t{path}" for blob, path in files]
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            index = Path(folder) / "index"
            any(self.fields("update-index", "-z", "--index-info", stdin=lines, stdin_end="\0", index=index))
            options = ("--cached", "--stdin", "-z", *names)
            fields = self.fields("check-attr", *options, stdin=paths, stdin_end="\0", index=index)
            found: dict[str, dict[str, str]] = {}
            for path, name, value in zip(fields, fields, fields, strict=True):
                of_path = found.setdefault(path.decode("utf-8", "surrogatepass"), {})
                if value != b"unspecified":
                    of_path[name.decode("ascii")] = value.decode("utf-8", "replace")
        return found

    @contextmanager
    def batch(self, mode: str = "--batch") -> Iterator[ObjectBatch]:
        """Start a `git cat-file` process and end it on leaving."""
        with self._process(["cat-file", mode], stdin=subprocess.PIPE) as process:
            if mode == "--batch":
                _enlarge_pipe(process.stdout)
            yield ObjectBatch(process)

    @contextmanager
    def _process(
        self,
        arguments: Sequence[str],
        stdin: int | IO[bytes],
        stderr: int | IO[bytes] = subprocess.DEVNULL,
        index: Path | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            self._command(arguments),
            env=self._environment | ({"GIT_INDEX_FILE": str(index)} if index else {}),
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
    """Let git work a megabyte ahead if the system allows it (Linux does, up to a limit for each user)."""
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
    while block := stream.read1(1 << 16):  # type: ignore[attr-defined]  # a pipe's reader has it
        *whole, last = block.split(end)
        if whole:
            whole[0] = (rest + whole[0])[:_MAX_FIELD_BYTES]
            yield from whole
            rest = last
        elif len(rest) < _MAX_FIELD_BYTES:
            rest += last


def _write_lines(pipe: IO[bytes], lines: Iterable[str], end: str) -> None:
    with suppress(BrokenPipeError, ValueError), pipe:
        for line in lines:
            pipe.write(f"{line}{end}".encode("utf-8", "surrogatepass"))


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(BrokenPipeError, ValueError):
                pipe.close()
    process.wait()


def _command_error(command: str, errors: bytes) -> RunError:
    lines = errors.decode(errors="replace").strip().splitlines()[-2:] or ["no message"]
    reason = "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in lines)
    return RunError(f"git {command} failed: {reason}; check the repository with git fsck")


MAX_DIFF_BYTES = 3 << 28  # of git's memory: two files of a gigabyte aren't compared for similarity
_COMMIT_FORMAT = "%H%n%P%n%e%n%an%n%ae%n%B"  # none can hold a NUL, and only the last a line break
_DIFF_OPTIONS = ("-r", "-z", "--raw", "--no-abbrev", "--root", "--always", "--no-ext-diff", "--encoding=UTF-8")


class RawChange(NamedTuple):
    """One line of `--raw` output: modes are six octal digits, ids are full, `status` is one letter of ADMRT."""

    old_mode: str
    new_mode: str
    old_id: str
    new_id: str
    status: str
    path: bytes
    old_path: bytes | None


@dataclass(frozen=True)
class RawCommit:
    """A commit as git prints it. `changes` may be only the first ones; `files` counts all of them."""

    id: str
    parent: str | None
    message: str
    author_name: str
    author_email: str
    changes: list[RawChange]
    files: int


def read_changes(reader: ObjectReader, ids: Sequence[str], most: int) -> Iterator[tuple[str, RawCommit | None, bool]]:
    """Yield (id, commit, whether renames were fully detected) for each id, in order; None if its trees are missing.

    At most `most` + 1 changes of a commit are returned. To detect a rename with changes git reads both texts; if it
    dies on that (one is missing or too large), the commit is tried again with exact renames only. If git dies again,
    a tree is missing.
    """
    rest = deque(ids)
    while rest:
        # A commit of `most` files never needs more comparisons than this limit; larger commits aren't used.
        for commit in parse_raw(_diff_tree(reader, list(rest), "-M", f"-l{most + 1}"), most):
            yield rest.popleft(), commit, True
        if rest:
            stuck = rest.popleft()
            yield stuck, next(parse_raw(_diff_tree(reader, [stuck], "-M100%"), most), None), False


def _diff_tree(reader: ObjectReader, ids: Iterable[str], *renames: str) -> Iterator[bytes]:
    options = ("--stdin", *_DIFF_OPTIONS, f"--format={_COMMIT_FORMAT}", *renames)
    return reader.fields("diff-tree", *options, stdin=ids, strict=False, most_bytes=MAX_DIFF_BYTES)


def parse_raw(fields: Iterator[bytes], most: int) -> Iterator[RawCommit]:
    """Parse commits from the fields of `git diff-tree --stdin -z --raw`.

    A field is either a commit's header and message, which begins with its id, or a change, which begins with ":" and
    is followed by its paths, so a message or path that looks like a change can't be mistaken for one. git prints a
    commit only once it is complete: the last one is whole or absent.
    """
    header, changes, files = b"", list[RawChange](), 0
    for field in fields:
        if field[:1] == b"\n":  # separates a message from the changes
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
    """Decode a message or a name. git has converted it to UTF-8 if it knows the commit's encoding; what still isn't
    UTF-8 is read in that encoding, or else with U+FFFD for each wrong byte."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        with suppress(LookupError, ValueError):
            return raw.decode(encoding.decode("ascii", "replace"))
        return raw.decode("utf-8", "replace")


def object_reader(repository: Path, commit: str) -> ObjectReader:
    """Return a reader of a repository's objects. Raises InputError if the folder isn't a repository."""
    common_dir, errors = run_git_in(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if common_dir is None:
        raise InputError(f"{repository}: can't be read as a git repository ({errors})")
    return ObjectReader(Path(common_dir), "sha256" if len(commit) == 64 else "sha1")
