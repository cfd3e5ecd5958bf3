"""The names in texts, numbered and side by side in long arrays, so that many sequences are judged at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrepo.sequences.text import TokenizedText

_COMMON_SHARE, _COMMON_FILES = 0.05, 3
_AMBIGUOUS = 3  # a name defined in more files than this says nothing about where it comes from

Names32 = NDArray[np.uint32]


class Names:
    """What the training snapshot knows of names: those that are common, and those that so many files define that a
    definition says nothing.

    What counts of each text is noted once. `[names of all texts noted]`: `number` of the name, `known` (it is common)
    and `defines` (its text defines it), and `token` where it stands, counted through all texts.
    """

    def __init__(self, common: Names32 | None = None, ambiguous: Names32 | None = None) -> None:
        """Ascending hashes of names."""
        self.common = _no_names() if common is None else common
        self.ambiguous = _no_names() if ambiguous is None else ambiguous
        self._numbers: dict[int, int] = {}
        self._began: dict[int, tuple[int, TokenizedText]] = {}
        self._tokens = 0
        self._arrays = {"number": _Grown(np.int32), "token": _Grown(np.int32)}
        self._flags = {"known": _Grown(np.bool_), "defines": _Grown(np.bool_)}

    @staticmethod
    def of(texts: Sequence[TokenizedText]) -> Names:
        """Read from the files of a snapshot."""
        held, by = _counted([np.unique(text.names) for text in texts])
        defined, places = _counted([text.defines for text in texts])
        enough = max(_COMMON_FILES, _COMMON_SHARE * len(texts))
        return Names(held[by >= enough], defined[places > _AMBIGUOUS])

    def __len__(self) -> int:
        """Different names so far."""
        return len(self._numbers)

    @property
    def number(self) -> NDArray[np.int32]:
        """Of each name."""
        return self._arrays["number"].filled

    @property
    def token(self) -> NDArray[np.int32]:
        """Where each stands, ascending."""
        return self._arrays["token"].filled

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether it is common."""
        return self._flags["known"].filled

    @property
    def defines(self) -> NDArray[np.bool_]:
        """Whether its text defines it, and few others do."""
        return self._flags["defines"].filled

    def began(self, of: TokenizedText) -> int:
        """The token that a noted text begins at."""
        return self._began[id(of)][0]

    def note(self, texts: Iterable[TokenizedText]) -> None:
        """Note those of the texts that aren't yet."""
        new = [text for key, text in {id(text): text for text in texts}.items() if key not in self._began]
        if not new:
            return
        numbers, tokens = self._numbers, list[NDArray[np.int32]]()
        for text in new:
            self._began[id(text)] = self._tokens, text
            tokens.append(text.name_tokens + np.int32(self._tokens))
            self._tokens += len(text) + 1  # a name at a text's end stands before the next text
        names = np.concatenate([text.names for text in new])
        distinct, place = np.unique(names, return_inverse=True)
        number = [numbers.setdefault(name, len(numbers)) for name in distinct.tolist()]
        defined = among(_keyed([text.names for text in new]), _keyed([text.defines for text in new]))
        self._arrays["number"].add(np.array(number, np.int32)[place])
        self._arrays["token"].add(np.concatenate(tokens))
        self._flags["known"].add(among(distinct, self.common)[place])
        self._flags["defines"].add(defined & ~among(distinct, self.ambiguous)[place])


class _Grown:
    """An array that grows at its end."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._values: NDArray[Any] = np.empty(1024, dtype)
        self._size = 0

    @property
    def filled(self) -> NDArray[Any]:
        return self._values[: self._size]

    def add(self, more: NDArray[Any]) -> None:
        size = self._size + len(more)
        if size > len(self._values):
            grown = np.empty(max(size, len(self._values) * 3 // 2), self._values.dtype)
            grown[: self._size] = self.filled
            self._values = grown
        self._values[self._size : size] = more
        self._size = size


def among(some: NDArray[Any], ascending: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of some values are among others."""
    if not len(ascending):
        return np.zeros(len(some), bool)
    slot = np.minimum(ascending.searchsorted(some), len(ascending) - 1)
    return np.asarray(ascending[slot] == some)


def _keyed(each: Sequence[Names32]) -> NDArray[np.uint64]:
    """Names with the number of their text before them."""
    text = np.repeat(np.arange(len(each), dtype=np.uint64), [len(one) for one in each])
    return np.asarray(text << np.uint64(32) | np.concatenate(each))


def _no_names() -> Names32:
    return np.zeros(0, np.uint32)


def _counted(each: Sequence[Names32]) -> tuple[Names32, NDArray[np.int64]]:
    return np.unique(np.concatenate([_no_names(), *each]), return_counts=True)
