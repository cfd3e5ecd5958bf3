"""A git repository, opened for reading: revisions, a commit's files, history. Nothing in it is run or written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from longrepo.errors import InputError, RunError
from longrepo.repository.clone import local_clone, url_of
from longrepo.repository.git import ObjectReader, git_program, run_git_in
from longrepo.repository.history import History, RecordStore, TextHistory, read_people
from longrepo.repository.rules import FileSelection, PathRules
from longrepo.repository.snapshot import TreeEntry, read_snapshot, read_texts, tracked_entries
from longrepo.repository.types import BlobText, Commit, CommitRecord, Snapshot

if TYPE_CHECKING:
    from git import Repo


_FULL_ID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_MAX_FILE_BYTES = 1_000_000
_CHECKED_COMMITS = 2_000  # of a partial clone, for what is missing: as many as are read by default


class Repository:
    """Open one with `Repository.open`; close it, or use it in a `with`, so that no git process stays behind.

    `path` is the absolute folder. `name` is that folder's name (`x` for a bare `x.git`). `notes` are sentences that
    say what is unusual about this repository and what that means for the result.
    """

    def __init__(self, path: Path, repo: Repo, reader: ObjectReader) -> None:
        self.path = path
        self.name = _folder_name(path)
        self._repo = repo
        self._reader = reader
        self._common = Path(repo.common_dir)
        self._shallow = _shallow_edge(self._common)
        self._chosen_rules: PathRules | None = None
        self._rules_of = lru_cache(maxsize=2)(lambda commit: self._read_rules(commit, FileSelection()))
        self.notes: tuple[str, ...] = tuple(self._unusual())

    @classmethod
    def open(cls, path: Path) -> Repository:
        """Open the repository at a folder, or a clone of the one at a URL. Raises InputError if there is none or it
        can't be read."""
        git_program()
        fetched: tuple[str, ...] = ()
        if url := url_of(path):
            path, fetched = local_clone(url)
        # Imported here: it looks for the git program at import and without one it fails with a message of its own.
        from git import Repo
        from git.exc import InvalidGitRepositoryError, NoSuchPathError

        path = Path(path).expanduser()
        try:
            path = path.resolve()
            if not path.exists():
                raise InputError(f"{path}: no such folder; give the folder of a git repository")
            if not path.is_dir():
                raise InputError(f"{path}: is a file; give the folder of a git repository")
            repo = Repo(str(path), expand_vars=False)
        except (InvalidGitRepositoryError, NoSuchPathError):
            raise InputError(f"{path}: not a git repository{_enclosing_repository(path)}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: can't be read as a git repository ({error})") from None
        reader = ObjectReader(Path(repo.common_dir), _hash_name(path))
        try:
            opened = cls(path, repo, reader)
            opened.notes = (*fetched, *opened.notes)
        except BaseException:
            reader.close()
            repo.close()
            raise
        return opened

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the git processes. May be called twice."""
        self._reader.close()
        self._repo.close()

    def resolve(self, revision: str = "HEAD") -> str:
        """Return the full commit id of a branch, a tag, an id or anything else that `git rev-parse` understands.
        Raises InputError if there is no such commit."""
        # --end-of-options keeps a revision such as --help from being taken for an option.
        commit, errors = run_git_in(self.path, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        if commit is None:
            raise InputError(self._unresolved(revision, errors))
        return commit

    def first_parents(self, commit: str, limit: int) -> list[str]:
        """Return the ids of up to `limit` commits along first parents, newest first, beginning with this one."""
        return (
            self._reader.output("rev-list", "--first-parent", f"-n{limit}", self._full(commit), "--").decode().split()
        )

    def beyond(self, tip: str, exclude: str) -> list[str]:
        """Return the ids of all commits, merges included, that `tip` reaches and `exclude` doesn't, newest first."""
        limits = (self._full(tip), f"^{self._full(exclude)}")
        return self._reader.output("rev-list", "--topo-order", *limits, "--").decode().split()

    def days(self, commits: Sequence[str]) -> dict[str, str]:
        """Return the day on which each commit (full ids) was made as it is, `YYYY-MM-DD`: the committer's."""
        if not commits:
            return {}
        lines = self._reader.output("log", "--no-walk=unsorted", "--format=%H %cs", *commits, "--").decode()
        return dict(line.split(" ") for line in lines.splitlines())

    def choose_files(self, commit: str, selection: FileSelection) -> PathRules:
        """Leave files out from now on by a person's choice and by the `.gitattributes` of a commit; return the rules.

        Raises InputError for a pattern that isn't one, or for a folder without files.
        """
        self._chosen_rules = self._read_rules(self._full(commit), selection)
        return self._chosen_rules

    def rules(self, commit: str) -> PathRules:
        """Return the chosen rules, or else those of a commit (full id)."""
        return self._chosen_rules or self._rules_of(commit)

    def _read_rules(self, commit: str, selection: FileSelection) -> PathRules:
        try:
            entries = [(one.mode, one.blob, one.path) for one in tracked_entries(self._reader, commit)]
        except RunError:  # its trees are missing: a snapshot says so, and history may still be read
            entries = []
        return PathRules(self._reader, entries, selection)

    def snapshot(self, commit: str, max_file_bytes: int = _MAX_FILE_BYTES) -> Snapshot:
        """Read the tracked text files of a commit, and count by reason what is left out."""
        commit = self._full(commit)
        return read_snapshot(self._reader, commit, max_file_bytes, self.rules(commit))

    def commits(
        self,
        tip: str,
        exclude: str | None = None,
        limit: int | None = None,
        left_out: Counter[str] | None = None,
        max_file_bytes: int = _MAX_FILE_BYTES,
    ) -> Iterator[Commit]:
        """Yield up to `limit` commits that `tip` reaches and `exclude` doesn't, newest first, with their text changes.

        Noise doesn't count towards the limit; `left_out` counts it by reason as the walk goes on.
        """
        if limit is not None and limit <= 0:
            return
        counts = Counter[str]() if left_out is None else left_out
        history = TextHistory(self._reader, max_file_bytes, counts, self.rules(self._full(tip)))
        yield from islice(history.commits(self.log(tip, exclude, counts)), limit)

    def log(
        self,
        tip: str,
        exclude: str | None = None,
        left_out: Counter[str] | None = None,
        known: RecordStore | None = None,
    ) -> Iterator[CommitRecord]:
        """Yield the commits that `tip` reaches and `exclude` doesn't, newest first, as object ids: no text is read.

        `left_out` counts by reason what is left out. Commits with an entry in `known` aren't compared again; the
        others are added to it.
        """
        counts = Counter[str]() if left_out is None else left_out
        excluded = self._full(exclude) if exclude else None
        tip = self._full(tip)
        return History(self._reader, self._shallow, counts, self.rules(tip)).log(tip, excluded, known)

    def texts(
        self, blobs: Iterable[str], max_file_bytes: int = _MAX_FILE_BYTES, forms: Mapping[str, str] | None = None
    ) -> Iterator[BlobText]:
        """Yield the text of each distinct blob in the order requested, or why it is left out.

        `forms`: blob → how it is read, as `PathRules.form_of` says of its path. Reasons: missing, oversized, binary,
        unknown encoding, empty, generated, broken notebook, LFS pointer and the like.
        """
        return read_texts(self._reader, blobs, max_file_bytes, forms)

    def tracked(self, commit: str) -> Iterator[TreeEntry]:
        """Yield every tracked path of a commit, in git's order."""
        return tracked_entries(self._reader, self._full(commit))

    def people(self, tip: str) -> tuple[tuple[str, str], ...]:
        """Return the sorted distinct (name, e-mail address) of authors and committers of all that `tip` reaches."""
        return read_people(self._reader, self._full(tip))

    def _full(self, commit: str) -> str:
        if _FULL_ID.fullmatch(commit):
            for _, kind, _ in self._reader.sizes([commit]):
                if kind == "commit":
                    return commit
        return self.resolve(commit)

    def _unresolved(self, revision: str, errors: str) -> str:
        if "dubious ownership" in errors:
            return (
                f"{self.path}: belongs to another user, so git refuses to read it; if you trust it, run "
                f"git config --global --add safe.directory '{self.path}'"
            )
        if " config " in errors:  # "bad config line 9 in file …", "bad numeric config value …"
            return f"{self.path}: git can't read its configuration ({errors}); correct it"
        listed, _ = run_git_in(self.path, "for-each-ref", "--format=%(refname:short)", "refs/heads")
        branches = (listed or "").splitlines()
        if revision == "HEAD":
            if not branches:
                return f"{self.path}: has no commits yet; commit something first"
            return f"{self.path}: HEAD has no commits; name one of its branches: {', '.join(branches[:5])}"
        known = f"; branches here: {', '.join(branches[:5])}" if branches else ""
        return f"{self.path}: no commit {revision!r}; give a branch, a tag or a commit id{known}"

    def _unusual(self) -> Iterator[str]:
        repo = self._repo
        head = self.resolve()
        if run_git_in(self.path, "rev-parse", "--is-bare-repository")[0] == "true":
            yield "Bare repository: it has no working tree; files are read from its commits, as always."
        elif Path(repo.git_dir).resolve() != self._common.resolve():
            yield "Linked worktree: HEAD is this worktree's own; its history is shared with the main one."
        if run_git_in(self.path, "symbolic-ref", "--quiet", "HEAD")[0] is None:
            yield f"Detached HEAD at {head[:10]}: that commit is read, not the tip of a branch."
        if self._shallow:
            count = int(self._reader.output("rev-list", "--count", head, "--"))
            commits = "1 commit" if count == 1 else f"{count} commits"
            yield (
                f"Shallow clone with {commits} of history: change sequences can only come from these; "
                "git fetch --unshallow downloads the rest."
            )
        if missing := self._missing_objects(head):
            entries = [entry for entry in tracked_entries(self._reader, head) if entry.mode != "160000"]
            absent = sum(entry.size is None for entry in entries)
            yield (
                f"Partial clone: {missing:,} {'object is' if missing == 1 else 'objects are'} missing "
                f"from the newest {_CHECKED_COMMITS:,} commits. "
                f"What is missing is left out and counted, never fetched (at HEAD: {absent} of {len(entries)} files)."
            )

    def _missing_objects(self, head: str) -> int:
        """Count the objects that a partial clone doesn't have; 0 for any other repository."""
        promised = any((self._common / "objects" / "pack").glob("*.promisor"))
        if not promised and run_git_in(self.path, "config", "--get-regexp", r"^remote\..*\.promisor$")[0] is None:
            return 0
        options = ("--objects", "--missing=print", f"-n{_CHECKED_COMMITS}")
        return sum(line[:1] == b"?" for line in self._reader.fields("rev-list", *options, head, "--", end=b"\n"))


def _folder_name(path: Path) -> str:
    name = path.parent.name if path.name == ".git" else path.name
    return name.removesuffix(".git") or "repository"


def _shallow_edge(common: Path) -> frozenset[str]:
    file = common / "shallow"
    return frozenset(file.read_text("ascii").split()) if file.exists() else frozenset()


def _hash_name(path: Path) -> str:
    return run_git_in(path, "rev-parse", "--show-object-format")[0] or "sha1"


def _enclosing_repository(path: Path) -> str:
    for folder in path.parents:
        if (folder / ".git").exists():
            return f"; it is inside the repository {folder}: give that folder"
    return "; give the folder that holds .git, or run git init and commit there"
