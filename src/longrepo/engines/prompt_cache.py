"""Keys and values of earlier prompts, kept so that a prompt which begins alike isn't read again.

An editor asks after each pause in typing, with a prompt that differs from the last one near its end. What was computed
for the tokens before the first difference depends on nothing that changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

# Tokens of a prompt that are computed together; between two parts a request can be abandoned.
PROMPT_PART = 256

# Called with the tokens of the prompt that are read (at first: that were kept) and all of them, before each part and
# after the last. What it raises ends the generation.
PromptProgress = Callable[[int, int], None]


class CacheState(NamedTuple):
    """What keys and values depend on beside the tokens: the weights (counted up with each change), the positions, and
    the bits of each key and value."""

    weights: int
    positions: str
    bits: int


@dataclass
class CachedText:
    """A library's cache and the tokens whose keys and values it holds. `whole` is False while these are being computed:
    a cache that an error left then isn't kept. `keep`: whether it is worth keeping."""

    cache: Any
    state: CacheState
    ids: list[int] = field(default_factory=list)
    bytes: int = 0
    whole: bool = True
    keep: bool = True


class CacheEditor(Protocol):
    """How an engine's library shortens and copies caches; every engine's `kv_cache` module is one."""

    def can_shorten(self, cache: Any) -> bool:
        """Return whether tokens can be taken off the end: those of a recurrent layer can't."""
        ...

    def shorten(self, cache: Any, tokens: int) -> None:
        """Drop all but the first `tokens` tokens. Only for caches that can be shortened."""
        ...

    def copied(self, cache: Any, tokens: int) -> Any:
        """Return a copy of the first `tokens` tokens. Only for caches that can be shortened."""
        ...

    def held_bytes(self, cache: Any) -> int:
        """Return the bytes of all keys and values in a cache."""
        ...


class PromptCache:
    """Keeps the keys and values of the last `slots` texts, which have at most `budget` bytes together with those of the
    text that is being computed."""

    def __init__(self, budget: int, slots: int) -> None:
        self.budget, self.slots = budget, slots
        self._texts: list[CachedText] = []  # the latest last

    @property
    def bytes(self) -> int:
        """The bytes that are kept."""
        return sum(text.bytes for text in self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def take(self, prompt: Sequence[int], state: CacheState, needed: int, editor: CacheEditor) -> CachedText | None:
        """Return the kept text that begins most like the prompt, cut to what they share, and make room for the `needed`
        bytes of prompt and answer. Its end is lost if it was the shorter part; otherwise it also stays as it was.

        The prompt's last token is never among those shared: its scores are needed. Keys and values of fewer bits are
        shared in whole parts of the prompt (`put` keeps no others). None if no text begins alike."""
        self._texts = [text for text in self._texts if text.state.weights == state.weights]
        best, shared = None, 0
        for text in self._texts:
            if text.state == state and (size := _usable(text, prompt, editor)) > shared:
                best, shared = text, size
        if best is not None and (2 * shared >= len(best.ids) or not editor.can_shorten(best.cache)):
            self._texts.remove(best)
            self._make_room(needed)
            if shared < len(best.ids):
                editor.shorten(best.cache, shared)
                del best.ids[shared:]
            return best
        copied = best and CachedText(editor.copied(best.cache, shared), state, best.ids[:shared])
        self._make_room(needed)
        return copied

    def put(self, text: CachedText, read: int, editor: CacheEditor) -> None:
        """Keep a text whose first `read` tokens were read as parts of the prompt. Of fewer than 16 bits only whole
        parts are kept: the first part sets scales, and what was computed otherwise would be rounded otherwise."""
        if not (text.whole and text.keep):
            return
        if text.state.bits < 16:
            if not editor.can_shorten(text.cache):
                return
            del text.ids[read - read % PROMPT_PART :]
            editor.shorten(text.cache, len(text.ids))
        text.bytes = editor.held_bytes(text.cache)
        if text.ids and self.slots and text.bytes <= self.budget:
            self._texts = self._texts[-(self.slots - 1) :] if self.slots > 1 else []
            self._make_room(text.bytes)
            self._texts.append(text)

    def _make_room(self, needed: int) -> None:
        while self._texts and self.bytes + needed > self.budget:
            del self._texts[0]


def _usable(text: CachedText, prompt: Sequence[int], editor: CacheEditor) -> int:
    """Count the first tokens of a kept text that a prompt can use."""
    most = min(len(text.ids), len(prompt) - 1)
    shared = next((at for at in range(most) if text.ids[at] != prompt[at]), most)
    if text.state.bits < 16:
        shared -= shared % PROMPT_PART
    return shared if shared == len(text.ids) or editor.can_shorten(text.cache) else 0
