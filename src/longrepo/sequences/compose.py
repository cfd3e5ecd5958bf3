"""The three formats, written into a draft: files, commit chains, questions. The one place that knows them.

<|FILE_START|> path\\n code <|FILE_END|> … <|endoftext|>
<|FILE_START|> path\\n file as it was <|FILE_END|><|COMMIT_START|> id8 message\\n hunks <|COMMIT_END|> … <|endoftext|>
<|SNIPPET_0|> path\\n code … \\nQUESTION: …\\nANSWER: … <|endoftext|>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longrepo.sequences import fim
from longrepo.sequences.draft import Draft, Part, mark_size
from longrepo.sequences.hunks import hunk_rows
from longrepo.sequences.sequence import TARGET_WEIGHT
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.tokens import COMMIT_END, COMMIT_START, FILE_END, FILE_START, SNIPPETS


@dataclass(frozen=True)
class FilePiece:
    """Tokens `start`..`end` of a file; `head` are token ranges from above it, repeated as context before it."""

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
    def head_tokens(self) -> int:
        """Tokens of the repeated head."""
        return sum(end - start for start, end in self.head)


@dataclass(frozen=True)
class Step:
    """What one commit did to one file: `of.text` is " id8 message\\n" and the hunks, `weights` one a token.

    A step too long for a sequence is written in parts, `start`..`end`; `message` tokens are repeated before a later
    part, as context.
    """

    commit: str
    of: TokenizedText
    weights: tuple[float, ...]
    message: int
    first_row: int  # of the file as it was before, where its first hunk begins
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
        return self.frame(piece.of) + piece.head_tokens + piece.end - piece.start

    def frame(self, of: TokenizedText) -> int:
        """Marks and path of a file."""
        return self.marks(FILE_START, FILE_END) + len(of.path_ids)

    def step(self, step: Step) -> int:
        """A commit's step with its marks and the repeated message."""
        return self.marks(COMMIT_START, COMMIT_END) + step.repeated + step.stop - step.start

    def snippet(self, number: int, piece: FilePiece) -> int:
        """A snippet with its mark and path."""
        return self.marks(SNIPPETS[number]) + len(piece.of.path_ids) + piece.end - piece.start

    def marks(self, *names: str) -> int:
        """Structure tokens (or their names as text)."""
        return sum(mark_size(self.tokenizer, name) for name in names)


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


def step_text(commit: str, message: str, before: str, after: str) -> str:
    """The text of a step; empty where the commit did not change the text."""
    rows = hunk_rows(before, after)
    return f" {commit[:8]} {message.strip()}\n" + "\n".join(rows) + "\n" if rows else ""


def make_step(commit: str, message: str, of: TokenizedText, context: float) -> Step:
    """A tokenized step with its weights: message and added rows 1.0, the rest `context`."""
    hash_end = len(f" {commit[:8]} ")
    rows_at = len(f" {commit[:8]} {message.strip()}\n")
    bounds, weights = [0, hash_end], [context, TARGET_WEIGHT]
    at, first_row = rows_at, 0
    for row in of.text[rows_at:].split("\n"):
        if not first_row and row.startswith("@@"):
            first_row = int(row[4:].split(",")[0])
        bounds.append(at)
        weights.append(TARGET_WEIGHT if row.startswith("+") else context)
        at += len(row) + 1
    per_token = np.array(weights)[np.searchsorted(bounds, of.starts, side="right") - 1]
    return Step(commit, of, tuple(per_token.tolist()), of.token_at(rows_at), max(0, first_row - 1))


def write_step(draft: Draft, step: Step, context: float) -> None:
    """Append a commit's step."""
    draft.mark(COMMIT_START, context)
    draft.text(step.of, 0, step.repeated, context, False)
    draft.text(step.of, step.start, step.stop, step.weights[step.start : step.stop], True)
    draft.mark(COMMIT_END, TARGET_WEIGHT)


def question_ids(tokenizer: RepoTokenizer, question: str, answer: str) -> tuple[list[int], list[int]]:
    """The tokens of the question with its labels, and of the answer."""
    return tokenizer.encode(f"\nQUESTION: {question}\nANSWER:"), tokenizer.encode(f" {answer}")


def write_question(
    draft: Draft, snippets: Sequence[FilePiece], question: list[int], answer: list[int], context: float
) -> None:
    """Append snippets, numbered from 0, then the question and its answer; only the answer has full weight."""
    for number, piece in enumerate(snippets):
        draft.mark(SNIPPETS[number], context)
        draft.plain(piece.of.path_ids, context)
        draft.text(piece.of, piece.start, piece.end, context, False)
    draft.plain(question, context)
    at = len(draft)
    draft.tokens.extend(answer)
    draft.weights.extend([TARGET_WEIGHT] * len(answer))
    draft.roles["target"] += len(answer)
    # Its difficulty is that of what is asked and answered; no file holds that, so it has no path.
    draft.parts.append(Part("", "Other", draft.tokenizer.decode([*question, *answer]), at, len(draft), True))
