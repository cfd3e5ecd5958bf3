"""Training sequences: repository packs, fill-in-the-middle, changes, and the repetition curriculum.

Every sequence follows from its own random state, so a resumed run needs no sampler state. Packs are
`<repo_name>R<file_sep>path\\ncode<file_sep>…<|endoftext|>` with neighbours of one directory; the file at a
sequence's end is cut there. Documents are drawn with replacement.
"""

from __future__ import annotations

import bisect
import collections
import json
import random
from pathlib import Path, PurePosixPath

import numpy as np
from changes import change
from identifiers import Identifiers
from tokenizer import END, FILE_SEP, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, REPO_NAME
from tokenizers import Tokenizer

WEIGHTS = {
    "python": 0.30,
    "go": 0.12,
    "rust": 0.09,
    "java": 0.11,
    "kotlin": 0.02,
    "javascript": 0.13,
    "typescript": 0.09,
    "c": 0.09,
    "markdown": 0.04,
    "shell": 0.005,
    "config": 0.005,
}
FIM_SHARE, RENAME_SHARE, CHANGE_SHARE = 0.25, 0.15, 0.06


class Corpus:
    """Encoded documents of one split, drawn by language weight and length, with their directory neighbours."""

    def __init__(self, work: Path, split: str = "train") -> None:
        self.tokens = np.load(work / "tokens.npy", mmap_mode="r")
        self.rows = [row for row in json.loads((work / "index.json").read_text()) if row["split"] == split]
        self.tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True
        self.identifiers = Identifiers(self.tokenizer)
        self.folders: dict[tuple, list[int]] = collections.defaultdict(list)
        by_language: dict[str, list[int]] = collections.defaultdict(list)
        for number, row in enumerate(self.rows):
            self.folders[self.folder(row)].append(number)
            by_language[row["language"]].append(number)
        self.languages = {
            name: (numbers, list(np.cumsum([min(self.rows[n]["length"], 8000) for n in numbers])))
            for name, numbers in by_language.items()
        }

    @staticmethod
    def folder(row: dict) -> tuple:
        """What makes two documents neighbours."""
        return row["repository"], str(PurePosixPath(row["path"]).parent), row["language"]

    def document(self, number: int) -> list[int]:
        """Tokens of `path\\ntext`."""
        row = self.rows[number]
        return self.tokens[row["start"] : row["start"] + row["length"]].tolist()

    def draw(self, draw: random.Random, language: str | None = None) -> int:
        """A document, by language weight, then by length (capped at 8,000 tokens)."""
        language = language or draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        numbers, cumulated = self.languages[language]
        return numbers[min(bisect.bisect(cumulated, draw.random() * cumulated[-1]), len(numbers) - 1)]

    def neighbors(self, number: int) -> list[int]:
        """The documents of the same directory and language, itself included, by path."""
        return self.folders[self.folder(self.rows[number])]


def middle_out(draw: random.Random, tokens: list[int]) -> list[int]:
    """StarCoder2's prefix-suffix-middle order, cut at two random tokens after the path."""
    first, second = sorted(draw.sample(range(len(tokens) // 4, len(tokens)), 2))
    return [FIM_PREFIX, *tokens[:first], FIM_SUFFIX, *tokens[second:], FIM_MIDDLE, *tokens[first:second]]


def pack(corpus: Corpus, draw: random.Random, length: int) -> list[int]:
    """`length` tokens of one repository's neighbours, starting again with another one if they run out."""
    out: list[int] = []
    while len(out) < length:
        anchor = corpus.draw(draw)
        near = corpus.neighbors(anchor)
        at = near.index(anchor)
        chosen = near[max(0, at - draw.randint(0, 3)) : at + 6]
        draw.shuffle(chosen)
        out += [REPO_NAME, *corpus.tokenizer.encode(corpus.rows[anchor]["repository"]).ids]
        short = draw.random() < 0.6  # excerpts, so that several files meet in one pack
        renaming = draw.random() < RENAME_SHARE
        files = [corpus.document(n)[: draw.randint(150, 700) if short else 4 * length] for n in chosen]
        if renaming:
            mark = "\n§§\n"
            text = mark.join(map(corpus.tokenizer.decode, files))
            renamed = corpus.identifiers.rename(draw, text, 30).split(mark)
            files = [encoding.ids for encoding in corpus.tokenizer.encode_batch(renamed)]
        for tokens in files:
            if draw.random() < FIM_SHARE and 24 <= len(tokens) <= length:
                tokens = middle_out(draw, tokens)
            out += [FILE_SEP, *tokens]
            if len(out) >= length:
                break
        out.append(END)
    return out[:length]


def repeated(corpus: Corpus, draw: random.Random, length: int, reach: int) -> tuple[list[int], list[bool]]:
    """A pack in which a block of random identifiers returns again and again, 0 to `reach` tokens later.

    While the reach is short the copies fill the sequence; later one or two fit. Also returns which tokens can
    be copied (every copy after the first, but for its first token).
    """
    block = corpus.identifiers.block(draw, draw.randint(8, 48 if reach < length // 4 else min(128, length // 6)))
    base = pack(corpus, draw, length)
    first = draw.randint(0, max(0, length - 2 * len(block) - reach))
    out, copied, at = base[:first] + block, [False] * (first + len(block)), first
    while True:
        gap = draw.randint(0, reach)
        if len(out) + gap + len(block) > length:
            break
        out += base[at : at + gap] + block
        copied += [False] * (gap + 1) + [True] * (len(block) - 1)
        at += gap
        if len(out) > length // 2 and draw.random() < 0.3:
            break
    rest = length - len(out)
    return out + base[at : at + rest], copied + [False] * rest


def sequence(corpus: Corpus, draw: random.Random, length: int, reach: int) -> tuple[list[int], list[bool]]:
    """One training sequence of `length` tokens and which of them stand in a repeated block.

    Half of the sequences repeat a block while `reach` is below 512 tokens, a quarter afterwards.
    """
    kind, share = draw.random(), 0.5 if reach < 512 else 0.25
    if kind < share:
        return repeated(corpus, draw, length, min(reach, length))
    plain = [False] * length
    if kind < share + CHANGE_SHARE:
        number = corpus.draw(draw)
        made = change(corpus.tokenizer, corpus.identifiers, draw, corpus.rows[number], corpus.document(number), length)
        if made:
            return (made + pack(corpus, draw, length))[:length], plain
    return pack(corpus, draw, length), plain
