"""Finds scored validation or test text that a training row also holds. Works on stored rows alone.

Four kinds of leak, each a reason not to believe a held-out figure:

- line: a scored line of a held-out row (one whose tokens all have weight 1) equals a line of a training row, whatever
  its weight there, white space ignored (`longrepo.utils.hashing`; short lines don't count). The rows of a commit's
  hunks are compared with and without their leading "+" or "-".
- near-duplicate: a training row holds 80 % of the word shingles of a held-out row's scored block, or the scored block
  of a validation row holds as many of a test row's (`longrepo.data.dedup`).
- commit: a held-out row and a training row have a commit in common.
- file: a training row holds a file that the header of its repository lists as held out.

A line that a window or a cut leaves incomplete is compared as it is. An answer to a question follows "ANSWER:" and is
no line of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from longrepo.data.dataset import SequenceFile
from longrepo.data.dedup import MIN_SHINGLES, BlockIndex, Shingler, Shingles
from longrepo.data.diff import title_section
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.data.stored_text import StoredLine, StoredText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.utils.hashing import line_hash

HELD_OUT_SPLITS = ("validation", "test")
LEAK_KINDS = ("line", "near-duplicate", "commit", "file")


@dataclass(frozen=True)
class Leak:
    """Something that two rows share: `row` of `split` (-1: no row, a file of the header) and the row `found_in`, which
    must not hold it, at line `line` (0: none). `shows`: the line, commit or path, or the share of a near-duplicate."""

    kind: str
    split: str
    row: int
    found_in: int
    line: int
    shows: str


@dataclass
class LeakCheck:
    """What was compared, and the leaks found."""

    training_rows: int = 0
    training_lines: int = 0
    held_out_rows: Counter[str] = field(default_factory=Counter)  # split → rows
    scored_lines: int = 0
    blocks: int = 0  # those long enough to compare
    commits: int = 0
    files: int = 0
    leaks: list[Leak] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Return the number of leaks of a kind."""
        return sum(leak.kind == kind for leak in self.leaks)

    @property
    def rows(self) -> int:
        """The number of held-out rows with a leak."""
        return len({leak.row for leak in self.leaks} - {-1})


def check_leaks(file: SequenceFile, tokenizer: RepoTokenizer, tick: Callable[[], None] = lambda: None) -> LeakCheck:
    """Compare every held-out row with every training row; `tick` is called for each row."""
    check = LeakCheck()
    splits, kinds = file.column("split"), file.column("kind")
    held_out = [row for row, split in enumerate(splits) if split in HELD_OUT_SPLITS]
    check.held_out_rows.update(splits[row] for row in held_out)
    lines, blocks = _LineLeaks(), _BlockLeaks(tokenizer)
    text = StoredText(tokenizer)
    for row in held_out:
        ids, weights = file.tokens(row), file.weights(row)
        lines.hold_out(row, text.lines(ids, kinds[row], weights))
        blocks.hold_out(row, splits[row], blocks.shingles(ids, weights == TARGET_WEIGHT))
        tick()
    blocks.close()
    for row, split in enumerate(splits):
        if split in HELD_OUT_SPLITS:
            continue
        ids = file.tokens(row)
        check.training_rows += 1
        check.training_lines += lines.search(row, text.lines(ids, kinds[row]))
        blocks.search(row, blocks.shingles(ids))
        tick()
    check.scored_lines = len(lines.scored)
    check.blocks = sum(len(block) >= MIN_SHINGLES for _, _, block in blocks.rows)
    for kind, row, found_in, line, shows in [*lines.found(), *blocks.found]:
        check.leaks.append(Leak(kind, splits[row], row, found_in, line, shows))
    _check_commits(check, file, splits)
    _check_files(check, file, splits)
    return check


_LeakPlace = tuple[str, int, int, int, str]  # kind, held-out row, row it is found in, line there, what to show


class _LineLeaks:
    """Scored lines by hash, and where each first occurs in training."""

    def __init__(self) -> None:
        self.scored: list[tuple[int, str, tuple[int, ...]]] = []  # held-out row, line, its hashes
        self._met: dict[int, tuple[int, int] | None] = {}  # hash → training row and line

    def hold_out(self, row: int, lines: Iterator[StoredLine]) -> None:
        for line in lines:
            if line.scored and (hashes := tuple(_line_hashes(line))):
                self.scored.append((row, line.text, hashes))
                self._met.update(dict.fromkeys(hashes))

    def search(self, row: int, lines: Iterator[StoredLine]) -> int:
        """Search the lines of a training row; return how many there were."""
        number = 0
        for line in lines:
            number = line.number
            for form in _line_hashes(line):
                if form in self._met and self._met[form] is None:
                    self._met[form] = (row, number)
        return number

    def found(self) -> Iterator[_LeakPlace]:
        for row, text, hashes in self.scored:
            if met := next(filter(None, map(self._met.get, hashes)), None):
                yield "line", row, *met, text.strip()


def _line_hashes(line: StoredLine) -> Iterator[int]:
    """Yield the hashes that identify a line; none if it doesn't count."""
    if line.in_commit and line.text[:1] in ("+", "-"):
        if bare := line_hash(line.text[1:]):
            yield bare
            yield line_hash(line.text)
    elif whole := line_hash(line.text):
        yield whole
        if line.in_commit and (section := line_hash(title_section(line.text))):
            yield section


class _BlockLeaks:
    """The scored blocks of held-out rows, and the rows that hold one of them."""

    def __init__(self, tokenizer: RepoTokenizer) -> None:
        self.shingles = Shingler(tokenizer).of
        self.rows: list[tuple[int, str, Shingles]] = []  # held-out row, split, its block
        self.found: list[_LeakPlace] = []
        self._held: set[int] = set()
        self._blocks = BlockIndex([])

    def hold_out(self, row: int, split: str, block: Shingles) -> None:
        self.rows.append((row, split, block))

    def close(self) -> None:
        """Index the blocks once all are known, and compare test with validation."""
        self._blocks = BlockIndex([block for _, _, block in self.rows])
        for row, split, block in self.rows:
            if split == "validation":
                self.search(row, block, only="test")

    def search(self, row: int, sequence: Shingles, only: str | None = None) -> None:
        for number, share in self._blocks.found_in(sequence):
            held_out, split, _ = self.rows[number]
            if number not in self._held and only in (None, split):
                self._held.add(number)
                self.found.append(("near-duplicate", held_out, row, 0, f"{share:.0%} of its scored block"))


def _check_commits(check: LeakCheck, file: SequenceFile, splits: list[str]) -> None:
    held: dict[str, int] = {}
    trained: dict[str, int] = {}
    for row, (commits, split) in enumerate(zip(file.column("commits"), splits, strict=True)):
        for commit in commits:
            (held if split in HELD_OUT_SPLITS else trained).setdefault(commit, row)
    check.commits = len(held)
    for commit, row in held.items():
        if commit in trained:
            check.leaks.append(Leak("commit", splits[row], row, trained[commit], 0, commit))


def _check_files(check: LeakCheck, file: SequenceFile, splits: list[str]) -> None:
    trained: dict[str, dict[str, int]] = defaultdict(dict)  # repository → path → row
    for row, (name, paths) in enumerate(zip(file.column("repository"), file.column("files"), strict=True)):
        if splits[row] not in HELD_OUT_SPLITS:
            for path in paths:
                trained[name].setdefault(path, row)
    for repository in file.header.repositories:
        known = {**trained[""], **trained[repository.name]}  # rows built by hand name no repository
        for split, paths in repository.held_out_files.items():
            check.files += len(paths)
            check.leaks += [Leak("file", split, -1, known[path], 0, path) for path in paths if path in known]
