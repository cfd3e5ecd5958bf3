"""`git cat-file`, asked ahead of its answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from subprocess import Popen

from longrepo.errors import RunError

ASKED_AHEAD = 250  # 65 bytes each: always fits an empty pipe, so asking before reading can't lock up
MISSING = "missing"
_ENDED = "git cat-file ended in the middle of its answers; check the repository with git fsck"


class Batch:
    """One process, asked for object ids and answering in order: a header each, and the content with `--batch`.

    No more than `ASKED_AHEAD` ids may be without an answer.
    """

    def __init__(self, process: Popen[bytes]) -> None:
        assert process.stdin and process.stdout
        self._requests, self._answers = process.stdin, process.stdout

    def ask(self, ids: Iterable[str]) -> None:
        """Ask for objects. Raises RunError where git has ended."""
        try:
            self._requests.write("".join(f"{one}\n" for one in ids).encode())
            self._requests.flush()
        except BrokenPipeError:
            raise RunError(_ENDED) from None

    def header(self) -> tuple[str, int]:
        """(type, bytes) of the next object; the type is MISSING where it isn't here."""
        words = self._answers.readline().split()
        if len(words) == 3:
            return words[1].decode(), int(words[2])
        if len(words) == 2 and words[1] == b"missing":
            return MISSING, 0
        raise RunError(_ENDED)

    def content(self, size: int) -> bytes:
        """The content of the object whose header was read last."""
        content = self._answers.read(size)
        if self._answers.read(1) != b"\n":  # ends every content
            raise RunError(_ENDED)
        return content


def in_groups(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """The items, `size` at a time."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
