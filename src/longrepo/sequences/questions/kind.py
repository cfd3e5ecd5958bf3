"""What a question is, and what a kind of question has to offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from longrepo.sequences.questions.sources import Book


@dataclass(frozen=True)
class Question:
    """`needs`: (path, character) pairs that the shown pieces must hold, the one with the answer first. `answer` holds
    `{snippet}` where the number of the snippet with the answer goes."""

    kind: str
    text: str
    answer: str
    needs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Kind:
    """`subjects`: the names, paths or commit ids that this kind could ask about; `ask`: the question about one of
    them, or the reason why there is none."""

    name: str
    subjects: Callable[[Book], Iterable[str]]
    ask: Callable[[Book, str], Question | str]
