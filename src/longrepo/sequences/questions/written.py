"""Questions behind the snippets that answer them, filled to a phase's lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from longrepo.sequences import chance
from longrepo.sequences.analysis import inline_text
from longrepo.sequences.compose import FilePiece, Sizes, encoded, question_ids, write_question
from longrepo.sequences.draft import Draft
from longrepo.sequences.lengths import Band
from longrepo.sequences.questions.generate import Question
from longrepo.sequences.text import Numbers, TokenizedText
from longrepo.sequences.tokens import SNIPPETS

_SNIPPETS_WANTED = {1: 4, 2: 6, 3: 8}  # by phase: each then has a few hundred tokens
_LEAST_SNIPPET = 32  # tokens


class QuestionWriter:
    """Shows what a question needs among related snippets, never next to the question itself."""

    def __init__(
        self,
        sizes: Sizes,
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
        self._snippet_size = max(self._sizes.marks(name) for name in SNIPPETS)
        self.dropped: Counter[str] = Counter()

    def write(self, question: Question, band: Band) -> Draft | None:
        """The draft; None, and counted by reason, where it can't be asked."""
        key = (self._seed, band.phase, question.kind, question.text)
        asked = question_ids(self._tokenizer, question.text)
        longest = self._answer_ids(question, SNIPPETS[-1])
        room = band.cap - 1 - len(asked) - len(longest)
        wanted = _SNIPPETS_WANTED.get(band.phase, 8)
        needed = [self._piece(path, at, room // max(wanted, len(question.needs) + 1)) for path, at in question.needs]
        pieces = [piece for piece in needed if piece is not None]
        if len(pieces) < len(question.needs) or len(pieces) >= len(SNIPPETS):
            self.dropped["what it is about is not among the training files"] += 1
            return None
        room -= sum(self._sizes.snippet(0, piece) for piece in pieces)
        others = self._others(question, room, room // max(1, wanted - len(pieces)), len(SNIPPETS) - len(pieces))
        if not others:
            self.dropped["no other snippet to stand between answer and question"] += 1
            return None
        last = others.pop(0)  # the nearest relation: a good decoy next to the question
        if self._gives_away(last, question):
            self.dropped["the adjacent snippet answers it"] += 1
            return None
        shown = [*pieces, *others]
        shown.sort(key=lambda piece: chance.number(*key, piece.of.path, piece.start))
        shown.append(last)
        ids = self._answer_ids(question, SNIPPETS[shown.index(pieces[0])])
        answer = inline_text(f"{question.text} {question.answer}", ids)  # its names: those asked about and answered
        draft = Draft(self._tokenizer)
        write_question(draft, shown, asked, answer, self._context)
        draft.end()
        if len(draft) <= band.floor:
            self.dropped["too little text to fill this length"] += 1
            return None
        return draft

    def _answer_ids(self, question: Question, snippet: str) -> Numbers:
        """The answer with a snippet's name as its token, if the tokenizer has it."""
        before, mark, after = question.answer.partition("{snippet}")
        ids = [encoded(self._tokenizer, f" {before}".rstrip(" ") if mark else f" {before}")]
        if mark:
            ids.append(self._tokenizer.mark_ids(snippet))
        if after:
            ids.append(encoded(self._tokenizer, after))
        return np.concatenate(ids)

    def _piece(self, path: str, at: int, size: int) -> FilePiece | None:
        """The piece of a file that holds a character, in at most `size` tokens with its mark and path."""
        of = self._texts.get(path)
        if of is None or not len(of):
            return None
        room = size - self._snippet_size - len(of.path_ids)
        if room < _LEAST_SNIPPET:
            return None
        if len(of) <= room:
            return FilePiece.whole(of, target=False)
        token = of.token_at(at)
        before: list[int] = of.cuts[: of.cuts.searchsorted(token, "right")].tolist()
        start = next((cut for cut in before if token - cut < room // 2), of.start_in(token, room // 2) if token else 0)
        return FilePiece(of, start, of.cut_in(start, min(len(of), start + room), token - start + 1)[0], (), False)

    def _others(self, question: Question, room: int, size: int, most: int) -> list[FilePiece]:
        """Related pieces that fill `room` tokens, nearest first."""
        asked_about = {path for path, _ in question.needs}
        found: list[FilePiece] = []
        for path in self._related(question.needs[0][0]):
            if len(found) == most or room < _LEAST_SNIPPET:
                break
            if path in asked_about or path not in self._texts:
                continue
            of = self._texts[path]
            start = int(of.cuts[chance.number(self._seed, question.text, path) % len(of.cuts)]) if len(of.cuts) else 0
            start = start if len(of) - start >= size // 2 else 0
            frame = self._snippet_size + len(of.path_ids)
            last_one = len(found) == most - 1
            limit = min(len(of), start + (room if last_one else min(room, max(size, _LEAST_SNIPPET))) - frame)
            if limit - start < _LEAST_SNIPPET:
                continue
            end = limit if limit == len(of) else of.cut_in(start, limit, (limit - start) // 2)[0]
            found.append(FilePiece(of, start, end, (), False))
            room -= self._sizes.snippet(0, found[-1])
        return found

    def _gives_away(self, piece: FilePiece, question: Question) -> bool:
        text = piece.of.slice_text(piece.start, piece.end)
        return question.answer.partition(", in {snippet}")[0] in text
