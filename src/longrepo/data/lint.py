"""Checks stored sequences for what teaches nothing, or the wrong thing. Works on stored rows alone.

Rows are read one at a time, twice: first for the names that are everyday words in the repository, and for how each file
and each change ends, then for the findings. What is kept grows with the number of names, files and changes, not with
the text. A rule that a row's kind of marks doesn't let tell isn't counted as checked there.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrepo.data.dataset import SequenceFile
from longrepo.data.questions.sources import is_test
from longrepo.data.repeated_heads import indentation, stray_bracket, unused_import
from longrepo.data.segments import Segment, SegmentReader
from longrepo.data.sequence import MIN_TARGETS, TARGET_WEIGHT
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.used_context import EVERYDAY_FILES, EVERYDAY_SHARE, names_of
from longrepo.repository.filters import context_noise
from longrepo.utils import hashing

LINT_RULES = {
    "cut-file-end": "end of a file where it goes on",
    "cut-context-end": "the same of a file shown as context",
    "cut-change-end": "end of a change where it goes on",
    "one-sided-gap": "gap without text before or after it",
    "empty-gap": "gap with nothing to fill in",
    "no-hunk-head": 'change that begins without "@@"',
    "other-region": "change of lines that aren't shown",
    "unused-context": "context of which the target uses no name",
    "alone-target": "target that uses none of its context",
    "poor-context": "context that isn't worth its tokens",
    "stray-bracket": "head that leaves a bracket alone",
    "repeated-head": "head, or a line of it, shown twice",
    "unused-import": "import in a head that nothing uses",
    "few-targets": "hardly any target tokens",
    "repeated-question": "question asked before",
    "odd-subject": "question on a nested or test's name",
}
MIN_ANSWERS = 0.05  # of a question's tokens
UNRELATED_SHARE = (
    0.1  # of the sequences of files that may show one file of no use: `data.hard_negative_share`'s default
)
MAX_EXAMPLES = 20  # kept of each rule
_ON_USE = ("unused-context", "alone-target")
_TAIL_CHARACTERS = 64  # by which the ends of a file are compared
_HUNK_TITLE = re.compile(r"@@ -\d+,(\d+) \+\d+,(\d+) @@.*")
_MIN_ROW_CHARACTERS = 4  # of a hunk's row that is looked for in the file as it was
_SUBJECT = re.compile(
    r"(?:the \w+|signature of|parameter \w+ of|has the method|class does|calls|extends|calls the \w+) (\w+)\b"
)
_FUNCTION_LINE = re.compile(r"(?:async\s+)?(?:def|function|fn|func)\b|.*=>\s*\{?$")


@dataclass(frozen=True)
class LintFinding:
    """Something a rule found: the row, and a line of its text."""

    rule: str
    row: int
    shows: str


@dataclass
class LintReport:
    """How much each rule looked at, how often it found something, in how many rows, and the first examples.
    `unrelated`: the rows whose one piece of context of no use is taken for a hard negative, so that it's no finding."""

    rows: int = 0
    unrelated: int = 0
    checked: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    rows_found: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[LintFinding]] = field(default_factory=dict)

    @property
    def findings(self) -> int:
        """How much all rules found."""
        return self.found.total()

    def as_dict(self, phases: Sequence[int]) -> dict[str, Any]:
        """Return the JSON form; `phases`: that of each row of the file."""
        return {
            "sequences": self.rows,
            "findings": self.findings,
            "unrelated": self.unrelated,
            "rules": {
                rule: {
                    "about": about,
                    "checked": self.checked[rule],
                    "found": self.found[rule],
                    "sequences": self.rows_found[rule],
                    "examples": [
                        {"phase": phases[one.row], "row": one.row, "shows": one.shows}
                        for one in self.examples.get(rule, ())
                    ],
                }
                for rule, about in LINT_RULES.items()
            },
        }

    def add_row(self, findings: Sequence[LintFinding]) -> None:
        """Count the findings in one row."""
        self.rows_found.update({finding.rule for finding in findings})
        for finding in findings:
            self.found[finding.rule] += 1
            listed = self.examples.setdefault(finding.rule, [])
            if len(listed) < MAX_EXAMPLES:
                listed.append(finding)


@dataclass(frozen=True)
class _Row:
    """A row with what the rules look at."""

    number: int
    kind: str
    split: str
    repository: str
    segments: list[Segment]
    targets: float  # share of its tokens

    @property
    def files(self) -> list[Segment]:
        return [one for one in self.segments if one.kind == "file"]

    @property
    def changes(self) -> list[Segment]:
        return [one for one in self.segments if one.kind == "commit"]

    @property
    def context(self) -> list[Segment]:
        """The files without a target, but for the one that a change's hunks follow: it is what they change."""
        following = [*self.segments[1:], None]
        return [
            one
            for one, after in zip(self.segments, following, strict=False)
            if one.kind == "file" and not one.target and not (after and after.kind == "commit")
        ]


def lint_sequences(
    file: SequenceFile, tokenizer: RepoTokenizer, rows: Sequence[int], tick: Callable[[], None] = lambda: None
) -> LintReport:
    """Check rows by every rule; `tick` is called twice for each."""
    reader = SegmentReader(tokenizer)
    names, ends = _NameCounts(), _KnownEnds()
    for row in _read_rows(file, reader, rows, tick):
        names.add(row)
        ends.add(row)
    rules = _Rules(names, ends)
    report = LintReport(rows=len(rows))
    strangers: list[list[LintFinding]] = []
    of_files = 0
    for row in _read_rows(file, reader, rows, tick):
        found = list(rules.check(row, report.checked))
        of_files += row.kind == "hierarchical" and row.split == "train"
        if row.kind == "hierarchical" and sum(one.rule == "unused-context" for one in found) == 1:
            strangers.append([one for one in found if one.rule in _ON_USE])
            found = [one for one in found if one.rule not in _ON_USE]
        report.add_row(found)
    if len(strangers) <= _most_unrelated(of_files):
        report.unrelated = len(strangers)
    else:
        for found in strangers:
            report.add_row(found)
    return report


def _most_unrelated(rows: int) -> float:
    """Return how many of so many sequences may show something unrelated: their share and a standard deviation."""
    return UNRELATED_SHARE * rows + math.sqrt(UNRELATED_SHARE * (1 - UNRELATED_SHARE) * rows)


def _read_rows(
    file: SequenceFile, reader: SegmentReader, rows: Sequence[int], tick: Callable[[], None]
) -> Iterator[_Row]:
    kinds, splits, repositories, files = map(file.column, ("kind", "split", "repository", "files"))
    for number in rows:
        ids, weights = file.tokens(number), file.weights(number)
        segments = reader.read(ids, weights, files[number])
        yield _Row(number, kinds[number], splits[number], repositories[number], segments, _target_share(weights))
        tick()


def _target_share(weights: NDArray[np.float32]) -> float:
    return float(np.count_nonzero(weights == TARGET_WEIGHT)) / max(1, len(weights))


class _NameCounts:
    """In how many files whose text is a target each name occurs."""

    def __init__(self) -> None:
        self._files: defaultdict[str, set[str]] = defaultdict(set)  # repository and path → names

    def add(self, row: _Row) -> None:
        for one in row.files:
            if one.target:
                self._files[f"{row.repository}\n{one.path}"].update(map(sys.intern, names_of(one.text)))

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(chain.from_iterable(self._files.values()))

    def telling(self, text: str) -> set[str]:
        """Return the names of a text that aren't everyday words here."""
        most = max(EVERYDAY_FILES, EVERYDAY_SHARE * len(self._files))
        return {name for name in names_of(text) if self._counts[name] <= most}


@dataclass
class _KnownEnds:
    """How files and changes end, by the marks that are targets: each has one end, so a text with another one that is
    marked as the end was cut. The end that most pieces have is the real one; of equals, the last."""

    _tails: dict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))  # last characters → pieces
    _real: dict[int, str] = field(default_factory=dict)

    def add(self, row: _Row) -> None:
        for segment, key in _ending_segments(row):
            if segment.end_weight == TARGET_WEIGHT and segment.target:
                tails, tail = self._tails[key], _tail(segment)
                tails[tail] = tails.pop(tail, 0) + 1  # the last one is last

    def is_real(self, segment: Segment, key: int) -> bool | None:
        """Return whether a text ends as its file or change does; None if that isn't known."""
        tails = self._tails.get(key)
        if not tails:
            return None
        if key not in self._real:
            support = {one: sum(tails[other] for other in tails if _same_end(one, other)) for one in tails}
            self._real[key] = max(reversed(tails), key=lambda tail: (support[tail], len(tail) == _TAIL_CHARACTERS))
        return _same_end(self._real[key], _tail(segment))


def _ending_segments(row: _Row) -> Iterator[tuple[Segment, int]]:
    """Yield the files and changes of a row that can be compared with others, with what they are pieces of. A
    fill-in-the-middle ends where its gap does, and a file before a change is an older version."""
    known = {one.path for one in row.files}
    path, alone = "", len(known) == 1
    for one, after in zip(row.segments, [*row.segments[1:], None], strict=False):
        if one.kind == "file":
            path = one.path
            if not one.gap and not (after and after.kind == "commit"):
                yield one, hashing.seeded_int("file", row.repository, row.split, one.path)
        elif one.kind == "commit" and (one.path or alone):
            yield one, hashing.seeded_int("change", row.repository, one.name, one.path or path)


def _tail(segment: Segment) -> str:
    own = segment.text[len(segment.head) :] if segment.kind == "file" else segment.text or _message(segment)
    return own.rstrip()[-_TAIL_CHARACTERS:]


def _same_end(one: str, other: str) -> bool:
    """Whether two texts may have the same end: one is the end of the other."""
    return one.endswith(other) or other.endswith(one)


Found = tuple[str, str]  # the rule, and a line to show


class _Rules:
    """The rules, one method for each family; each yields what it finds and counts what it looked at."""

    def __init__(self, names: _NameCounts, ends: _KnownEnds) -> None:
        self._names = names
        self._ends = ends
        self._asked: set[tuple[str, str]] = set()

    def check(self, row: _Row, checked: Counter[str]) -> Iterator[LintFinding]:
        """Yield the findings in a row."""
        for family in (self._endings, self._gaps, self._hunks, self._context, self._heads, self._questions):
            for rule, shows in family(row, checked):
                yield LintFinding(rule, row.number, shows)
        if row.split == "train":
            checked["few-targets"] += 1
            if row.targets < (MIN_ANSWERS if row.kind == "qa" else MIN_TARGETS):
                yield LintFinding("few-targets", row.number, f"{row.targets:.2%} of the tokens of a row of {row.kind}")

    def _endings(self, row: _Row, checked: Counter[str]) -> Iterator[Found]:
        for segment, key in _ending_segments(row):
            if segment.end_weight <= 0 or segment.kind == "commit":
                continue
            real = self._ends.is_real(segment, key)
            rule = "cut-file-end" if segment.end_weight == TARGET_WEIGHT else "cut-context-end"
            checked[rule] += real is not None
            if real is False:
                yield rule, f"{segment.path}: {_last_line(segment.text)}"
        known = {id(segment): key for segment, key in _ending_segments(row)}
        for change in row.changes:
            if change.end_weight > 0:
                checked["cut-change-end"] += 1
                real = self._ends.is_real(change, known[id(change)]) if id(change) in known else None
                if real is False or not _is_whole_hunk(change.text):
                    yield "cut-change-end", f"{change.name}: {_last_line(change.text)}"

    def _gaps(self, row: _Row, checked: Counter[str]) -> Iterator[Found]:
        for segment in row.files:
            if (gap := segment.gap) is None:
                continue
            checked.update(("one-sided-gap", "empty-gap"))
            missing = "suffix" if not gap.suffix.strip() else "prefix" if not (gap.joined or gap.prefix.strip()) else ""
            if missing:
                yield "one-sided-gap", f"{segment.path}, no {missing}: {_first_line(gap.middle)}"
            if not gap.middle.strip():
                yield "empty-gap", f"{segment.path}: {_last_line(gap.prefix)}"

    def _hunks(self, row: _Row, checked: Counter[str]) -> Iterator[Found]:
        for before, change in zip([None, *row.segments], row.segments, strict=False):
            if change.kind != "commit":
                continue
            checked["no-hunk-head"] += 1
            if not change.text.startswith("@@") or _is_uneven(change.message):
                shown = change.text or _message(change)
                yield "no-hunk-head", f"{change.name}: {_first_line(shown)}"
            if before and before.kind == "file" and (old := _old_rows(change.text)):
                checked["other-region"] += 1
                shown_rows = {line.strip() for line in before.text.split("\n")}
                if not old & shown_rows:
                    yield "other-region", f"{before.path}, {change.name}: {_first_line(change.text)}"

    def _context(self, row: _Row, checked: Counter[str]) -> Iterator[Found]:
        targets = [one for one in row.segments if one.target]
        asked = " ".join(f"{one.question} {one.answer}" for snippet in row.segments for one in snippet.questions)
        named = f"{asked} {' '.join(one.text for one in targets)}"
        for one in row.segments:
            if one.kind == "snippet" or any(one is shown for shown in row.context):
                checked["poor-context"] += 1
                if (reason := context_noise(one.path)) and _stem(one.path) not in named:
                    yield "poor-context", f"{one.path} ({reason})"
        if row.split != "train" or row.kind == "qa" or not targets or not row.context:
            return
        states = [one for one in row.files if not one.target and not any(one is shown for shown in row.context)]
        used = set[str]().union(*(names_of(f"{_message(one)}\n{one.text}") for one in [*targets, *states]))
        unused = [one for one in row.context if not used & self._names.telling(f"{one.text}\n{_stem(one.path)}")]
        checked["unused-context"] += len(row.context)
        checked["alone-target"] += 1
        for one in unused:
            yield "unused-context", f"{one.path}, for {targets[-1].path or targets[-1].name}: {_first_line(one.text)}"
        if len(unused) == len(row.context):
            yield "alone-target", f"{targets[-1].path or targets[-1].name}: {_first_line(targets[-1].text)}"

    def _heads(self, row: _Row, checked: Counter[str]) -> Iterator[Found]:
        shown: set[tuple[str, str]] = set()
        for segment in row.files:
            head = segment.head
            if row.split != "train" or row.kind != "hierarchical" or not head.strip():
                continue
            checked.update(("stray-bracket", "repeated-head", "unused-import"))
            if unused := unused_import(head, segment.text[len(head) :]):
                yield "unused-import", f"{segment.path}: {unused}"
            if stray := stray_bracket(head, segment.text[len(head) :]):
                yield "stray-bracket", f"{segment.path}: {stray}"
            lines = [line.rstrip() for line in head.split("\n") if len(line.strip()) > 3]  # blocks may be alike
            twice = next((line for line in lines if lines.count(line) > 1), "")
            if twice or (segment.path, head) in shown:
                yield "repeated-head", f"{segment.path}: {(twice or lines[0]).strip()}"
            shown.add((segment.path, head))

    def _questions(self, row: _Row, checked: Counter[str]) -> Iterator[Found]:
        snippets = [one for one in row.segments if one.kind == "snippet"]
        for asked in (question for one in snippets for question in one.questions):
            checked.update(("repeated-question", "odd-subject"))
            key = (row.repository, asked.question)
            if row.split == "train" and key in self._asked:
                yield "repeated-question", asked.question
            self._asked.add(key)
            if odd := _odd_subject(asked.question, asked.answer, snippets):
                yield "odd-subject", f"{asked.question} ({odd})"


def _is_whole_hunk(text: str) -> bool:
    """Whether the last hunk of a text has as many rows, and whole ones, as its "@@" says; a text without one isn't
    judged."""
    titles = list(re.finditer(f"^{_HUNK_TITLE.pattern}.*$", text, re.MULTILINE))
    if not titles:
        return True
    rows = text[titles[-1].end() + 1 :].removesuffix("\n").split("\n")
    old = sum(not row.startswith("+") for row in rows)
    new = sum(not row.startswith("-") for row in rows)
    return text.endswith("\n") and old >= int(titles[-1][1]) and new >= int(titles[-1][2])


def _is_uneven(message: Sequence[tuple[str, float]]) -> bool:
    """Whether a change's text before its first "@@" is rows of a hunk: a message has one weight (but for its first
    word, which may be part of a token with the commit's id), rows have several."""
    runs = [(text, weight) for text, weight in message if text.strip()]
    if runs and len(runs[0][0].split()) <= 1:
        runs = runs[1:]
    return len({weight for _, weight in runs}) > 1


def _old_rows(hunks: str) -> set[str]:
    rows = (row[1:].strip() for row in hunks.split("\n") if row[:1] in (" ", "-"))
    return {row for row in rows if len(row) >= _MIN_ROW_CHARACTERS}


def _message(segment: Segment) -> str:
    return "".join(text for text, _ in segment.message)


def _odd_subject(question: str, answer: str, snippets: Sequence[Segment]) -> str:
    """Return what is odd about the name that a question is about; empty if nothing is, or if that can't be told."""
    found = _SUBJECT.search(question)
    number = re.search(r"(?:SNIPPET|snippet)_(\d+)", answer)
    if not found or not number or question.startswith("Which test file"):
        return ""
    place = next((one for one in snippets if one.name == number[1]), None)
    if place is None:
        return "its snippet isn't shown"
    if is_test(place.path):
        return f"of tests: {place.path}"
    return "nested in a function" if _is_nested(found[1], place.text) else ""


def _is_nested(name: str, text: str) -> bool:
    """Whether a name is defined inside a function, by the indentation of the lines above."""
    lines = text.split("\n")
    definition = re.compile(rf"\s*(?:async\s+)?(?:def|class|function|fn|func|const|let)\s+{re.escape(name)}\b")
    for number, line in enumerate(lines):
        if not definition.match(line):
            continue
        width = indentation(line)
        for above in reversed(lines[:number]):
            if above.strip() and indentation(above) < width and above.strip()[0] not in ")]}#":
                if _FUNCTION_LINE.match(above.strip()):
                    return True
                width = indentation(above)
        return False
    return False


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.split("\n") if line.strip()), "")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")
