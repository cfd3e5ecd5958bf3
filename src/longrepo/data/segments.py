"""Reads a stored row back as the segments it was written from: files, changes, snippets, and questions with answers.

Works on the tokens and loss weights alone, for every kind of marks. Where marks are text (`none`, and bases without
tokens of their own), a line counts as a file's mark only if it names one of the row's files.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longrepo.data.dialects import FimOrder
from longrepo.data.marks import COMMIT_END, FILE_END, SNIPPET_TOKENS
from longrepo.data.sequence import TARGET_WEIGHT
from longrepo.data.stored_text import special_token_mask
from longrepo.data.tokenizer import RepoTokenizer

SegmentKind = Literal["file", "commit", "snippet"]
_MARK_PLANE = 0xF0000  # a private plane of Unicode: the special token of an id is one character there
_HUNK = re.compile(r"^@@ -\d+,\d+ \+\d+,\d+ @@", re.MULTILINE)
# Two orders may have the same marks: the one that has nothing between two of them is told by that.
_BY_EMPTY_TEXTS = (FimOrder.SPM_JOINED, FimOrder.PSM, FimOrder.SPM)
_QUESTIONS = re.compile(r"(?:\nQUESTION: [^\n]*\nANSWER:[^\n]*)+\Z")
_QUESTION = re.compile(r"\nQUESTION: ([^\n]*)\nANSWER:([^\n]*)")


@dataclass(frozen=True)
class GapTexts:
    """The texts of a fill-in-the-middle. `joined`: no mark parts the prefix from the middle, so both are in
    `middle`."""

    prefix: str
    suffix: str
    middle: str
    joined: bool


@dataclass(frozen=True)
class AskedQuestion:
    """A question with its answer, as text."""

    question: str
    answer: str


@dataclass
class Segment:
    """What follows one mark of a row, up to the next one.

    `runs`: its text without mark and path, in stretches of one loss weight; of a change its hunks. `name`: the path, a
    change's short commit id, or a snippet's number; `path`: where it is told. `message`: the runs of a change before
    its first hunk's "@@" (all, if there is none). `end_weight`: the weight of the mark that says that it ends; -1 if
    none does. `gap`: its texts, if it is a fill-in-the-middle.
    """

    kind: SegmentKind
    name: str
    path: str
    runs: list[tuple[str, float]]
    end_weight: float = -1.0
    gap: GapTexts | None = None
    message: list[tuple[str, float]] = field(default_factory=list)
    questions: list[AskedQuestion] = field(default_factory=list)

    @cached_property
    def text(self) -> str:
        """Its text; that of a fill-in-the-middle in the file's order."""
        if self.gap:
            return self.gap.prefix + self.gap.middle + self.gap.suffix
        return "".join(text for text, _ in self.runs)

    @cached_property
    def target(self) -> bool:
        """Whether any of its text is a target."""
        return any(weight == TARGET_WEIGHT and text.strip() for text, weight in self.runs)

    @cached_property
    def head(self) -> str:
        """The lines shown as context before a target; empty if it begins with the target or has none."""
        if not self.target or self.gap:
            return ""
        first = next(at for at, (text, weight) in enumerate(self.runs) if weight == TARGET_WEIGHT and text.strip())
        return "".join(text for text, _ in self.runs[:first])


class SegmentReader:
    """Reads rows that were written with a tokenizer."""

    def __init__(self, tokenizer: RepoTokenizer) -> None:
        self._tokenizer = tokenizer
        self._layout = tokenizer.marks.layout
        self._mask = special_token_mask(tokenizer)
        self._end = self._mark(tokenizer.end_id)
        self._ends = {self._end, self._mark(tokenizer.pad_id)}
        self._coded = _MarkCoder(tokenizer)
        self._file_end = self._coded(self._layout.text(FILE_END))
        self._commit_end = self._coded(self._layout.text(COMMIT_END))
        fim = tokenizer.fim
        self._fim_marks = {self._mark(id) for id in fim.marks} if fim else set()
        orders = [order for order in _BY_EMPTY_TEXTS if fim and order in fim.orders]
        self._fim_orders = [
            (order, [(self._mark(id), text) for id, text in fim.steps(order)]) for order in orders if fim
        ]
        self._hunks = self._hunks_pattern()
        fixed = [self._commit_pattern(), self._snippet_pattern()]
        self._fixed = [pattern for pattern in fixed if pattern]

    def read(self, ids: NDArray[np.int32], weights: NDArray[np.float32], files: Sequence[str]) -> list[Segment]:
        """Return the segments of a row. `files`: the paths that it was made of, as the row names them."""
        row = _RowText(self._runs(ids, weights))
        found = list(self._openings(files).finditer(row.text))
        segments: list[Segment] = []
        for opening, following in zip(found, [*found[1:], None], strict=False):
            stop = following.start() if following else len(row.text)
            segments.append(self._segment(row, opening, stop, following is None))
        return segments

    def _mark(self, id: int) -> str:
        return chr(_MARK_PLANE + id)

    def _runs(self, ids: NDArray[np.int32], weights: NDArray[np.float32]) -> Iterator[tuple[str, float]]:
        """Yield the row's text in stretches of one weight; each special token is a character of its own."""
        start = int(len(ids) > 0 and int(ids[0]) == self._tokenizer.begin_id)
        special = self._mask[ids]
        changes = (np.diff(weights) != 0) | special[1:] | special[:-1]
        for part in np.split(np.arange(start, len(ids)), np.flatnonzero(changes[start:]) + 1):
            if len(part):
                only = int(ids[part[0]])
                text = self._mark(only) if special[part[0]] else self._tokenizer.decode(ids[part].tolist())
                yield text, float(weights[part[0]])

    def _commit_pattern(self) -> str:
        coded = self._coded(self._layout.commit)
        id = r" (?P<commit>[0-9a-f]{8}) "  # rows of older versions may lack it
        return f"(?P<change>{self._begin(coded)})" + (f"(?:{id})?" if len(coded) == 1 else id)

    def _hunks_pattern(self) -> re.Pattern[str] | None:
        if not self._layout.hunks:
            return None
        before, after = map(re.escape, self._layout.path)
        first, *rest = (re.escape(self._coded(text)) for text in self._layout.hunks)
        again = "".join(f"{before}(?P=path){after}{text}" for text in rest[1:])
        return re.compile(f"{first}{before}(?P<path>[^\n]*){after}{rest[0]}{again}")

    def _snippet_pattern(self) -> str:
        texts = [self._coded(self._layout.snippet.format(number)) for number in range(len(SNIPPET_TOKENS))]
        before, after = self._layout.path
        opening = "|".join(self._begin(text) for text in reversed(texts))
        start = f"(?:{re.escape(before)})?"  # cut off a very long path
        return rf"(?P<snippet>{opening}){start}(?P<snippet_path>[^\n]+){re.escape(after)}"

    def _begin(self, opening: str) -> str:
        """Return a pattern of a mark; the line break that it begins with is missing at the beginning of a row."""
        return rf"(?:\A|\n){re.escape(opening[1:])}" if opening.startswith("\n") else re.escape(opening)

    def _openings(self, files: Sequence[str]) -> re.Pattern[str]:
        """Return a pattern of all marks that begin a segment."""
        before, after = self._layout.path
        opening = self._coded(self._layout.file)
        if opening and not self._tokenizer.marks.is_text:
            rest = rf"(?:(?P<path>[^\n\U000F0000-\U000FFFFD]*){re.escape(after)}|(?=[{''.join(self._fim_marks)}]))"
            rest = rest if self._fim_marks else rf"(?P<path>[^\n\U000F0000-\U000FFFFD]*){re.escape(after)}"
            return re.compile("|".join([*self._fixed, re.escape(opening) + rest]))
        paths = "|".join(re.escape(path) for path in sorted(files, key=len, reverse=True)) or r"(?!)"
        begin = self._begin(opening) if opening else rf"(?:\A|(?<={re.escape(self._file_end)}))"
        return re.compile("|".join([*self._fixed, rf"{begin}{re.escape(before)}(?P<path>{paths}){re.escape(after)}"]))

    def _segment(self, row: _RowText, opening: re.Match[str], stop: int, last: bool) -> Segment:
        groups = opening.groupdict()
        change, snippet = groups["change"], groups["snippet"]
        start, end, end_weight = opening.end(), stop, -1.0
        ended = row.text[start:stop].rstrip("".join(self._ends))
        said = self._commit_end if change else "" if snippet else self._file_end
        if len(ended) < stop - start:  # the end token
            end, end_weight = start + len(ended), row.weight(start + len(ended))
        elif not last and not said and not snippet:
            end_weight = row.weight(stop)  # the next mark says it
        if said and said in ended:
            end = start + ended.rindex(said)
            end_weight = max(end_weight, row.weight(end))
        if change:
            return self._change(row, groups["commit"] or "", start, end, end_weight)
        if snippet is not None:
            number = next(
                number
                for number in reversed(range(len(SNIPPET_TOKENS)))
                if snippet.endswith(self._coded(self._layout.snippet.format(number)).lstrip("\n"))
            )
            return self._snippet(row, str(number), groups["snippet_path"].strip(), start, end)
        path, gap = (groups["path"] or "").strip(), self._gap(row.text[start:end])
        if gap and not path and self._layout.path_in_fim:
            path, gap = self._path_in_gap(gap)
        return Segment("file", path, path, list(row.runs(start, end)), end_weight, gap)

    def _change(self, row: _RowText, commit: str, start: int, end: int, end_weight: float) -> Segment:
        path = self._hunks.search(row.text, start, end) if self._hunks else None
        first = _HUNK.search(row.text, path.start() if path else start, end)
        hunks = path.end() if path else first.start() if first else end
        message = list(row.runs(start, path.start() if path else hunks))
        name = path["path"].strip() if path else ""
        return Segment("commit", commit, name, list(row.runs(hunks, end)), end_weight, message=message)

    def _snippet(self, row: _RowText, number: str, path: str, start: int, end: int) -> Segment:
        """Return a snippet; the last one of a row is followed by the questions."""
        asked = _QUESTIONS.search(row.text[start:end])
        code_end = start + asked.start() if asked else end
        pairs = _QUESTION.finditer(asked.group()) if asked else ()
        questions = [AskedQuestion(one[1].strip(), " ".join(self._coded.names(one[2]).split())) for one in pairs]
        return Segment("snippet", number, path, list(row.runs(start, code_end)), questions=questions)

    def _gap(self, text: str) -> GapTexts | None:
        """Return the texts of a fill-in-the-middle; None if it is none."""
        if not any(mark in text for mark in self._fim_marks):
            return None
        parts = re.split(f"([{''.join(self._fim_marks)}])", text)
        marks, texts = parts[1::2], parts[2::2]
        for order, steps in self._fim_orders:
            nothing = [one for one, (_, name) in zip(texts, steps[:-1], strict=False) if name is None]
            if marks[: len(steps)] == [mark for mark, _ in steps] and not "".join(nothing):
                by_name = {name: one for (_, name), one in zip(steps, texts, strict=False) if name}
                last = texts[len(steps) - 1]
                joined = order is FimOrder.SPM_JOINED or steps[-1][1] is not None
                prefix = "" if joined else by_name.get("prefix", "")
                return GapTexts(prefix, by_name.get("suffix", ""), last, joined)
        return GapTexts("", "", "".join(texts), False)

    def _path_in_gap(self, gap: GapTexts) -> tuple[str, GapTexts]:
        if gap.joined:
            path, _, middle = gap.middle.partition("\n")
            return path.strip(), GapTexts("", gap.suffix, middle, True)
        path, _, prefix = gap.prefix.partition("\n")
        return path.strip(), GapTexts(prefix, gap.suffix, gap.middle, False)


class _RowText:
    """A row's text, with the loss weight of each character."""

    def __init__(self, runs: Iterator[tuple[str, float]]) -> None:
        self._starts: list[int] = []
        self._weights: list[float] = []
        texts: list[str] = []
        at = 0
        for text, weight in runs:
            self._starts.append(at)
            self._weights.append(weight)
            texts.append(text)
            at += len(text)
        self.text = "".join(texts)

    def weight(self, at: int) -> float:
        return self._weights[bisect_right(self._starts, at) - 1]

    def runs(self, start: int, end: int) -> Iterator[tuple[str, float]]:
        number = bisect_right(self._starts, start) - 1
        while start < end:
            stop = min(end, self._starts[number + 1] if number + 1 < len(self._starts) else end)
            yield self.text[start:stop], self._weights[number]
            start, number = stop, number + 1


class _MarkCoder:
    """Replaces the names of special tokens in the texts of a layout by their characters."""

    def __init__(self, tokenizer: RepoTokenizer) -> None:
        special = tokenizer.marks.special_names
        self._by_name = {name: chr(_MARK_PLANE + id) for name, id in special.items()}
        self._by_mark = {mark: name for name, mark in self._by_name.items()}
        names = sorted(special, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def __call__(self, text: str) -> str:
        return self._names.sub(lambda found: self._by_name[found.group()], text)

    def names(self, text: str) -> str:
        """Return a row's text with the marks spelled out, a blank before each."""
        return "".join(f" {self._by_mark[one]}" if one in self._by_mark else one for one in text)
