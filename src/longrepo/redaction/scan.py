"""Where in a text it's worth looking. Expensive patterns are tried only around a few letters that they need, and those
are looked for among the text's distinct words first: these have a fifth of its characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_WORD_CHARACTERS = bytes(c if chr(c).isascii() and (chr(c).isalnum() or chr(c) in "_-") else 32 for c in range(256))
_PART_OF_A_WORD = re.compile(r"[a-z0-9_-]+")
_DIGITS = b"0123456789"
_LONG = 20  # characters: no provider's key has a shorter stretch without punctuation
_REACH = 320  # characters to either side of what was found, within its line


class Scan:
    """A text, the same in lower case, character for character, and whether words occur in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        lowered = text.lower()
        if len(lowered) != len(text):  # "İ" becomes two characters
            lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        self.lowered = lowered
        self._raw = lowered.encode("ascii", "replace")
        self._words = self._raw.translate(_WORD_CHARACTERS).split()
        self._vocabulary = b" ".join(set(self._words)).decode("ascii")

    def has(self, stem: str) -> bool:
        """Whether lower-case letters, digits, `_` and `-` occur next to each other in the text, in any case."""
        return stem in self._vocabulary

    def around(self, stems: Iterable[str]) -> Iterator[tuple[int, int]]:
        """Stretches of lines around each of these lower-case stems, in order and apart. A line of code fits whole."""
        text, lowered = self.text, self.lowered
        hits: list[int] = []
        for stem in stems:
            if (part := _PART_OF_A_WORD.search(stem)) and part[0] not in self._vocabulary:
                continue
            at = lowered.find(stem)
            while at >= 0:
                hits.append(at)
                at = lowered.find(stem, at + len(stem))
        hits.sort()
        start = end = -1
        for hit in hits:
            if hit < end and end - hit < _REACH and text[end : end + 1] == "\n":
                continue
            first = max(text.rfind("\n", max(0, hit - _REACH), hit) + 1, hit - _REACH, 0)
            line_end = text.find("\n", hit, hit + _REACH)
            last = line_end if line_end >= 0 else min(len(text), hit + _REACH)
            if first > end + 1:
                if end >= 0:
                    yield start, end
                start = first
            end = max(end, last)
        if end >= 0:
            yield start, end

    def long_words(self, fronts: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
        """Start and end of each word of 20 characters or more that has a digit or begins with one of these fronts, in
        lower case; `_` and `-` are letters here."""
        raw, at = self._raw, 0
        for word in [word for word in self._words if len(word) >= _LONG]:
            if word.translate(None, _DIGITS) != word or word.startswith(fronts):
                at = raw.find(word, at)
                yield at, at + len(word)
                at += len(word)
