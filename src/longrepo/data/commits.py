"""Commit chains: a file as it was, then its changes by commits, packed to the lengths of a phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

from longrepo.data.diff import Hunk, read_hunks, rows_around
from longrepo.data.features import Features
from longrepo.data.packing import Band
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.data.template import CommitStep, FilePiece, TemplateSizes
from longrepo.data.text import TokenizedText
from longrepo.data.workers import CachedReader, Request, SkippedText, StepRequest, WindowRequest
from longrepo.repository.rules import PathRule
from longrepo.repository.types import CommitRecord, FileChange
from longrepo.utils import hashing

_STEPS_SHARE = 0.65  # the share of a sequence for changes; the file as it was gets the rest
_MIN_STATE_TOKENS = 64  # fewer tokens of the file as it was are no useful context
_CHARACTERS_PER_TOKEN = 3  # characters read of a file as it was, for each token of room
_CHARACTER_STEP = 2048
_CHANGES_PER_READ = 128  # changes read before checking whether there are enough
ADDED_REASON = "file added"  # its text isn't a change: the snapshot has it, unless it is gone again
LARGE_DATA_REASON = "large data file"
HELD_OUT_REASON = "change of a held-out file"
COPY_REASON = "change of a file nearly the same as another"
_DATA_LANGUAGES = ("JSON", "CSV", "XML", "Data")
MAX_DATA_BYTES = 20_000  # bytes


def is_large_data(language: str, size: int, rule: PathRule) -> bool:
    """Whether a file of `size` bytes is one of values rather than code: such files would be most of the training. A
    file that the rules call the repository's own never counts as one."""
    return language in _DATA_LANGUAGES and size > MAX_DATA_BYTES and not rule.own


@dataclass(frozen=True)
class TrainingChange:
    """One file's change by one commit, under the path the file has now, with the redacted message; `files`: how many
    files the commit changed."""

    commit: str
    path: str
    message: str
    step: CommitStep
    files: int


@dataclass
class StepRun:
    """Consecutive steps of one file, and `room` tokens for the file as it was before the first."""

    path: str
    steps: list[CommitStep]
    room: int
    state: FilePiece | None = None


@dataclass
class CommitPack:
    """The chains of one sequence."""

    runs: list[StepRun] = field(default_factory=list)
    front: list[FilePiece] = field(default_factory=list)  # related files as context, if the chains are short

    @property
    def steps(self) -> Iterator[CommitStep]:
        """All steps of all runs."""
        for run in self.runs:
            yield from run.steps


def read_training_changes(
    records: Iterable[CommitRecord],
    reader: CachedReader,
    without: Mapping[str, str],
    most_per_file: int,
    tokens: int,
    done: Callable[[int], None],
) -> tuple[list[TrainingChange], Counter[str]]:
    """Read the changes of existing files in these commits (newest first), until they hold `tokens` tokens; also count
    those left out, by reason, in the commits that were read. Left out are the files of `without` (path → reason),
    large data files, and all but the newest `most_per_file` changes of a file."""
    left_out: Counter[str] = Counter()
    found: list[TrainingChange] = []
    size = 0
    wanted = _usable_changes(records, without, most_per_file, left_out)
    while size < tokens and (some := list(islice(wanted, _CHANGES_PER_READ))):
        requests = [
            StepRequest(path, record.id, record.message, change.before or "", change.after or "")
            for record, change, path in some
        ]
        for (record, change, path), answer in zip(some, reader.read(requests, lambda _: None), strict=True):
            if isinstance(answer, SkippedText):
                left_out[f"change: {answer.reason}"] += 1
            elif is_large_data(answer.text.language, answer.facts["size"], reader.rules.of(path)):
                left_out[f"change: {LARGE_DATA_REASON}"] += 1
            elif not len(answer.text):
                left_out["change: formatting" if answer.facts["formatting"] else "change: nothing"] += 1
            elif size < tokens:
                step = _make_step(record.id, change, answer)
                found.append(TrainingChange(record.id, path, reader.message(record.message), step, record.files))
                size += len(answer.text)
                done(len(answer.text))
            else:
                left_out["beyond what data.commit_share can need"] += 1
    return found, left_out


def _usable_changes(
    records: Iterable[CommitRecord], without: Mapping[str, str], most_per_file: int, left_out: Counter[str]
) -> Iterator[tuple[CommitRecord, FileChange, str]]:
    """Yield (commit, change, the path its file has now) for each usable change."""
    now: dict[str, str] = {}
    per_file: Counter[str] = Counter()
    for record in records:
        for change in record.changes:
            path = now.get(change.path, change.path)
            if change.old_path:
                now[change.old_path] = path
            if reason := _skip_reason(change, path, without):
                left_out[reason] += 1
            elif per_file[path] >= most_per_file:
                left_out["beyond data.max_changes_per_file"] += 1
            else:
                per_file[path] += 1
                yield record, change, path


def _skip_reason(change: FileChange, path: str, without: Mapping[str, str]) -> str:
    for one in (path, change.path, change.old_path):
        if one is not None and one in without:
            return without[one]
    if change.before is None:
        return ADDED_REASON
    if change.after is None:
        return "file deleted"
    return "file moved, not changed" if change.before == change.after else ""


def _make_step(commit: str, change: FileChange, answer: Features) -> CommitStep:
    return CommitStep(commit, answer.text, answer.facts["message"], change.before or "")


def steps_by_path(changes: Sequence[TrainingChange]) -> dict[str, list[CommitStep]]:
    """Return path → its changes, oldest first. A new commit doesn't change the order of the paths, so that most of what
    was packed before is packed the same way again."""
    chains: dict[str, list[CommitStep]] = {}
    for change in changes:
        chains.setdefault(change.path, []).append(change.step)
    return {path: chains[path][::-1] for path in sorted(chains, key=lambda path: hashing.seeded_int("chain", path))}


class CommitPacker:
    """Packs chains into the sequences of a phase; each change is used once."""

    def __init__(self, sizes: TemplateSizes, frame: Callable[[str], int], reserve: int = 1) -> None:
        """`frame` returns the tokens that a path and its marks take."""
        self._sizes = sizes
        self._frame = frame
        self._reserve = reserve
        self.dropped = 0  # tokens at the end of changes cut where nothing follows that is a target

    def pack(self, chains: dict[str, list[CommitStep]], band: Band) -> list[CommitPack]:
        """Return packs of at most the band's cap; short chains share one."""
        packs: list[CommitPack] = []
        full = band.cap - self._reserve
        current, room = CommitPack(), full
        for path, steps in chains.items():
            rest = steps
            while rest:
                for_state = int(room * (1 - _STEPS_SHARE))
                if room < full and for_state < self._frame(path) + _MIN_STATE_TOKENS:
                    packs.append(current)
                    current, room = CommitPack(), full
                    continue
                taken, rest = self._take(rest, room - for_state, fresh=room == full)
                if not taken:
                    packs.append(current)
                    current, room = CommitPack(), full
                    continue
                room -= sum(map(self._sizes.step, taken))
                state_room = room if rest else for_state  # a chain that ends leaves the rest to the next one
                current.runs.append(StepRun(path, taken, state_room - self._frame(path)))
                room -= state_room
        if current.runs:
            packs.append(current)
        return packs

    def _take(self, steps: list[CommitStep], wanted: int, fresh: bool) -> tuple[list[CommitStep], list[CommitStep]]:
        """Return the first steps that fit into `wanted` tokens, and the rest. A fresh sequence takes at least one step,
        cut if it is longer, so that there is room for the file as it was."""
        taken: list[CommitStep] = []
        rest = list(steps)
        while rest and self._sizes.step(rest[0]) <= wanted:
            taken.append(rest.pop(0))
            wanted -= self._sizes.step(taken[-1])
        if taken or not fresh:
            return taken, rest
        first = rest[0]
        frame = self._sizes.step(first) - (first.stop - first.start)
        if frame + _MIN_STATE_TOKENS > wanted:  # a message that would leave no room is not repeated
            frame, first = frame - first.repeated, replace(first, repeats=False)
        end = _part_end(first, max(1, wanted - frame))
        part = _step_until(first, end)
        if (over := self._sizes.step(part) - wanted) > 0:  # its "@@" row may have more tokens than that of the whole
            end = _part_end(first, max(1, wanted - frame - over))
            part = _step_until(first, end)
        assert first.of.weights is not None
        if not (first.of.weights[end:] == TARGET_WEIGHT).any():  # nothing is learnt from what is left
            self.dropped += first.stop - end
            return [part], rest[1:]
        return [part], [step_from(first, end), *rest[1:]]


def _part_end(step: CommitStep, room: int) -> int:
    """Return where to end a part of a step in `room` tokens: before a hunk if that leaves half of the room used, else
    before a row; with a row of a hunk if there is room for one, and not right after an "@@" row."""
    of, titles = step.of, [row for row, _ in read_step_hunks(step)]
    fewest, first = room // 2, next((row for row in titles if row >= _row_at(of, step.start)), None)
    if first is not None and not step.title and (least := of.row_token(first + 2) - step.start) <= room:
        fewest = max(fewest, least)
    end, _ = of.cut_in(step.start, step.start + room, fewest)
    alone = (of.row_token(row) for row in titles if of.row_token(row + 1) == end > of.row_token(row) > step.start)
    return next(alone, end)


def read_step_hunks(step: CommitStep) -> list[tuple[int, Hunk]]:
    """Return all hunks of a step, each with the row of its text where it begins."""
    text = step.of.text
    head = int(step.of.starts[step.message]) if step.message < len(step.of) else len(text)
    skipped = text.count("\n", 0, head)
    return [(row + skipped, hunk) for row, hunk in read_hunks(text[head:].split("\n"))]


def part_hunks(step: CommitStep) -> list[Hunk]:
    """Return the hunks of a step between its start and end."""
    low, high = (_row_at(step.of, token) for token in (step.start, step.stop))
    found = []
    for row, hunk in read_step_hunks(step):
        first, last = max(0, low - row - 1), min(len(hunk.rows), high - row - 1)
        if first < last:
            found.append(hunk.part(first, last))
    return found


def _row_at(of: TokenizedText, token: int) -> int:
    """Return the row that token `token` begins, or the next one if it begins with the line break before it."""
    if token >= len(of):
        return of.text.count("\n") + 1
    at = int(of.starts[token])
    return of.text.count("\n", 0, at) + (of.text[at] == "\n" and of.text[at - 1 : at] != "\n")


def step_from(step: CommitStep, start: int) -> CommitStep:
    """Return the rest of a step from token `start` on; inside a hunk it gets an "@@" row of its own."""
    rest = replace(step, start=start, title="")
    row = _row_at(step.of, start)
    if (
        start <= step.message
        or any(row == title for title, _ in read_step_hunks(step))
        or not (left := part_hunks(rest))
    ):
        return rest
    at = int(step.of.starts[start])
    return replace(rest, title=left[0].title + ("" if step.of.text[at] == "\n" else "\n"))


def _step_until(step: CommitStep, end: int) -> CommitStep:
    """Return a step up to token `end`; the "@@" row of a hunk that is cut there counts the rows that are left."""
    part, of = replace(step, end=end), step.of
    left, last = part_hunks(part), _row_at(of, end)
    row, whole = next(((row, hunk) for row, hunk in reversed(read_step_hunks(step)) if row < last), (0, None))
    if not left or whole is None or row + len(whole.rows) < last:
        return part
    if row < _row_at(of, step.start):  # it was cut before, too
        return replace(part, title=left[0].title + "\n" * step.title.endswith("\n"))
    at = sum(len(one) + 1 for one in of.text.split("\n", row)[:row]) + len("@@ ")
    first, stop = of.token_at(at), int(of.starts.searchsorted(of.text.index(" @@", at)))
    around = of.text[int(of.starts[first]) : at], of.text[of.text.index(" @@", at) : int(of.starts[stop])]
    return replace(part, recounted=(first, stop, left[-1].counts.join(around)))


def changed_rows(steps: Sequence[CommitStep]) -> list[tuple[int, int]]:
    """Return the rows that steps change or show, in the file as it was before the first of them, in order."""
    found: set[tuple[int, int]] = set()
    for number, step in enumerate(steps):
        for hunk in part_hunks(step) or [hunk for _, hunk in read_step_hunks(step)]:
            span = [hunk.old, hunk.old + hunk.sizes[0]]
            for before in reversed(steps[:number]):
                span = [_row_before(row, before) for row in span]
            found.add((span[0], max(span[1], span[0] + 1)))
    return sorted(found)


def _row_before(row: int, step: CommitStep) -> int:
    """Return where a row of the file after a step was before it."""
    for _, hunk in reversed(read_step_hunks(step)):
        old, new = hunk.sizes
        if row >= hunk.new + new:
            return row - hunk.new - new + hunk.old + old
        if row >= hunk.new:
            return hunk.old + min(row - hunk.new, old)
    return row


def add_start_states(packs: Sequence[CommitPack], reader: CachedReader, done: Callable[[int], None]) -> None:
    """Give every run as much of the file before its first step as there is room for: the rows that it changes, and
    those around them."""
    runs = [run for pack in packs for run in pack.runs if run.room >= _MIN_STATE_TOKENS]
    requests: list[Request] = [
        WindowRequest(
            run.path, run.steps[0].blob, tuple(changed_rows(run.steps)), _round_up(run.room * _CHARACTERS_PER_TOKEN)
        )
        for run in runs
    ]
    for run, answer in zip(runs, reader.read(requests, done), strict=True):
        if not isinstance(answer, SkippedText):
            run.state = _start_state(answer, run.room)


def _round_up(characters: int) -> int:
    """Round up to whole steps, so that a little more or less room reads the same (cached) window."""
    return -(-characters // _CHARACTER_STEP) * _CHARACTER_STEP


def _start_state(answer: Features, room: int) -> FilePiece | None:
    of = answer.text
    if not len(of):
        return None
    if len(of) <= room:
        return FilePiece.whole(of, target=False)
    bounds = [*of.rows.tolist(), len(of)]
    sizes = [end - start for start, end in pairwise(bounds)]
    runs = rows_around(sizes, [(first, last) for first, last in answer.facts["spans"]], room)
    shown = [(bounds[first], bounds[last]) for first, last in runs]
    ranges = of.separate_ranges(shown, shown[-1][1]) if shown else []
    if not ranges:  # blank rows, which are part of a token of the row before them
        return None
    *head, (start, end) = ranges
    return FilePiece(of, start, min(end, start + room), tuple(head), False)
