"""Texts by object id, streamed: git inflates the next ones while this process decodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from longrepo.repository.decode import decode_text
from longrepo.repository.git import ObjectReader
from longrepo.repository.git_batch import ASKED_AHEAD, MISSING, in_groups
from longrepo.repository.noise import text_noise


class TextPipe:
    """Asks for blobs ahead and gives their texts in order.

    Sizes are asked for first, a group ahead of the contents, so that a blob of more than `max_file_bytes` is never
    read: that costs a twentieth of reading. Use it in a `with`, to end its processes.
    """

    def __init__(self, reader: ObjectReader, max_file_bytes: int) -> None:
        self._max_file_bytes = max_file_bytes
        self._processes = ExitStack()
        self._sizes = self._processes.enter_context(reader.batch("--batch-check"))
        self._contents = self._processes.enter_context(reader.batch("--batch"))
        self._sizing: list[str] = []
        self._asked: deque[tuple[str, str]] = deque()  # blob, why it isn't read

    def __enter__(self) -> TextPipe:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def __len__(self) -> int:
        return len(self._asked) + len(self._sizing)

    def ask(self, blobs: list[str]) -> None:
        """Ask for these blobs; with those asked before and not taken at most `ASKED_AHEAD`."""
        self._ask_contents()
        self._sizes.ask(blobs)
        self._sizing = blobs

    def _ask_contents(self) -> None:
        reasons = [(blob, self._unread(*self._sizes.header())) for blob in self._sizing]
        self._contents.ask(blob for blob, reason in reasons if not reason)
        self._asked.extend(reasons)
        self._sizing = []

    def take(self) -> tuple[str, str | None, str]:
        """(blob, text, "") of the next one, or (blob, None, reason); with the reason "empty" there is a text too."""
        if not self._asked:
            self._ask_contents()
        blob, reason = self._asked.popleft()
        if reason:
            return blob, None, reason
        kind, size = self._contents.header()
        if kind == MISSING:
            return blob, None, MISSING
        text = decode_text(self._contents.content(size))
        if text is None:
            return blob, None, "binary"
        reason = text_noise(text) or ""
        return blob, (text if reason in ("", "empty") else None), reason

    def _unread(self, kind: str, size: int) -> str:
        if kind != "blob":
            return MISSING
        return "oversized" if size > self._max_file_bytes else ""


def read_texts(
    reader: ObjectReader, blobs: Iterable[str], max_file_bytes: int
) -> Iterator[tuple[str, str | None, str]]:
    """(blob, text, "") of each distinct blob in the order asked, or (blob, None, reason): missing, oversized, binary,
    empty, generated. One text at a time is in memory."""
    size = ASKED_AHEAD // 3
    with TextPipe(reader, max_file_bytes) as pipe:
        for group in in_groups(_distinct(blobs), size):
            pipe.ask(group)
            while len(pipe) > 2 * size:
                yield _without_empty(pipe.take())
        while pipe:
            yield _without_empty(pipe.take())


def _without_empty(taken: tuple[str, str | None, str]) -> tuple[str, str | None, str]:
    blob, text, reason = taken
    return blob, (None if reason else text), reason


def _distinct(blobs: Iterable[str]) -> Iterator[str]:
    seen = set[bytes]()  # half the size of the text
    for blob in blobs:
        key = bytes.fromhex(blob)
        if key not in seen:
            seen.add(key)
            yield blob
