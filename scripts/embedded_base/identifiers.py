"""Random identifiers: blocks of them to be repeated, and consistent renaming in real code."""

from __future__ import annotations

import random
import re

from tokenizers import Tokenizer

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{3,}")
KEYWORDS = frozenset(
    """async await break case catch chan class const continue crate default defer delete double elif else enum except
    export extends false finally float from func function global goto implements import instanceof int8 interface
    lambda long match module None nonlocal null package pass private protected public raise range return select self
    Self short signed sizeof static string struct super switch this throw throws trait true True False type typedef
    typeof uint union unsafe unsigned usize bool void volatile where while with yield""".split()  # noqa: SIM905
)
SEPARATORS = (" ", ", ", "\n", "\n    ", "()\n", " = None\n", ": ", "; ", ",\n  ", ".", "(self)\n", '", "')


class Identifiers:
    """Draws identifiers made of one to three word pieces of the vocabulary, or of random letters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        words = (text.lstrip("Ġ") for text in tokenizer.get_vocab())
        self.pieces = sorted({w for w in words if w.isascii() and w.isalpha() and 2 <= len(w) <= 8})
        self.tokenizer = tokenizer

    def name(self, draw: random.Random) -> str:
        """One identifier."""
        parts = [
            "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 5)))
            if draw.random() < 0.25
            else draw.choice(self.pieces).lower()
            for _ in range(draw.choice((1, 2, 2, 3)))
        ]
        style = draw.random()
        if style < 0.5:
            return "_".join(parts)
        joined = "".join(part.capitalize() for part in parts)
        return joined if style < 0.75 else joined[:1].lower() + joined[1:]

    def block(self, draw: random.Random, length: int) -> list[int]:
        """About `length` tokens of identifiers between equal separators; never more than `length`."""
        separator = draw.choice(SEPARATORS)
        text = separator.join(self.name(draw) for _ in range(length // 2 + 1))
        return self.tokenizer.encode("\n" + text).ids[:length]

    def rename(self, draw: random.Random, text: str, most: int = 12) -> str:
        """The text with up to `most` of its repeated identifiers renamed consistently."""
        counts: dict[str, int] = {}
        for found in WORD.findall(text):
            counts[found] = counts.get(found, 0) + 1
        repeated = [word for word, count in counts.items() if count > 1 and word not in KEYWORDS]
        names = {word: self.name(draw) for word in draw.sample(repeated, min(most, len(repeated)))}
        return WORD.sub(lambda found: names.get(found.group(), found.group()), text)
