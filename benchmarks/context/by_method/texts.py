"""What is tuned on and measured on: code of a repository, a part of its files held out, and planted names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rows import LENGTHS, TARGET

from longrepo.config.schema import Settings
from longrepo.data.marks import FILE_END, FILE_START
from longrepo.data.repo_tree import RepoTrees
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.repository.repository import Repository
from longrepo.utils import hashing
from longrepo.utils.cache import SqliteCache, cache_folder

WINDOWS, UPDATES = 6, 6  # texts measured on; texts tuned on, an update each
DEPTHS, DRAWS = (10, 50, 90), 2  # percent of the text before the needle; needles at each depth and length
BLOCK, TOLD = 64, 8  # tokens of a needle; those of its copy that say which one is asked for
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Needle:
    """Held-out text of `length` tokens, made-up names planted in it and standing again at its end."""

    length: int
    depth: int
    draw: int
    ids: Ids


@dataclass(frozen=True)
class Texts:
    """`tuning`, `held_out`: texts of `TARGET` tokens, files one after the other by their paths; no file is in both."""

    tokenizer: RepoTokenizer
    tuning: Sequence[Ids]
    held_out: Sequence[Ids]

    def needles(self) -> Iterator[Needle]:
        """At each length, depth and draw."""
        for length in LENGTHS:
            for depth in DEPTHS:
                for draw in range(DRAWS):
                    names = np.array(self.tokenizer.encode(_names(draw))[:BLOCK], np.int32)
                    text = self.held_out[draw % len(self.held_out)][-(length - 2 * BLOCK) :]
                    at = len(text) * depth // 100
                    yield Needle(length, depth, draw, np.concatenate([text[:at], names, text[at:], names]))


def _names(draw: int) -> str:
    """Names that nobody uses, a line each; more than fill a needle."""
    letters = np.array([list("bdfgklmnprstvz"), list("aeiou" + "aeiouaeio")])
    drawn = np.random.default_rng(draw).integers(0, letters.shape[1], (BLOCK, 6, 2))
    words = ["".join(letters[0][c] + letters[1][v] for c, v in word) for word in drawn]
    return "".join(f"{word[:6]}_{word[6:]}\n" for word in words)


def read_texts(folder: Path, commit: str, tokenizer: RepoTokenizer, settings: Settings) -> Texts:
    """Files are held out by chance until there are enough of them. Exits where there is too little code."""
    cache = SqliteCache(cache_folder())
    trees = RepoTrees(Repository.open(folder), commit, tokenizer, settings, cache)
    try:
        code = [text for text in trees.at(commit).texts.values() if text.language not in PROSE_LANGUAGES]
    finally:
        trees.close()
        cache.close()
    code.sort(key=lambda text: hashing.seeded_int("context", text.path))
    needed, held_out = WINDOWS * TARGET, list[TokenizedText]()
    while code and sum(map(len, held_out)) < needed:
        held_out.append(code.pop())
    tuning = _cut(code, tokenizer)
    if len(tuning) < UPDATES:
        raise SystemExit(f"{folder}: too little code: {WINDOWS + UPDATES} texts of {TARGET:,} tokens are needed")
    tuning.sort(key=lambda ids: hashing.seeded_int("tuning", ids[:64].tobytes()))
    return Texts(tokenizer, tuning[:UPDATES], _cut(held_out, tokenizer)[:WINDOWS])


def _cut(texts: Sequence[TokenizedText], tokenizer: RepoTokenizer) -> list[Ids]:
    pieces = [np.zeros(0, np.int32)]
    for text in sorted(texts, key=lambda one: one.path):
        pieces += [tokenizer.marks.at(FILE_START), text.path_ids, text.ids, tokenizer.marks.at(FILE_END)]
    stream = np.concatenate(pieces)
    return list(stream[: len(stream) // TARGET * TARGET].reshape(-1, TARGET))
