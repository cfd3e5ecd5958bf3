"""Writes questions into sequences, and reads and checks the questions of a sequence file.

A question comes after the snippets that answer it and after related ones, which fill the phase's length.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from longrepo.data.template import FilePiece, SequenceBuilder, TemplateSizes, encode_text, question_ids, write_question
from longrepo.data.text import Int32Array, TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import InputError
from longrepo.utils import hashing

_SNIPPETS_WANTED = {1: 4, 2: 6, 3: 8}  # by phase; each snippet then has a few hundred tokens
_MIN_SNIPPET_TOKENS = 32


class QuestionWriter:
    """Writes a question after the snippets it needs and related ones; the snippet with the answer is never the last."""

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

    def write(self, question: Question, band: Band) -> SequenceBuilder | None:
        """Return the sequence; None, with the reason counted, if the question can't be asked."""
        key = (self._seed, band.phase, question.kind, question.text)
        asked = question_ids(self._tokenizer, question.text)
        longest = self._answer_ids(question, len(SNIPPET_TOKENS) - 1)
        room = band.cap - self._sizes.ends - len(asked) - len(longest)
        wanted = _SNIPPETS_WANTED.get(band.phase, 8)
        needed = [self._piece(path, at, room // max(wanted, len(question.needs) + 1)) for path, at in question.needs]
        pieces = [piece for piece in needed if piece is not None]
        if len(pieces) < len(question.needs) or len(pieces) >= len(SNIPPET_TOKENS):
            self.dropped["what it is about is not among the training files"] += 1
            return None
        room -= sum(self._sizes.snippet(0, piece) for piece in pieces)
        others = self._others(question, room, room // max(1, wanted - len(pieces)), len(SNIPPET_TOKENS) - len(pieces))
        if not others:
            self.dropped["no other snippet to stand between answer and question"] += 1
            return None
        last = others.pop(0)  # the most closely related file: a good distractor next to the question
        if self._gives_away(last, question):
            self.dropped["the adjacent snippet answers it"] += 1
            return None
        shown = [*pieces, *others]
        shown.sort(key=lambda piece: hashing.seeded_int(*key, piece.of.path, piece.start))
        shown.append(last)
        ids = self._answer_ids(question, shown.index(pieces[0]))
        answer = inline_text(f"{question.text} {question.answer}", ids)  # its names: in the question and the answer
        builder = self._sizes.begin()
        write_question(builder, shown, asked, answer, self._context)
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

    def _piece(self, path: str, at: int, size: int) -> FilePiece | None:
        """Return the piece of a file around a character, at most `size` tokens with its mark and path."""
        of = self._texts.get(path)
        if of is None or not len(of):
            return None
        room = size - self._snippet_size - len(of.path_ids)
        if room < _MIN_SNIPPET_TOKENS:
            return None
        if len(of) <= room:
            return FilePiece.whole(of, target=False)
        token = of.token_at(at)
        before: list[int] = of.cuts[: of.cuts.searchsorted(token, "right")].tolist()
        start = next((cut for cut in before if token - cut < room // 2), of.start_in(token, room // 2) if token else 0)
        return FilePiece(of, start, of.cut_in(start, min(len(of), start + room), token - start + 1)[0], (), False)

    def _others(self, question: Question, room: int, size: int, most: int) -> list[FilePiece]:
        """Return related pieces that fill `room` tokens, the most closely related first."""
        asked_about = {path for path, _ in question.needs}
        found: list[FilePiece] = []
        for path in self._related(question.needs[0][0]):
            if len(found) == most or room < _MIN_SNIPPET_TOKENS:
                break
            if path in asked_about or path not in self._texts:
                continue
            of = self._texts[path]
            start = (
                int(of.cuts[hashing.seeded_int(self._seed, question.text, path) % len(of.cuts)]) if len(of.cuts) else 0
            )
            start = start if len(of) - start >= size // 2 else 0
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


_QUESTION, _ANSWER = "\nQUESTION: ", "\nANSWER:"


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


def read_question(file: SequenceFile, row: int, tokenizer: RepoTokenizer) -> StoredQuestion:
    """Return the snippets, question and answer of a row of kind qa. Raises InputError if it has another format."""
    pieces = _split_snippets(file.tokens(row).tolist(), tokenizer)
    last = max((number for number, (_, text) in enumerate(pieces) if _ANSWER in text), default=-1)
    shown, _, asked = pieces[last][1].rpartition(_QUESTION)
    question, found, answer = asked.rpartition(_ANSWER)
    if last < 0 or not found:
        raise InputError(f"{file.path}: row {row} contains no question; prepare the sequences again")
    snippets: dict[int, tuple[str, str]] = {}
    for number, text in [*pieces[:last], (pieces[last][0], shown)]:
        if number is not None:
            path, _, code = text.partition("\n")
            snippets[number] = (path.strip(), code)
    rest = "".join(f" {SNIPPET_TOKENS[number or 0]}{text}" for number, text in pieces[last + 1 :])
    return StoredQuestion(
        row, question, " ".join(f"{answer}{rest}".removesuffix(_end_text(tokenizer)).split()), snippets
    )


def check_question_rows(
    file: SequenceFile,
    tokenizer: RepoTokenizer,
    folders: Mapping[str, Path],
    limit: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[tuple[StoredQuestion, AnswerVerdict]]:
    """Return the verdict on every question of the file, or on `limit` of them (always the same), by row."""
    repositories = file.column("repository")
    found: list[tuple[StoredQuestion, AnswerVerdict]] = []
    by_repository: defaultdict[str, list[StoredQuestion]] = defaultdict(list)
    for row in question_rows(file, limit):
        by_repository[repositories[row]].append(read_question(file, row, tokenizer))
    for facts in file.header.repositories:
        asked = by_repository.pop(facts.name, [])
        with AnswerChecker(folders[facts.name], training_commit(facts)) as checker:
            checker.look_up([one.question for one in asked])
            for one in asked:
                found.append((one, checker.check(one.question, one.answer, one.snippets)))
                done()
    unknown = "its repository isn't in the header"
    found += [(one, AnswerVerdict("refuted", "", unknown)) for asked in by_repository.values() for one in asked]
    return sorted(found, key=lambda pair: pair[0].row)


def question_rows(file: SequenceFile, limit: int | None = None) -> list[int]:
    """Return the rows of kind qa, or `limit` of them."""
    rows = [row for row, kind in enumerate(file.column("kind")) if kind == "qa"]
    return sorted(sorted(rows, key=lambda row: hashing.seeded_int("check", row))[:limit])


def _split_snippets(ids: list[int], tokenizer: RepoTokenizer) -> list[tuple[int | None, str]]:
    """Return (number of the snippet, text after its mark), beginning with the text before the first mark."""
    numbers = {
        tokenizer.structure_ids[name]: n for n, name in enumerate(SNIPPET_TOKENS) if name in tokenizer.structure_ids
    }
    if not numbers:  # the marks aren't single tokens
        begun = int(ids[:1] == [tokenizer.begin_id])
        marks = tokenizer.marks.snippet_pattern.split(tokenizer.decode(ids[begun:]))
        return [(None, marks[0]), *((int(n), text) for n, text in zip(marks[1::2], marks[2::2], strict=True))]
    cuts = [at for at, id in enumerate(ids) if id in numbers]
    pieces: list[tuple[int | None, str]] = [(None, tokenizer.decode(ids[: cuts[0]] if cuts else ids))]
    for start, stop in zip(cuts, [*cuts[1:], len(ids)], strict=True):
        pieces.append((numbers[ids[start]], tokenizer.decode(ids[start + 1 : stop])))
    return pieces


def _end_text(tokenizer: RepoTokenizer) -> str:
    return tokenizer.decode([tokenizer.end_id])
