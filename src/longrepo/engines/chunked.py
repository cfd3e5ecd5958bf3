"""Framework-free half of the chunked step: schedule, store, dropout keys.

In which order a chunked step walks its layers, and what it keeps of each: the same for every framework.

Forward through all layers, the head, backward from the last to the first. Where only every k-th layer's input is kept,
the layers between are computed forward once more, a segment of k at a time; the last segment is kept whole, since its
turn comes next.

What a chunked step keeps between its forward and its backward pass: in memory, or in one file on disk, without a name,
so that nothing is left of it after a kill.

Where a dropout's mask comes from: a function of where it falls, so that it needs no generator's state.

The mask of `BLOCK` tokens comes from (key, module, row, block of absolute positions): a sequence walked in chunks of
any size, and a chunk computed a second time, meet the masks that the whole sequence meets.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from longrepo.engines.base import StepMethod
from longrepo.errors import RunError


def run_schedule(
    method: StepMethod,
    layers: int,
    forward: Callable[[int, bool, bool, bool], None],
    head: Callable[[], None],
    backward: Callable[[int], None],
) -> None:
    """`forward(layer, keep its input, keep its keys and values, discard its output)`; `backward(layer)`."""
    again = method.store == "recompute"
    segment = method.every if again else 1
    last = (layers - 1) // segment * segment
    for number in range(layers):
        whole = not again or number >= last
        forward(number, whole or number % segment == 0, whole, False)
    head()
    for first in range(last, -1, -segment):
        numbers = range(first, min(first + segment, layers))
        if again and first != last:
            for number in numbers:
                forward(number, True, True, number == numbers[-1])
        for number in reversed(numbers):
            backward(number)


def chunk_spans(tokens: int, chunk: int) -> list[tuple[int, int]]:
    """(start, end) of each chunk of `tokens` tokens."""
    return [(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk)]


class ScratchFile:
    """Bytes written one after the other in `folder`, read from where they were put. A full disk is a RunError."""

    def __init__(self, folder: Path) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # as long as the store
        except OSError as error:
            raise RunError(f"{folder}: no file for a step's store can be made there ({error.strerror})") from None
        self._folder = folder
        self._end = 0
        self.written = 0  # bytes, ever

    def append(self, data: memoryview) -> int:
        """Write the bytes; return the place to read them from."""
        place, count = self._end, data.nbytes
        try:
            while data:
                done = os.pwrite(self._file.fileno(), data, self._end)
                data, self._end = data[done:], self._end + done
        except OSError as error:
            raise RunError(
                f"{self._folder}: the step's store can't be written ({error.strerror}) after {self._end / 2**30:.1f} "
                "GiB; free some space, or set memory.store=recompute, and go on with --resume auto"
            ) from None
        self.written += count
        return place

    def read(self, place: int, into: memoryview) -> None:
        while into:
            count = os.preadv(self._file.fileno(), [into], place)
            if not count:
                raise RunError(f"{self._folder}: the step's store is shorter than what was written to it")
            into, place = into[count:], place + count

    def rewind(self) -> None:
        """What was written is not asked for any more: begin at the file's start again."""
        self._end = 0


StoreKey = tuple[str, int, int]  # what it is, the layer, the chunk (0 for what a layer has once)
T = TypeVar("T")  # an engine's tensor


class TensorCodec(Protocol[T]):
    """An engine's tensors as bytes."""

    def to_bytes(self, tensor: T) -> memoryview: ...

    def from_bytes(self, read: Callable[[memoryview], None], shape: Any, dtype: Any) -> T:
        """A new tensor, whose bytes `read` fills."""
        ...


class ActivationStore(Protocol[T]):
    """Tensors by key. What `get` and `take` return is bit for bit what was `put`; after `take` the store no longer has
    it."""

    def put(self, key: StoreKey, tensor: T, /) -> None: ...

    def get(self, key: StoreKey, /) -> T: ...

    def take(self, key: StoreKey, /) -> T: ...

    def clear(self) -> None: ...


class MemoryStore(Generic[T]):
    """Keeps the tensors themselves."""

    def __init__(self) -> None:
        self._kept: dict[StoreKey, T] = {}

    def put(self, key: StoreKey, tensor: T) -> None:
        self._kept[key] = tensor

    def get(self, key: StoreKey) -> T:
        return self._kept[key]

    def take(self, key: StoreKey) -> T:
        return self._kept.pop(key)

    def clear(self) -> None:
        self._kept.clear()


class DiskStore(Generic[T]):
    """Keeps the tensors' bytes in a file in `folder`, used again from its start after `clear`."""

    def __init__(self, folder: Path, codec: TensorCodec[T]) -> None:
        self._file, self._codec = ScratchFile(folder), codec
        self._places: dict[StoreKey, tuple[int, Any, Any]] = {}

    @property
    def written(self) -> int:
        """Bytes, ever."""
        return self._file.written

    def put(self, key: StoreKey, tensor: Any) -> None:
        self._places[key] = self._file.append(self._codec.to_bytes(tensor)), tensor.shape, tensor.dtype

    def get(self, key: StoreKey) -> T:
        place, shape, dtype = self._places[key]
        return self._codec.from_bytes(lambda into: self._file.read(place, into), shape, dtype)

    def take(self, key: StoreKey) -> T:
        tensor = self.get(key)
        del self._places[key]
        return tensor

    def clear(self) -> None:
        self._places.clear()
        self._file.rewind()


PROBE_TOKENS, PROBE_CHUNK = 24, 10
UNSUPPORTED_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)


def probe_tolerance(float32: bool) -> float:
    """How far two computations of the same in float32, or in 16 bits, may be apart, as a share of the output's norm."""
    return 1e-3 if float32 else 0.1


class UnsupportedLayers(Exception):
    """Layers that chunks can't be cut for; the text is the reason."""


def probe_two_layers(
    decoder: Any,
    list_type: type,
    whole: Callable[[], T],
    chunks: Callable[[], T],
    differs: Callable[[T, T], bool],
) -> str | None:
    """Why `decoder`, whose `layers` are a `list_type`, can't be walked in chunks, or None if its first two layers give
    the same both ways: tried on the model itself, not guessed from its name.

    `whole` and `chunks` compute `PROBE_TOKENS` tokens at once and in chunks of `PROBE_CHUNK`; `differs` compares their
    results within `probe_tolerance`. Raised by either, UnsupportedLayers is the reason, and so are most errors.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, list_type):
        return "its decoder has no list of layers"
    decoder.layers = layers[:2]  # type: ignore[index]
    try:
        both = whole(), chunks()
    except UnsupportedLayers as reason:
        return str(reason)
    except UNSUPPORTED_ERRORS as error:
        return f"its layers don't take keys and values from a cache so ({next(iter(str(error).splitlines()), '')})"
    finally:
        decoder.layers = layers
    return "its layers compute something else in chunks" if differs(*both) else None


DROPOUT_BLOCK = 64


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


def dropout_seed(*numbers: int) -> int:
    """64 bits from non-negative integers below 2**64."""
    return int.from_bytes(blake2b(b"".join(n.to_bytes(8, "little") for n in numbers), digest_size=8).digest(), "little")


def dropout_blocks(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The blocks that the positions from `start` to `end` fall into: (number, first and last position within it)."""
    for block in range(start // DROPOUT_BLOCK, -(-end // DROPOUT_BLOCK)):
        yield block, max(start - block * DROPOUT_BLOCK, 0), min(end - block * DROPOUT_BLOCK, DROPOUT_BLOCK)
