"""Questions whose answer is read from the syntax tree or from git, never guessed.

Each names the snippet that must be shown (`needs`): for "where is X defined" the piece of the file that defines it. A
question is dropped where the repository gives it no single answer, or where it would answer itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

from longrepo.repository.imports.graph import ImportGraph
from longrepo.sequences import chance
from longrepo.sequences.questions.files import FILE_KINDS
from longrepo.sequences.questions.kind import Question
from longrepo.sequences.questions.names import NAME_KINDS
from longrepo.sequences.questions.relations import RELATION_KINDS
from longrepo.sequences.questions.sources import Book, ChangeFact, LeftOut, Source, left_out

__all__ = ["ChangeFact", "LeftOut", "Question", "Source", "left_out", "questions"]

KINDS = (*NAME_KINDS, *RELATION_KINDS, *FILE_KINDS)
_LONGEST = 220  # characters of an answer, about 60 tokens
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]+>")


def questions(
    sources: Iterable[Source],
    graph: ImportGraph,
    changes: Iterable[ChangeFact],
    seed: int,
    limit: int | None = None,
    outside: LeftOut | None = None,
) -> tuple[list[Question], Counter[str]]:
    """Questions on training files and changes, the kinds taking turns, at most `limit` a kind; and what was dropped,
    by reason. `outside`: the files of the same commit that aren't among the sources (`left_out` reads them); what
    they might answer differently isn't asked."""
    dropped: Counter[str] = Counter()
    book = Book(sources, graph, changes, outside or LeftOut(), dropped)
    by_kind: list[list[Question]] = []
    draw = cache(lambda about: chance.number(seed, about))
    for kind in KINDS:
        found: list[Question] = []
        turn = chance.number(seed, kind.name)  # one draw a subject, in another order for each kind
        for about in sorted(kind.subjects(book), key=lambda one: (draw(one) ^ turn, one)):
            if limit is not None and len(found) >= limit:
                break
            made = kind.ask(book, about)
            reason = made if isinstance(made, str) else _unfit(made)
            if isinstance(made, Question) and not reason:
                found.append(made)
            else:
                dropped[reason] += 1
        by_kind.append(found)
    turns = max(map(len, by_kind))
    return [found[turn] for turn in range(turns) for found in by_kind if turn < len(found)], dropped


def _unfit(question: Question) -> str:
    """Why a question isn't asked, whatever its kind; "" if it is."""
    if len(question.answer) > _LONGEST:
        return "answer too long"
    if _PLACEHOLDER.search(question.answer) or "\n" in question.answer + question.text:
        return "answer holds what was redacted"
    return ""
