"""Held-out blocks: lines that training never showed, each with the repository's tree as it was before them.

`index_training_rows` reads back from the training rows what training did show, so that none of it is measured as new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from longrepo.data.dataset import SequenceFile
from longrepo.data.dedup import TrainingTexts
from longrepo.data.held_out import Candidate, Target, TargetChooser, commit_candidates
from longrepo.data.metadata import RepositoryFacts
from longrepo.data.questions.verify import AnswerChecker
from longrepo.data.questions.write import training_commit
from longrepo.data.repo_tree import RepoTree, RepoTrees
from longrepo.data.splits import MAX_HELD_OUT_COMMITS, Splits
from longrepo.data.stored_text import StoredText
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.repository.imports.statements import Import
from longrepo.repository.types import CommitRecord
from longrepo.utils.hashing import line_hash

_QUESTION_MARK = "QUESTION: "


@dataclass(frozen=True)
class TrainingIndex:
    """What training shows: `shown` holds all texts, `asked` the questions."""

    shown: TrainingTexts
    asked: frozenset[str]


def index_training_rows(
    file: SequenceFile, tokenizer: RepoTokenizer, done: Callable[[], None] = lambda: None
) -> TrainingIndex:
    """Index everything that the training rows of a file show; `done` is called once for each row of the file."""
    asked: set[str] = set()
    return TrainingIndex(
        TrainingTexts(tokenizer, _add_texts(file, StoredText(tokenizer), asked, done)), frozenset(asked)
    )


def _add_texts(
    file: SequenceFile, stored: StoredText, asked: set[str], done: Callable[[], None]
) -> Iterator[TokenizedText]:
    kinds = file.column("kind")
    for row, split in enumerate(file.column("split")):
        done()
        if split != "train":
            continue
        ids = file.tokens(row)
        lines: list[str] = []
        for line in stored.lines(ids, kinds[row]):
            lines.append(line.text)
            if line.in_commit:
                lines.append(line.text[1:])  # without its sign
            if kinds[row] == "qa" and line.text.startswith(_QUESTION_MARK):
                asked.add(line.text.removeprefix(_QUESTION_MARK))
        hashes = np.array([line_hash(text) for text in lines], np.uint64)
        yield TokenizedText("", "Other", "", ids, np.zeros(0, np.int32), row_hashes=hashes)


@dataclass(frozen=True)
class HeldOutBlock:
    """A block of lines of `target.of`: a file as it was after its commit, or a held-out file.

    `before` is the commit whose tree is its context: the parent, or the last commit of training.
    """

    target: Target
    before: str
    trees: RepoTrees
    others: Mapping[str, str]  # path → blob of the other files the same commit changed

    @property
    def path(self) -> str:
        """The path of its file."""
        return self.target.of.path

    @property
    def commit(self) -> str:
        """The commit that added the lines, or "" for a held-out file."""
        return self.target.commit or ""

    @property
    def group(self) -> str:
        """The unit to resample by: blocks of one commit, or of one held-out file, depend on each other."""
        return self.commit or self.path

    @property
    def key(self) -> str:
        """A key that no other block has."""
        return f"{self.group[:12] if self.commit else ''}:{self.path}:{self.target.start}"

    @property
    def tree(self) -> RepoTree:
        """The repository as it was before the block."""
        return self.trees.at(self.before)

    @cached_property
    def rows(self) -> list[int]:
        """The scored rows of its file."""
        starts = {first for first, _ in self.target.scored}
        return [
            row for row, token in enumerate(self.target.of.rows.tolist()) if token in starts and self._has_tokens(row)
        ]

    def _has_tokens(self, row: int) -> bool:
        of = self.target.of
        return of.row_token(row + 1) > of.row_token(row)

    @property
    def imports_above(self) -> Sequence[Import]:
        """The imports of its file above the block."""
        of = self.target.of
        first = int(np.searchsorted(of.rows, self.target.start, "right"))
        return [one for one in of.outline.imports if one.line < first]

    @property
    def scored(self) -> np.ndarray:
        """A mask of the block's scored tokens, `[end - start]`."""
        found = np.zeros(self.target.end - self.target.start, bool)
        for first, last in self.target.scored:
            found[first - self.target.start : last - self.target.start] = True
        return found

    @property
    def names_in_other_files(self) -> set[int]:
        """Names (hashes) defined after the commit by the other files that it changed."""
        return {name for text in self.trees.files(self.others).values() for name in text.defines.tolist()}


def blocks_of_commits(
    targets: Sequence[Target], records: Sequence[CommitRecord], trees: RepoTrees, root: str
) -> Iterator[HeldOutBlock]:
    """Yield the blocks of targets that these commits added. `root`: the commit whose tree is the context of one that
    has no parent."""
    by_id = {record.id: record for record in records}
    for target in targets:
        record = by_id[target.commit or ""]
        changed = {one.path: one.after for one in record.changes if one.after and one.path != target.of.path}
        yield HeldOutBlock(target, record.parent or root, trees, changed)


@dataclass(frozen=True)
class EvalRepository:
    """One of the prepared repositories: its facts from the header, and its trees."""

    facts: RepositoryFacts
    trees: RepoTrees

    @property
    def trained(self) -> RepoTree:
        """The repository at the last commit of training."""
        return self.trees.at(training_commit(self.facts))

    @cached_property
    def texts(self) -> dict[str, TokenizedText]:
        """The files of that tree, held-out ones excluded."""
        held = {path for paths in self.facts.held_out_files.values() for path in paths}
        return {path: text for path, text in self.trained.texts.items() if path not in held}

    @cached_property
    def checker(self) -> AnswerChecker:
        """A checker of answers about that commit."""
        return AnswerChecker(self.trees.repository.path, training_commit(self.facts))

    def close(self) -> None:
        """Close the checker and the trees."""
        if "checker" in self.__dict__:
            self.checker.__exit__()
        self.trees.close()


@dataclass
class EvalData:
    """What to measure on. `seen`: what training shows; `held`: the blocks, those of one commit in a row; `commits`: the
    commits of the split that is measured, newest first."""

    tokenizer: RepoTokenizer
    repositories: Sequence[EvalRepository]
    seen: TrainingIndex
    held: list[HeldOutBlock] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commits: list[tuple[EvalRepository, CommitRecord]] = field(default_factory=list)

    def close(self) -> None:
        """Close the repositories."""
        for repo in self.repositories:
            repo.close()

    def facts(self) -> dict[str, Any]:
        """The description that goes into the result."""
        kinds = {"commits" if one.commit else "files" for one in self.held}
        return {
            "repositories": [
                {"name": one.facts.name, "commit": training_commit(one.facts)} for one in self.repositories
            ],
            "targets": len(self.held),
            "groups": len({one.group for one in self.held}),
            "held_out": " and ".join(sorted(kinds)),
        }

    def choose(self, split: str, wanted: int, size: int, seed: int) -> None:
        """Fill `commits`, and `held` with up to `wanted` blocks of at most `size` tokens, from these commits and, if
        they give too few, from held-out files."""
        for number, repo in enumerate(self.repositories):
            share = wanted // len(self.repositories) + (number < wanted % len(self.repositories))
            chooser = TargetChooser(repo.trees.reader, self.seen.shown, size, seed)
            splits = Splits(repo.facts.head, training_commit(repo.facts), repo.facts.test_from or repo.facts.head)
            records = list(splits.held_out(repo.trees.repository, split, MAX_HELD_OUT_COMMITS, repo.trees.reader.cache))
            self.commits += [(repo, record) for record in records]
            found = chooser.choose({split: commit_candidates(split, records)}, {split: share})[split]
            self.held += blocks_of_commits(found, records, repo.trees, splits.train)
            if len(found) < share:
                self._choose_files(repo, chooser, split, share - len(found), len(found))
        self.held.sort(key=lambda one: (one.before, one.key))

    def _choose_files(self, repo: EvalRepository, chooser: TargetChooser, split: str, wanted: int, have: int) -> None:
        paths = repo.facts.held_out_files.get(split, [])
        commit = training_commit(repo.facts)
        blobs = {entry.path: entry.blob for entry in repo.trees.repository.tracked(commit) if entry.path in paths}
        candidates = [Candidate(split, path, blob) for path, blob in blobs.items()]
        found = chooser.choose({split: candidates}, {split: wanted})[split] if candidates else []
        self.held += [HeldOutBlock(target, commit, repo.trees, {}) for target in found]
        if found:
            of_commits = f"its held-out commits give {have} blocks of new lines" if have else "no commits are held out"
            self.notes.append(
                f"{repo.facts.name}: {of_commits}, so {len(found)} blocks come from {len(blobs)} files that were never "
                "trained on; intervals are over files there"
            )
        elif not have:
            self.notes.append(f"{repo.facts.name}: nothing is held out that training hasn't shown")
