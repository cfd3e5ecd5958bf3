"""Writes questions into sequences, and reads and checks the questions of a sequence file.

Several questions come after one context: the snippets that answer them, and related ones. The context is as long as its
answers are worth, so that the answers are a twentieth of the sequence's tokens or more.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from longrepo.data.dataset import SequenceFile
from longrepo.data.features import inline_text
from longrepo.data.marks import SNIPPET_TOKENS
from longrepo.data.metadata import RepositoryFacts
from longrepo.data.packing import Band
from longrepo.data.questions.definition_questions import Question
from longrepo.data.questions.evidence import holds_commit
from longrepo.data.questions.verify import AnswerChecker, AnswerVerdict
from longrepo.data.segments import SegmentReader
from longrepo.data.template import (
    FilePiece,
    SequenceBuilder,
    TemplateSizes,
    encode_text,
    question_ids,
    write_questions,
)
from longrepo.data.text import Int32Array, TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError
from longrepo.utils import hashing

_SNIPPETS_WANTED = {1: 4, 2: 6, 3: 8}  # by phase; each snippet then has a few hundred tokens
_MIN_SNIPPET_TOKENS = 32
_NAME_TOKENS = 10  # shown from a place on, at least: most names and what says how they are used
_NAME = re.compile(r"[\w$]*")
_MIN_ANSWERS = 0.05  # of a sequence's tokens
_ANSWERS_WANTED = 0.06
_MIN_LENGTH_SHARE = 0.5  # of a phase's cap: a shorter context is no long one
_KIND_SHARE = 1 / 3  # of all questions that one kind may have, if there are four kinds or more
_FREE_OF_A_KIND = 2  # asked whatever the share is
_NAMING_KINDS = ("owner", "base", "caller", "subclass", "why")  # an answer of these begins with a name or an id
_MAX_TRIED = 400  # questions looked at for one sequence

Span = tuple[str, int]  # path, character


@dataclass
class QuestionPool:
    """Questions that can still be asked, each once; the kinds in turn, and none beyond its share of all."""

    questions: Sequence[Question]
    _asked: set[str] = field(default_factory=set)
    _kinds: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._by_path: defaultdict[str, list[Question]] = defaultdict(list)
        for one in self.questions:
            self._by_path[one.needs[0][0]].append(one)
        kinds = len({one.kind for one in self.questions})
        self._share = max(_KIND_SHARE, min(1.0, 1.2 / max(1, kinds)))

    def __iter__(self) -> Iterator[Question]:
        """Yield the questions that may be asked now."""
        return (one for one in self.questions if self.is_free(one))

    def is_free(self, question: Question, chosen: Sequence[Question] = ()) -> bool:
        """Whether a question may be asked beside those chosen for the same sequence."""
        of_kind = self._kinds[question.kind] + sum(one.kind == question.kind for one in chosen)
        most = _FREE_OF_A_KIND + self._share * (self._kinds.total() + len(chosen))
        return question.text not in self._asked and of_kind < most

    def about(self, paths: Iterable[str]) -> Iterator[Question]:
        """Yield the questions whose answers stand in files, in their order."""
        return (one for path in paths for one in self._by_path.get(path, ()))

    @property
    def left(self) -> int:
        """The number of questions not asked yet, whatever their kinds."""
        return len(self.questions) - len(self._asked)

    def take(self, questions: Iterable[Question]) -> None:
        """Mark questions as asked."""
        for one in questions:
            self._asked.add(one.text)
            self._kinds[one.kind] += 1


class QuestionWriter:
    """Writes questions after the snippets they need and related ones; no snippet with an answer is the last."""

    def __init__(
        self,
        sizes: TemplateSizes,
        texts: Mapping[str, TokenizedText],
        related: Callable[[str], Sequence[str]],
        context: float,
        seed: int,
    ) -> None:
        self._tokenizer = sizes.tokenizer
        self._texts = texts
        self._related = related
        self._context = context
        self._seed = seed
        self._sizes = sizes
        self._snippet_size = max(self._sizes.marks(name) for name in SNIPPET_TOKENS)
        self.dropped: Counter[str] = Counter()
        self._alone: defaultdict[Band, set[str]] = defaultdict(set)  # questions that none can be asked with

    def write(self, question: Question, band: Band) -> SequenceBuilder | None:
        """Return the sequence of one question; None, with the reason counted, if it can't be asked."""
        return self._write([question], band, band.cap)

    def write_group(self, pool: QuestionPool, band: Band) -> SequenceBuilder | None:
        """Return a sequence of several questions of a pool, which are taken from it; None if there is none left."""
        for first in [one for one in pool if one.text not in self._alone[band]]:
            chosen = self._choose(first, pool, band)
            while len(chosen) > 1:
                length = self._length(chosen, band)
                built = self._write(chosen, band, length) if length else None
                if built is not None and built.target_tokens() >= _MIN_ANSWERS * len(built):
                    pool.take(chosen)
                    return built
                chosen.pop()
            self._alone[band].add(first.text)
            self.dropped["no other question about the same files"] += 1
        return None

    def _choose(self, first: Question, pool: QuestionPool, band: Band) -> list[Question]:
        """Return a question and others about the same and related files, as many as a sequence of the band has room
        for."""
        chosen, names = [first], _told_names(first)
        near = [first.needs[0][0], *(path for path, _ in first.needs[1:]), *self._related(first.needs[0][0])]
        tokens, paths = self._answer_size(first), {path for path, _ in first.needs}
        for tried, one in enumerate(pool.about(dict.fromkeys(near))):
            if tokens >= _ANSWERS_WANTED * band.cap or tried == _MAX_TRIED:
                break
            with_it = paths | {path for path, _ in one.needs}
            if names & _told_names(one) or len(with_it) >= _SNIPPETS_WANTED.get(band.phase, 8):
                continue
            if pool.is_free(one, chosen) and not self._is_long(one, band):
                chosen.append(one)
                names |= _told_names(one)
                paths, tokens = with_it, tokens + self._answer_size(one)
        return chosen

    def _is_long(self, question: Question, band: Band) -> bool:
        """Whether a signature may be longer than a snippet of this length."""
        (path, at), *others = question.needs
        if not _is_quoted(question) or path not in self._texts:
            return False
        size = self._texts[path].token_at(others[-1][1]) - self._texts[path].token_at(at)
        return size > band.cap // _SNIPPETS_WANTED.get(band.phase, 8) // 3

    def _answer_size(self, question: Question) -> int:
        return len(self._answer_ids(question, 0)) + 1  # with what ends it

    def _length(self, chosen: Sequence[Question], band: Band) -> int:
        """Return how long a sequence its answers are worth; 0 if less than the band's lengths."""
        length = min(band.cap, int(sum(map(self._answer_size, chosen)) / (_MIN_ANSWERS * 1.04)))
        return length if length > max(band.floor, _MIN_LENGTH_SHARE * band.cap) else 0

    def _write(self, questions: Sequence[Question], band: Band, length: int) -> SequenceBuilder | None:
        key = (self._seed, band.phase, questions[0].kind, questions[0].text)
        asked = [question_ids(self._tokenizer, one.text) for one in questions]
        longest = [self._answer_ids(one, len(SNIPPET_TOKENS) - 1) for one in questions]
        room = length - self._sizes.ends - sum(map(len, (*asked, *longest)))
        spans = list(dict.fromkeys(need for one in questions for need in one.needs))
        wanted = max(_SNIPPETS_WANTED.get(band.phase, 8), len({path for path, _ in spans}) + 1)
        pieces = self._cover(spans, room // wanted)
        while pieces is not None and wanted <= len(pieces) < len(SNIPPET_TOKENS):
            wanted = len(pieces) + 1
            pieces = self._cover(spans, room // wanted)
        if pieces is None or len(pieces) >= len(SNIPPET_TOKENS):
            self.dropped["what it is about is not among the training files"] += 1
            return None
        quoted = [one.needs for one in questions if _is_quoted(one)]
        if not all(any(_holds(piece, span) for piece in pieces) for span in spans) or not all(
            any(all(_holds(piece, need) for need in needs) for piece in pieces) for needs in quoted
        ):
            self.dropped["its snippet is too short for the whole answer"] += 1
            return None
        room -= sum(self._sizes.snippet(0, piece) for piece in pieces)
        others = self._others(questions, room, room // max(1, wanted - len(pieces)), len(SNIPPET_TOKENS) - len(pieces))
        if not others:
            self.dropped["no other snippet to stand between answer and question"] += 1
            return None
        last = others.pop(0)  # the most closely related file: a good distractor next to the question
        if any(self._gives_away(last, one) for one in questions):
            self.dropped["the adjacent snippet answers it"] += 1
            return None
        shown = [*pieces, *others]
        shown.sort(key=lambda piece: hashing.seeded_int(*key, piece.of.path, piece.start))
        shown.append(last)
        pairs: list[tuple[Int32Array, TokenizedText]] = []
        for one, ids in zip(questions, asked, strict=True):
            answer = self._answer_ids(one, next(n for n, piece in enumerate(shown) if _holds(piece, one.needs[0])))
            # Its names: in the question and the answer.
            pairs.append((ids, inline_text(f"{one.text} {one.answer}", answer)))
        builder = self._sizes.begin()
        write_questions(builder, shown, pairs, self._context)
        builder.end()
        if len(builder) <= band.floor:
            self.dropped["too little text to fill this length"] += 1
            return None
        return builder

    def _answer_ids(self, question: Question, number: int) -> Int32Array:
        """Return the answer's ids, with the name of the snippet of that number."""
        before, mark, after = question.answer.partition("{snippet}")
        ids = [encode_text(self._tokenizer, f" {before}".rstrip(" ") if mark else f" {before}")]
        if mark:
            ids.append(self._tokenizer.marks.snippet_name(number))
        if after:
            ids.append(encode_text(self._tokenizer, after))
        return np.concatenate(ids)

    def _cover(self, spans: Sequence[Span], size: int) -> list[FilePiece] | None:
        """Return pieces of at most `size` tokens that hold all of these places, one or more of each file; None if a
        file isn't there, or if the size isn't enough for any."""
        pieces: list[FilePiece] = []
        for path in dict.fromkeys(path for path, _ in spans):
            places = sorted(at for one, at in spans if one == path)
            for at in places:
                if any(_holds(piece, (path, at)) for piece in pieces):
                    continue
                piece = self._piece(path, at, size, places)
                if piece is None:
                    return None
                before = [one for one in pieces if one.of is piece.of and one.end > piece.start]
                if before:  # it begins where the one before it ends, or in the line of the place
                    start = min(before[-1].end, piece.of.start_in(piece.of.token_at(at) + 1, _MIN_SNIPPET_TOKENS))
                    piece = FilePiece(piece.of, max(start, piece.start), piece.end, (), False)
                pieces.append(piece)
        return pieces

    def _piece(self, path: str, at: int, size: int, places: Sequence[int]) -> FilePiece | None:
        """Return the piece of a file around a character, at most `size` tokens with its mark and path, which holds the
        next of the places too if both fit."""
        of = self._texts.get(path)
        if of is None or not len(of):
            return None
        room = size - self._snippet_size - len(of.path_ids)
        if room < _MIN_SNIPPET_TOKENS:
            return None
        if len(of) <= room:
            return FilePiece.whole(of, target=False)
        token = of.token_at(at)
        following = (place for place in map(of.token_at, places) if token < place < token + room - _NAME_TOKENS)
        last = max(next(following, token) + _NAME_TOKENS, _name_end(of, at)) - 1
        before: list[int] = of.cuts[: of.cuts.searchsorted(token, "right")].tolist()
        start = next((cut for cut in before if token - cut < room // 2 and last - cut < room), None)
        if start is None:
            start = max(of.start_in(token + 1, room // 2), last - room + 1) if token else 0
        end = of.cut_in(start, min(len(of), start + room), last - start + 1)[0]
        return FilePiece(of, start, end, (), False)

    def _others(self, questions: Sequence[Question], room: int, size: int, most: int) -> list[FilePiece]:
        """Return related pieces that fill `room` tokens, the most closely related first."""
        asked_about = {path for one in questions for path, _ in one.needs}
        found: list[FilePiece] = []
        for path in self._related(questions[0].needs[0][0]):
            if len(found) == most or room < _MIN_SNIPPET_TOKENS:
                break
            if path in asked_about or path not in self._texts:
                continue
            of, seed = self._texts[path], (self._seed, questions[0].text, path)
            start = int(of.cuts[hashing.seeded_int(*seed) % len(of.cuts)]) if len(of.cuts) else 0
            start = max(start if len(of) - start >= size // 2 else 0, of.top[0])
            frame = self._snippet_size + len(of.path_ids)
            last_one = len(found) == most - 1
            limit = min(len(of), start + (room if last_one else min(room, max(size, _MIN_SNIPPET_TOKENS))) - frame)
            if limit - start < _MIN_SNIPPET_TOKENS:
                continue
            end = limit if limit == len(of) else of.cut_in(start, limit, (limit - start) // 2)[0]
            found.append(FilePiece(of, start, end, (), False))
            room -= self._sizes.snippet(0, found[-1])
        return found

    def _gives_away(self, piece: FilePiece, question: Question) -> bool:
        text = piece.of.slice_text(piece.start, piece.end)
        return question.answer.partition(", in {snippet}")[0] in text


def _holds(piece: FilePiece, span: Span) -> bool:
    """Whether a piece shows the place, and all of a name that begins there."""
    path, at = span
    if piece.of.path != path:
        return False
    return piece.start <= piece.of.token_at(at) and _name_end(piece.of, at) <= piece.end


def _name_end(of: TokenizedText, at: int) -> int:
    """Return the token behind the name that begins at a character, _NAME_TOKENS on at least, or the text's end."""
    found = _NAME.match(of.text, at)
    behind = int(of.starts.searchsorted(found.end() if found else at))
    return min(len(of), max(of.token_at(at) + _NAME_TOKENS, behind))


def _is_quoted(question: Question) -> bool:
    """Whether its answer is code that one snippet must show whole."""
    return question.kind in ("signature", "default") and len(question.needs) > 1


def _told_names(question: Question) -> set[str]:
    """Return what a question and its answer are about: a sequence asks about each once, as an answer might give another
    one away."""
    answer = re.match(r"\w+", question.answer) if question.kind in _NAMING_KINDS else None
    return {question.about, answer.group()} if answer else {question.about}


@dataclass(frozen=True)
class StoredQuestion:
    """A row's question and answer as text; `snippets` maps numbers to (path as shown, code)."""

    row: int
    question: str
    answer: str
    snippets: Mapping[int, tuple[str, str]]


def training_commit(facts: RepositoryFacts) -> str:
    """Return the commit whose files the questions are about."""
    return facts.validation_from or facts.head


def match_folders(file: SequenceFile, folders: Sequence[Path]) -> dict[str, Path]:
    """Map each repository's name in the header to the folder that contains its training commit. Raises InputError if
    none does."""
    found: dict[str, Path] = {}
    for facts in file.header.repositories:
        commit = training_commit(facts)
        folder = next((one for one in folders if holds_commit(one, commit)), None)
        if folder is None:
            raise InputError(
                f"no --repo contains the commit {commit[:10]} of {facts.name}; give the prepared repository"
            )
        found[facts.name] = folder
    return found


def read_questions(file: SequenceFile, row: int, tokenizer: RepoTokenizer) -> list[StoredQuestion]:
    """Return the questions and answers of a row of kind qa, with the snippets. Raises InputError if it has another
    format."""
    read = SegmentReader(tokenizer).read(file.tokens(row), file.weights(row), file.row(row)["files"])
    shown = {int(one.name): (one.path, one.text) for one in read if one.kind == "snippet"}
    asked = [pair for one in read for pair in one.questions]
    if not asked:
        raise InputError(f"{file.path}: row {row} contains no question; prepare the sequences again")
    return [StoredQuestion(row, one.question, one.answer, shown) for one in asked]


def check_question_rows(
    file: SequenceFile,
    tokenizer: RepoTokenizer,
    folders: Mapping[str, Path],
    limit: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[tuple[StoredQuestion, AnswerVerdict]]:
    """Return the verdict on every question of the file, or on those of `limit` rows (always the same), by row; `done`
    is called once for each row."""
    repositories = file.column("repository")
    found: list[tuple[StoredQuestion, AnswerVerdict]] = []
    by_repository: defaultdict[str, list[StoredQuestion]] = defaultdict(list)
    for row in question_rows(file, limit):
        by_repository[repositories[row]] += read_questions(file, row, tokenizer)
    for facts in file.header.repositories:
        asked = by_repository.pop(facts.name, [])
        with AnswerChecker(folders[facts.name], training_commit(facts)) as checker:
            checker.look_up([one.question for one in asked])
            for _, of_row in groupby(asked, key=lambda one: one.row):
                found += [(one, checker.check(one.question, one.answer, one.snippets)) for one in of_row]
                done()
    unknown = "its repository isn't in the header"
    found += [(one, AnswerVerdict("refuted", "", unknown)) for asked in by_repository.values() for one in asked]
    return sorted(found, key=lambda pair: pair[0].row)


def question_rows(file: SequenceFile, limit: int | None = None) -> list[int]:
    """Return the rows of kind qa, or `limit` of them."""
    rows = [row for row, kind in enumerate(file.column("kind")) if kind == "qa"]
    return sorted(sorted(rows, key=lambda row: hashing.seeded_int("check", row))[:limit])
