"""What training shows, read back from its rows: nothing of it is measured as new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from longrepo.sequences.lines import line_hash
from longrepo.sequences.shown import Shown
from longrepo.sequences.store import SequenceFile
from longrepo.sequences.stored_text import StoredText
from longrepo.sequences.text import TokenizedText
from longrepo.sequences.tokenizer import RepoTokenizer

_QUESTION = "QUESTION: "


@dataclass(frozen=True)
class Seen:
    """`shown`: all texts; `asked`: the questions."""

    shown: Shown
    asked: frozenset[str]


def seen_by(file: SequenceFile, tokenizer: RepoTokenizer, done: Callable[[], None] = lambda: None) -> Seen:
    """All that the training rows of a file show; `done` is called once a row of the file."""
    asked: set[str] = set()
    return Seen(Shown(tokenizer, _texts(file, StoredText(tokenizer), asked, done)), frozenset(asked))


def _texts(
    file: SequenceFile, stored: StoredText, asked: set[str], done: Callable[[], None]
) -> Iterator[TokenizedText]:
    kinds = file.column("kind")
    for row, split in enumerate(file.column("split")):
        done()
        if split != "train":
            continue
        ids = file.tokens(row)
        said: list[str] = []
        for line in stored.lines(ids, kinds[row]):
            said.append(line.text)
            if line.in_commit:
                said.append(line.text[1:])  # without its sign
            if kinds[row] == "qa" and line.text.startswith(_QUESTION):
                asked.add(line.text.removeprefix(_QUESTION))
        hashes = np.array([line_hash(text) for text in said], np.uint64)
        yield TokenizedText("", "Other", "", ids, np.zeros(0, np.int32), row_hashes=hashes)
