"""The three formats, written into a draft: files, commit chains, questions. The one place that knows them.

<|FILE_START|> path\\n code <|FILE_END|> … <|endoftext|>
<|FILE_START|> path\\n file as it was <|FILE_END|><|COMMIT_START|> id8 message\\n hunks <|COMMIT_END|> … <|endoftext|>
<|SNIPPET_0|> path\\n code … \\nQUESTION: …\\nANSWER: … <|endoftext|>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from longrepo.sequences import fim
from longrepo.sequences.draft import Draft, mark_size
from longrepo.sequences.sequence import TARGET_WEIGHT
from longrepo.sequences.text import Numbers, TokenizedText, path_tokens
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.tokens import COMMIT_END, COMMIT_START, FILE_END, FILE_START, SNIPPETS


@dataclass(frozen=True, slots=True)
class FilePiece:
    """Tokens `start`..`end` of a file; `head` are token ranges before it, shown as context: what a later piece needs
    of what stands above it, or the signatures alone of a file that doesn't fit (then `start` is `end`)."""

    of: TokenizedText
    start: int
    end: int
    head: tuple[tuple[int, int], ...] = ()
    target: bool = True

    @staticmethod
    def whole(of: TokenizedText, target: bool = True) -> FilePiece:
        """All of a file."""
        return FilePiece(of, 0, len(of), (), target)

    @property
    def size(self) -> int:
        """Tokens of its text, the head included."""
        return self.end - self.start + sum(end - start for start, end in self.head)


@dataclass(frozen=True, slots=True)
class Step:
    """What one commit did to one file: `of.text` is " id8 message\\n" and the hunks, `of.weights` one a token.

    A step too long for a sequence is written in parts, `start`..`end`; `message` tokens are repeated before a later
    part, as context. `blob` is the file as it was before, `row` where in it the first hunk begins.
    """

    commit: str
    of: TokenizedText
    message: int
    blob: str
    row: int
    start: int = 0
    end: int = -1

    @property
    def stop(self) -> int:
        """One beyond the last token."""
        return len(self.of) if self.end < 0 else self.end

    @property
    def repeated(self) -> int:
        """Tokens of the message that are repeated."""
        return self.message if self.start else 0


@dataclass(frozen=True)
class Sizes:
    """How many tokens each part of a format takes beside the text."""

    tokenizer: RepoTokenizer

    def file(self, piece: FilePiece) -> int:
        """A file's piece with its marks, path and head."""
        return self._file + len(piece.of.path_ids) + piece.size

    def frame(self, of: TokenizedText) -> int:
        """Marks and path of a file."""
        return self._file + len(of.path_ids)

    def path_frame(self, path: str) -> int:
        """Marks and path of a file by its path."""
        return self._file + len(path_tokens(self.tokenizer, path))

    def step(self, step: Step) -> int:
        """A commit's step with its marks and the repeated message."""
        return self._step + step.repeated + step.stop - step.start

    def snippet(self, number: int, piece: FilePiece) -> int:
        """A snippet with its mark and path."""
        return self.marks(SNIPPETS[number]) + len(piece.of.path_ids) + piece.end - piece.start

    def marks(self, *names: str) -> int:
        """Structure tokens (or their names as text)."""
        return sum(mark_size(self.tokenizer, name) for name in names)

    @cached_property
    def _file(self) -> int:
        return self.marks(FILE_START, FILE_END)

    @cached_property
    def _step(self) -> int:
        return self.marks(COMMIT_START, COMMIT_END)


def write_file(draft: Draft, piece: FilePiece, context: float, fim_key: str | None = None) -> bool:
    """Append a file's piece; where `fim_key` is given and the piece can be cut, as fill-in-the-middle. Says whether."""
    draft.mark(FILE_START, context)
    draft.plain(piece.of.path_ids, context)
    middle = fim.middle_of(piece.of, piece.start, piece.end, fim_key) if fim_key is not None else None
    for start, end in piece.head:
        draft.text(piece.of, start, end, context, False)
    if middle is not None and fim_key is not None:
        fim.write(draft, piece.of, (piece.start, piece.end), middle, fim_key, context)
    else:
        draft.text(piece.of, piece.start, piece.end, TARGET_WEIGHT if piece.target else context, piece.target)
    draft.mark(FILE_END, TARGET_WEIGHT if piece.target else context)
    return middle is not None


def write_step(draft: Draft, step: Step, context: float) -> None:
    """Append a commit's step."""
    assert step.of.weights is not None
    draft.mark(COMMIT_START, context)
    draft.text(step.of, 0, step.repeated, context, False)
    draft.text(step.of, step.start, step.stop, step.of.weights[step.start : step.stop], True)
    draft.mark(COMMIT_END, TARGET_WEIGHT)


@lru_cache(maxsize=1 << 15)  # a question is asked at several lengths
def encoded(tokenizer: RepoTokenizer, text: str) -> Numbers:
    """The tokens of a short text."""
    return np.array(tokenizer.encode(text), np.int32)


def question_ids(tokenizer: RepoTokenizer, question: str) -> Numbers:
    """The tokens of a question with its labels."""
    return encoded(tokenizer, f"\nQUESTION: {question}\nANSWER:")


def write_question(
    draft: Draft, snippets: Sequence[FilePiece], question: Numbers, answer: TokenizedText, context: float
) -> None:
    """Append snippets, numbered from 0, then the question and its answer; only the answer has full weight."""
    for number, piece in enumerate(snippets):
        draft.mark(SNIPPETS[number], context)
        draft.plain(piece.of.path_ids, context)
        draft.text(piece.of, piece.start, piece.end, context, False)
    draft.plain(question, context)
    draft.text(answer, 0, len(answer), TARGET_WEIGHT, True)
