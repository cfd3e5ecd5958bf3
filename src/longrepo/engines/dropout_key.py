"""Where a dropout's mask comes from: a function of where it falls, so that it needs no generator's state.

The mask of `BLOCK` tokens comes from (key, module, row, block of absolute positions): a sequence walked in chunks of
any size, and a chunk computed a second time, meet the masks that the whole sequence meets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

BLOCK = 64


class DropoutKey:
    """What all of a model's dropouts read: `key` (0 <= key < 2**63), and `start`, the first token's position."""

    def __init__(self) -> None:
        self.key = 0
        self.start = 0

    @contextmanager
    def at(self, start: int) -> Iterator[None]:
        """Within: inputs begin at position `start` of their sequence."""
        before, self.start = self.start, start
        try:
            yield
        finally:
            self.start = before


def seed_of(*numbers: int) -> int:
    """64 bits from non-negative integers below 2**64."""
    return int.from_bytes(blake2b(b"".join(n.to_bytes(8, "little") for n in numbers), digest_size=8).digest(), "little")


def blocks(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The blocks that the positions from `start` to `end` fall into: (number, first and last position within it)."""
    for block in range(start // BLOCK, -(-end // BLOCK)):
        yield block, max(start - block * BLOCK, 0), min(end - block * BLOCK, BLOCK)
