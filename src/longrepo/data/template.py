"""The formats of sequences and prompts, and the builder they are written into. The only place that knows the formats.

Files, commit chains and questions:

<|FILE_START|> path
 code <|FILE_END|> … <|endoftext|>
<|FILE_START|> path
 file as it was <|FILE_END|><|COMMIT_START|> id8 message
 hunks <|COMMIT_END|> … <|endoftext|>
<|SNIPPET_0|> path
 code …
QUESTION: …
ANSWER: …
QUESTION: … <|endoftext|>

Fill-in-the-middle has the base's own marks and orders (`longrepo.data.dialects`), so that tuning keeps the editor's
completion ability: in StarCoder2's tokens `<fim_prefix>` prefix `<fim_suffix>` suffix `<fim_middle>` middle, and as
often `<fim_prefix><fim_suffix>` suffix `<fim_middle>` prefix middle. The path comes before it.

Prompts have the order of training: other files, then the beginning of a file, or the text around a gap in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longrepo.data.dialects import FimIds, FimText
from longrepo.data.fim_spans import choose_fim_span
from longrepo.data.marks import COMMIT_END, COMMIT_START, FILE_END, FILE_START, SNIPPET_TOKENS
from longrepo.data.sequence import TARGET_WEIGHT, SequenceKind
from longrepo.data.stored_text import special_token_mask
from longrepo.data.text import Int32Array, TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.utils.hashing import seeded_uniform

LossWeights = float | NDArray[np.float32]


class SequencePart(NamedTuple):
    """Tokens `start`..`end` of a text, placed at token `at` of the sequence."""

    of: TokenizedText
    start: int
    end: int
    at: int
    target: bool


@dataclass
class SequenceBuilder:
    """A sequence being written: slices of texts and the marks between them, made into arrays only by `arrays`.

    `roles` counts tokens: target, context, structure.
    """

    tokenizer: RepoTokenizer
    parts: list[SequencePart] = field(default_factory=list)
    roles: Counter[str] = field(default_factory=Counter)
    _pieces: list[Int32Array] = field(default_factory=list)
    _weights: list[LossWeights] = field(default_factory=list)
    _length: int = 0
    _end_weight: float = 0.0  # of what has ended without a mark
    _cut: bool = False  # whether the last text ends where its file or change goes on

    def __len__(self) -> int:
        return self._length

    def mark(self, place: str, weight: float) -> None:
        """Append the mark of a place. Where a layout has none for an end, the next mark says it, at that weight."""
        ids = self.tokenizer.marks.at(place, first=self._length <= (self.tokenizer.begin_id is not None))
        if place in (FILE_END, COMMIT_END) and not len(ids):
            self._end_weight = max(self._end_weight, weight)
            return
        if self._end_weight > weight:
            self.plain(ids[:1], self._end_weight)
            ids = ids[1:]
        self._end_weight = 0.0
        self.plain(ids, weight)

    def stop(self, place: str, weight: float, whole: bool) -> None:
        """End a file or a change: with the mark of `place`, or without one if it isn't `whole`, as it goes on."""
        if whole:
            self.mark(place, weight)
            return
        if self.tokenizer.marks.ends_part_files:
            self.mark(place, 0.0)
        self.cut()

    def cut(self) -> None:
        """Say that the last text is cut: nothing ends there, so what is appended next has no weight."""
        self._cut = True

    def plain(self, ids: Int32Array, weight: float) -> None:
        """Append tokens of the sequence's structure (marks, paths, labels); behind a cut they have no weight."""
        if len(ids):
            weight, self._cut = 0.0 if self._cut else weight, False
        self._add(ids, weight, "structure")

    def text(self, of: TokenizedText, start: int, end: int, weight: LossWeights, target: bool) -> None:
        """Append tokens start..end of a text, with one weight for all or one for each; `target`: they count as used."""
        if start < end:
            self.parts.append(SequencePart(of, start, end, self._length, target))
            self._add(of.ids[start:end], weight, "target" if target else "context")

    def retokenized(self, of: TokenizedText, start: int, end: int, ids: Int32Array, weight: float) -> None:
        """Append tokens start..end of a text as the tokens `ids`; as many of them count as used as the text has."""
        if start < end:
            self.parts.append(SequencePart(of, start, end, self._length, True))
        self._add(ids, weight, "target")
        self.roles["target"] -= len(ids) - (end - start)
        self.roles["structure"] += len(ids) - (end - start)

    def end(self, weight: float = TARGET_WEIGHT) -> None:
        """Append the end token, without weight if the last text is cut; call it once, last."""
        self.plain(self.tokenizer.end_ids, weight)

    def _add(self, ids: Int32Array, weight: LossWeights, role: str) -> None:
        self._pieces.append(ids)
        self._weights.append(weight)
        self._length += len(ids)
        self.roles[role] += len(ids)

    def arrays(self) -> tuple[Int32Array, NDArray[np.float32]]:
        """Return token ids and loss weights, `[tokens]` each; nothing predicts the first token, so its weight is 0."""
        ids = np.concatenate([np.zeros(0, np.int32), *self._pieces])
        each = [0.0 if isinstance(weight, np.ndarray) else weight for weight in self._weights]
        sizes = [len(piece) for piece in self._pieces]
        weights = np.repeat(np.array(each, np.float32), sizes)
        at = 0
        for size, weight in zip(sizes, self._weights, strict=True):
            if isinstance(weight, np.ndarray):
                weights[at : at + size] = weight
            at += size
        weights[:1] = 0.0
        return ids, weights

    def target_tokens(self) -> int:
        """Return the number of tokens of full weight."""
        total, first = 0, True
        for piece, weight in zip(self._pieces, self._weights, strict=True):
            if isinstance(weight, np.ndarray):
                total += int(np.count_nonzero(weight == TARGET_WEIGHT)) - (first and weight[0] == TARGET_WEIGHT)
            elif weight == TARGET_WEIGHT:
                total += len(piece) - first
            first = first and not len(piece)
        return total


@dataclass(slots=True)
class BuiltSequence:
    """A finished sequence without its arrays. `score`, `parts` and the label `difficulty` are its difficulty."""

    builder: SequenceBuilder
    kind: SequenceKind
    split: str
    repository: str
    commits: tuple[str, ...] = ()
    score: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    difficulty: str = ""

    def __len__(self) -> int:
        return len(self.builder)

    @property
    def files(self) -> list[str]:
        """The distinct paths of its texts, in order."""
        return list(dict.fromkeys(part.of.path for part in self.builder.parts if part.of.path))

    @property
    def language(self) -> str:
        """The language of most of its target tokens, or of most of its tokens if there are no targets."""
        sizes = Counter[str]()
        for part in self.builder.parts:
            if part.of.path:
                sizes[part.of.language] += (part.end - part.start) * (100 if part.target else 1)
        return max(sorted(sizes), key=sizes.__getitem__) if sizes else "Other"


@dataclass(frozen=True, slots=True)
class FilePiece:
    """Tokens `start`..`end` of a file. `head`: token ranges shown before it as context: lines above that a later piece
    needs, or only the signatures of a file that doesn't fit (then `start` is `end`)."""

    of: TokenizedText
    start: int
    end: int
    head: tuple[tuple[int, int], ...] = ()
    target: bool = True

    @staticmethod
    def whole(of: TokenizedText, target: bool = True) -> FilePiece:
        """Return all of a file as one piece."""
        return FilePiece(of, 0, len(of), (), target)

    @property
    def ends(self) -> bool:
        """Whether the file ends with it."""
        return self.end == len(self.of) and self.of.ends

    @property
    def size(self) -> int:
        """The tokens of its text, head included."""
        return self.end - self.start + sum(end - start for start, end in self.head)


FIM_SPLIT_TOKENS = 8  # more tokens that a piece may take with its texts tokenized apart
_FIM_TRIES = 4
_FIM_SIDES: tuple[FimText | None, ...] = ("prefix", "suffix", None)
_FimParts = dict[FimText | None, tuple[int, int, Int32Array]]  # its tokens, and those in their place; None: the middle


def _fim_parts(tokenizer: RepoTokenizer, piece: FilePiece, key: str) -> _FimParts | None:
    """Return a piece's prefix, suffix and middle, each tokenized by itself, as the text on each side of a cursor is.
    None if the piece can't be cut, or would take more than FIM_SPLIT_TOKENS tokens beyond its own."""
    of = piece.of
    ends = [int(of.starts[at]) if at < len(of) else len(of.text) for at in (piece.start, piece.end)]
    for turn in range(_FIM_TRIES):
        span = choose_fim_span(of, piece.start, piece.end, f"{key}/{turn}" if turn else key)
        if span is None:
            return None
        parts: _FimParts = {}
        bounds = ((ends[0], span.start), (span.end, ends[1]), (span.start, span.end))
        for side, (low, high) in zip(_FIM_SIDES, bounds, strict=True):
            first, last = of.starts.searchsorted([low, high]).tolist()
            parts[side] = first, last, np.array(tokenizer.encode(of.text[low:high]), np.int32)
        if sum(len(ids) for *_, ids in parts.values()) <= piece.end - piece.start + FIM_SPLIT_TOKENS:
            return parts
    return None


def _write_fim(builder: SequenceBuilder, piece: FilePiece, parts: _FimParts, key: str, context: float) -> None:
    """Append the piece with its middle last; all of its tokens are scored, but not the marks between them: a prompt has
    them. The end of the middle is the base's own mark for it, else the sequence's end. `context`: the weight of the
    path where it belongs to the prefix."""
    fim = builder.tokenizer.fim
    assert fim is not None
    # Each order as often as the others, as in the training of the StarCoder models.
    order = fim.orders[-1 - int(seeded_uniform(key, "order") * len(fim.orders))]
    for id, following in fim.steps(order):
        builder.plain(np.array([id], np.int32), 0.0)
        if following == "prefix" and builder.tokenizer.marks.layout.path_in_fim:
            _write_path(builder, piece, context)
        if following is not None:
            builder.retokenized(piece.of, *parts[following], TARGET_WEIGHT)
    builder.retokenized(piece.of, *parts[None], TARGET_WEIGHT)
    if fim.end is not None:
        builder.plain(np.array([fim.end], np.int32), TARGET_WEIGHT)


@dataclass(frozen=True, slots=True)
class CommitStep:
    """One commit's change of one file: `of.text` is " id8 message\\n" and the hunks, `of.weights` one for each token.

    A step too long for a sequence is written in parts, `start`..`end`; the `message` tokens are repeated before a later
    part, as context, unless `repeats` says otherwise. A part that begins inside a hunk has an "@@" row of its own,
    `title`; `recounted`: tokens first..last of one whose hunk is cut below, and their new text. `blob`: the old file.
    """

    commit: str
    of: TokenizedText
    message: int
    blob: str
    start: int = 0
    end: int = -1
    repeats: bool = True
    title: str = ""
    recounted: tuple[int, int, str] | None = None

    @property
    def stop(self) -> int:
        """The end of its tokens."""
        return len(self.of) if self.end < 0 else self.end

    @property
    def ends(self) -> bool:
        """Whether the change ends with it."""
        return self.stop == len(self.of)

    @property
    def repeated(self) -> int:
        """The number of message tokens that are repeated."""
        return self.message if self.start and self.repeats else 0


@dataclass(frozen=True)
class TemplateSizes:
    """The number of tokens that the parts of a sequence take; `repository`: the name at its beginning."""

    tokenizer: RepoTokenizer
    repository: str = ""

    @property
    def head(self) -> int:
        """The size of the begin token and the repository's name."""
        return len(self._head)

    @property
    def ends(self) -> int:
        """The size of what comes before a sequence's first file, and of the end token."""
        return self.head + 1

    def begin(self) -> SequenceBuilder:
        """Return a sequence that begins with the base's begin token, if it has one, and the repository's name."""
        builder = SequenceBuilder(self.tokenizer)
        builder.plain(self._head, 0.0)
        return builder

    @cached_property
    def _head(self) -> Int32Array:
        begin = [] if self.tokenizer.begin_id is None else [self.tokenizer.begin_id]
        return np.concatenate([np.array(begin, np.int32), self.tokenizer.marks.repository(self.repository)])

    def file(self, piece: FilePiece) -> int:
        """Return the size of a file's piece with its marks, path and head."""
        return self.frame(piece.of) + piece.size - self._unmarked(FILE_END, piece.ends)

    def frame(self, of: TokenizedText) -> int:
        """Return the size of a file's marks and path."""
        return self._file + len(of.path_ids)

    def path_frame(self, path_ids: Int32Array) -> int:
        """Return the size of the marks and a path's tokens."""
        return self._file + len(path_ids)

    def step(self, step: CommitStep) -> int:
        """Return the size of a commit's step with its marks and the repeated message."""
        frame = self._step - self._unmarked(COMMIT_END, step.ends)
        frame += len(_hunks_mark(self.tokenizer, step)) + len(encode_text(self.tokenizer, step.title))
        if step.recounted:
            first, last, text = step.recounted
            frame += len(encode_text(self.tokenizer, text)) - (last - first)
        return frame + step.repeated + step.stop - step.start

    def snippet(self, number: int, piece: FilePiece) -> int:
        """Return the size of a snippet with its mark and path."""
        return self.marks(SNIPPET_TOKENS[number]) + len(piece.of.path_ids) + piece.end - piece.start

    def marks(self, *names: str) -> int:
        """Return the size of the marks of places."""
        return sum(len(self.tokenizer.marks.at(name)) for name in names)

    def _unmarked(self, place: str, whole: bool) -> int:
        """Return the size of the mark that isn't written where a text is cut."""
        return 0 if whole or self.tokenizer.marks.ends_part_files else self.marks(place)

    @cached_property
    def _file(self) -> int:
        return self.marks(FILE_START, FILE_END)

    @cached_property
    def _step(self) -> int:
        return self.marks(COMMIT_START, COMMIT_END)


def write_file(builder: SequenceBuilder, piece: FilePiece, context: float, fim_key: str | None = None) -> bool:
    """Append a file's piece, as fill-in-the-middle if there is a `fim_key` and the piece can be cut; return whether it
    was. Then it must be the sequence's last."""
    builder.mark(FILE_START, context)
    tokenizer = builder.tokenizer
    parts = _fim_parts(tokenizer, piece, fim_key) if fim_key is not None and tokenizer.fim else None
    if parts is None or not tokenizer.marks.layout.path_in_fim:
        _write_path(builder, piece, context)
    if parts is not None and fim_key is not None:
        _write_fim(builder, piece, parts, fim_key, context)
        return True
    builder.text(piece.of, piece.start, piece.end, TARGET_WEIGHT if piece.target else context, piece.target)
    builder.stop(FILE_END, TARGET_WEIGHT if piece.target else context, piece.ends)
    return False


def _write_path(builder: SequenceBuilder, piece: FilePiece, weight: float) -> None:
    """Append what comes before a piece's text: the path, and the lines shown from above."""
    builder.plain(piece.of.path_ids, weight)
    for start, end in piece.head:
        builder.text(piece.of, start, end, weight, False)


def write_step(builder: SequenceBuilder, step: CommitStep, context: float) -> None:
    """Append a commit's step."""
    assert step.of.weights is not None
    middle = min(max(step.start, step.message), step.stop)
    builder.mark(COMMIT_START, context)
    builder.text(step.of, 0, step.repeated, context, False)
    builder.text(step.of, step.start, middle, step.of.weights[step.start : middle], True)
    builder.plain(_hunks_mark(builder.tokenizer, step), context)
    builder.plain(encode_text(builder.tokenizer, step.title), context)
    if step.recounted:
        first, last, counts = step.recounted
        builder.text(step.of, middle, first, step.of.weights[middle:first], True)
        builder.retokenized(step.of, first, last, encode_text(builder.tokenizer, counts), context)
        middle = last
    builder.text(step.of, middle, step.stop, step.of.weights[middle : step.stop], True)
    builder.stop(COMMIT_END, TARGET_WEIGHT, step.ends)


def _hunks_mark(tokenizer: RepoTokenizer, step: CommitStep) -> Int32Array:
    """Return what stands between a step's message and its hunks; nothing if it holds only one of them."""
    both = 0 < step.message < step.stop and (step.repeated or step.start < step.message)
    return tokenizer.marks.hunks(step.of.path_ids if both else None)


@lru_cache(maxsize=1 << 15)  # a question is asked at several lengths
def encode_text(tokenizer: RepoTokenizer, text: str) -> Int32Array:
    """Return the tokens of a short text."""
    return np.array(tokenizer.encode(text), np.int32)


def question_ids(tokenizer: RepoTokenizer, question: str) -> Int32Array:
    """Return the tokens of a question with its labels."""
    return encode_text(tokenizer, f"\nQUESTION: {question}\nANSWER:")


AskedPair = tuple[Int32Array, TokenizedText]  # a question with its labels, and its answer


def write_questions(
    builder: SequenceBuilder, snippets: Sequence[FilePiece], asked: Sequence[AskedPair], context: float
) -> None:
    """Append snippets, numbered from 0, then each question and its answer. Only answers have full weight, and what ends
    them: the line break before the next question."""
    for index, piece in enumerate(snippets):
        builder.mark(SNIPPET_TOKENS[index], context)
        builder.plain(piece.of.path_ids, context)
        builder.text(piece.of, piece.start, piece.end, context, False)
        if not piece.ends:
            builder.cut()
    for number, (question, answer) in enumerate(asked):
        builder.plain(question[:1], TARGET_WEIGHT if number else context)
        builder.plain(question[1:], context)
        builder.text(answer, 0, len(answer), TARGET_WEIGHT, True)


_MIN_PIECE_TOKENS = 32  # a shorter piece of another file isn't worth its frame


def fit_pieces(pieces: Iterable[FilePiece], room: int, sizes: TemplateSizes) -> list[FilePiece]:
    """Return as much of the pieces, in order, as fits into `room` tokens with their frames; the last ones are cut."""
    chosen: list[FilePiece] = []
    for piece in pieces:
        free = room - sizes.frame(piece.of)
        if free < _MIN_PIECE_TOKENS:
            if room < _MIN_PIECE_TOKENS + 8:
                break
            continue
        end = piece.end if piece.size <= free else piece.of.cut_in(piece.start, piece.start + free, free // 2)[0]
        chosen.append(FilePiece(piece.of, piece.start, end, (), False))
        room -= sizes.file(chosen[-1])
    return chosen


def write_context_files(builder: SequenceBuilder, nearest_first: Sequence[FilePiece]) -> None:
    """Append other files, the first of them last, so that it is next to what follows."""
    for piece in reversed(nearest_first):
        write_file(builder, piece, 0.0)


def write_file_prefix(builder: SequenceBuilder, before: FilePiece) -> None:
    """Append a file's path and its text up to the place to continue."""
    builder.mark(FILE_START, 0.0)
    builder.plain(before.of.path_ids, 0.0)
    builder.text(before.of, before.start, before.end, 0.0, False)


def write_file_gap(builder: SequenceBuilder, before: FilePiece, after: FilePiece, fim: FimIds) -> None:
    """Append a file's path and its text before and after a gap; the text that fills the gap comes next."""
    texts: dict[FimText, FilePiece] = {"prefix": before, "suffix": after}
    in_fim = builder.tokenizer.marks.layout.path_in_fim
    builder.mark(FILE_START, 0.0)
    builder.plain(before.of.path_ids[: 0 if in_fim else None], 0.0)
    for id, following in fim.steps(fim.orders[0]):
        builder.plain(np.array([id], np.int32), 0.0)
        if following == "prefix" and in_fim:
            builder.plain(before.of.path_ids, 0.0)
        if following is not None:
            builder.text(texts[following].of, texts[following].start, texts[following].end, 0.0, False)


def piece_from(of: TokenizedText, start: int, room: int) -> FilePiece:
    """Return at most `room` tokens of a text from token `start` on."""
    end = of.cut_in(start, start + room)[0] if len(of) - start > room else len(of)
    return FilePiece(of, start, end, (), False)


def completion_text(tokenizer: RepoTokenizer, ids: Sequence[int]) -> str:
    """Return the text of generated tokens up to the first special token: the end of the file ends a completion."""
    text_ids = completion_ids(tokenizer)
    return tokenizer.decode(ids[: next((at for at, id in enumerate(ids) if id not in text_ids), len(ids))])


@lru_cache(maxsize=4)
def completion_ids(tokenizer: RepoTokenizer) -> frozenset[int]:
    """Return the ids that a completion may have: those that are text, without any special token of the base."""
    return frozenset(np.flatnonzero(~special_token_mask(tokenizer)).tolist()) - tokenizer.special_ids
