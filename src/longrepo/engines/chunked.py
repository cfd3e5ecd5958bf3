"""The part of the chunked step that is the same for every framework: schedule, activation store, dropout keys, and the
observer through which a dry run follows a step.

A step goes forward through all layers, through the head, and backward from the last layer to the first. If only every
k-th layer's input is kept, the layers in between are computed forward again, a segment of k at a time; the last segment
is kept whole because its turn comes next. What a step keeps between the two passes lies in memory or in one unnamed
file on disk, so that a killed process leaves nothing behind.

A dropout mask is a function of its place and needs no generator's state: the mask of `DROPOUT_BLOCK` tokens is derived
from (key, module, row, block of absolute positions). Chunks of any size, and a chunk that is computed again, get the
same masks as the whole sequence.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from longrepo.engines.base import StepMethod
from longrepo.errors import RunError


def run_schedule(
    method: StepMethod,
    layers: int,
    forward: Callable[[int, bool, bool, bool], None],
    head: Callable[[], None],
    backward: Callable[[int], None],
) -> None:
    """Call `forward(layer, keep its input, keep its keys and values, discard its output)` and `backward(layer)` in
    order."""
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
    """Return (start, end) of each chunk of `tokens` tokens. A last token alone joins the chunk before it: recurrent
    layers compute a single token in other ways (in transformers with updates in place, which have no gradient)."""
    starts = range(0, max(tokens - 1, 1), chunk)
    return [(start, min(start + chunk, tokens)) for start in starts[:-1]] + [(starts[-1], tokens)]


class ScratchFile:
    """An unnamed file in `folder` that is appended to and read at any offset. A full disk is a RunError."""

    def __init__(self, folder: Path) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # as long as the store
        except OSError as error:
            raise RunError(f"{folder}: can't create a file for the step's store there ({error.strerror})") from None
        self._folder = folder
        self._end = 0
        self.written = 0  # bytes in total

    def append(self, data: memoryview) -> int:
        """Write the bytes; return their offset."""
        offset, count = self._end, data.nbytes
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
        return offset

    def read(self, offset: int, into: memoryview) -> None:
        while into:
            count = os.preadv(self._file.fileno(), [into], offset)
            if not count:
                raise RunError(f"{self._folder}: the step's store is shorter than what was written to it")
            into, offset = into[count:], offset + count

    def rewind(self) -> None:
        """Start at the beginning of the file again; what was written is no longer needed."""
        self._end = 0


StoreKey = tuple[str, int, int]  # kind of tensor, layer, chunk (0 for tensors that a layer has once)
T = TypeVar("T")  # an engine's tensor


class TensorCodec(Protocol[T]):
    """Turns an engine's tensors into bytes and back."""

    def to_bytes(self, tensor: T) -> memoryview: ...

    def from_bytes(self, read: Callable[[memoryview], None], shape: Any, dtype: Any) -> T:
        """Return a new tensor whose bytes `read` fills."""
        ...


class ActivationStore(Protocol[T]):
    """Tensors by key. `get` and `take` return bit for bit what was `put`; `take` also removes it."""

    def put(self, key: StoreKey, tensor: T, /) -> None: ...

    def get(self, key: StoreKey, /) -> T: ...

    def take(self, key: StoreKey, /) -> T: ...

    def clear(self) -> None: ...


class MemoryStore(Generic[T]):
    """Keeps the tensors themselves."""

    def __init__(self) -> None:
        self._kept: dict[StoreKey, T] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that it holds."""
        held: Iterable[Any] = self._kept.values()
        return sum(tensor.nbytes for tensor in held)

    def put(self, key: StoreKey, tensor: T) -> None:
        self._kept[key] = tensor

    def get(self, key: StoreKey) -> T:
        return self._kept[key]

    def take(self, key: StoreKey) -> T:
        return self._kept.pop(key)

    def clear(self) -> None:
        self._kept.clear()


class DiskStore(Generic[T]):
    """Keeps the tensors' bytes in a file in `folder`, which is reused from its start after `clear`."""

    def __init__(self, folder: Path, codec: TensorCodec[T]) -> None:
        self._file, self._codec = ScratchFile(folder), codec
        self._entries: dict[StoreKey, tuple[int, Any, Any]] = {}

    @property
    def written(self) -> int:
        """Bytes in total."""
        return self._file.written

    def put(self, key: StoreKey, tensor: Any) -> None:
        self._entries[key] = self._file.append(self._codec.to_bytes(tensor)), tensor.shape, tensor.dtype

    def get(self, key: StoreKey) -> T:
        offset, shape, dtype = self._entries[key]
        return self._codec.from_bytes(lambda into: self._file.read(offset, into), shape, dtype)

    def take(self, key: StoreKey) -> T:
        tensor = self.get(key)
        del self._entries[key]
        return tensor

    def clear(self) -> None:
        self._entries.clear()
        self._file.rewind()


PROBE_TOKENS, PROBE_CHUNK = 24, 10
UNSUPPORTED_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)


def probe_tolerance(float32: bool) -> float:
    """Return how far apart two computations of the same may be in float32 or 16 bits, relative to the output's norm."""
    return 1e-3 if float32 else 0.1


class UnsupportedLayers(Exception):
    """Layers that can't be computed in chunks; the text is the reason."""


def first_of_each_kind(layers: Sequence[Any], kinds: Sequence[object] | None = None) -> list[int]:
    """Return the places of the layers that are the first of their kind, ascending.

    Layers are of one kind if they have the same `kinds` (None: unknown) and the same modules: paths, classes, and plain
    settings (texts, numbers) such as a window, besides their place in the model. LoRA's own modules don't count."""
    seen: dict[Any, int] = {}
    for place, layer in enumerate(layers):
        modules = {
            (path, type(module).__name__, *sorted(_plain_settings(module).items()))
            for path, module in layer.named_modules()
            if "lora_" not in path
        }
        seen.setdefault((kinds[place] if kinds else None, frozenset(modules)), place)
    return list(seen.values())


PLACE_NAMES = {"layer_idx", "layer_id", "layer_index", "layer_number"}  # settings that say where a layer is


def _plain_settings(module: Any) -> dict[str, str]:
    return {
        name: repr(value)
        for name, value in vars(module).items()
        if isinstance(value, str | int | float | None) and name not in PLACE_NAMES and not name.startswith("_")
    }


def probe_layers(
    decoder: Any,
    list_type: type,
    kinds: Callable[[], Sequence[object] | None],
    pass_through: Callable[[Any], Any],
    whole: Callable[[], T],
    chunks: Callable[[], T],
    differs: Callable[[T, T], bool],
) -> str | None:
    """Return why `decoder` can't be computed in chunks, or None if its layers give the same result both ways: the
    first of each kind, in their places.

    This is tried on the model itself, not guessed from its name. `decoder.layers` must be a `list_type`; for the time
    of the try, `pass_through(layer)` takes the place of a layer that is left out, and returns its input. `kinds` are
    those of `first_of_each_kind`. `whole` and `chunks` compute `PROBE_TOKENS` tokens at once and in chunks of
    `PROBE_CHUNK`; `differs` compares their results within `probe_tolerance`. If either raises UnsupportedLayers, or
    one of most other errors, that is the reason.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, list_type):
        return "its decoder has no list of layers"
    try:
        tried = first_of_each_kind(layers, kinds())  # type: ignore[arg-type]
        places = enumerate(layers)  # type: ignore[arg-type,var-annotated]
        decoder.layers = list_type([layer if place in tried else pass_through(layer) for place, layer in places])
        both = whole(), chunks()
    except UnsupportedLayers as reason:
        return str(reason)
    except UNSUPPORTED_ERRORS as error:
        return f"its layers don't accept cached keys, values and states ({next(iter(str(error).splitlines()), '')})"
    finally:
        decoder.layers = layers
    return "its layers compute something else in chunks" if differs(*both) else None


DROPOUT_BLOCK = 64


class DropoutKey:
    """The state that all dropouts of a model read: `key` (0 <= key < 2**63) and `start`, the first token's position."""

    def __init__(self) -> None:
        self.key = 0
        self.start = 0

    @contextmanager
    def at(self, start: int) -> Iterator[None]:
        """Let inputs begin at position `start` of their sequence inside the context."""
        before, self.start = self.start, start
        try:
            yield
        finally:
            self.start = before


def dropout_seed(*numbers: int) -> int:
    """Hash non-negative integers below 2**64 to 64 bits."""
    return int.from_bytes(blake2b(b"".join(n.to_bytes(8, "little") for n in numbers), digest_size=8).digest(), "little")


def dropout_blocks(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the blocks of positions `start` to `end`: (number, first position in the block, end in the block)."""
    for block in range(start // DROPOUT_BLOCK, -(-end // DROPOUT_BLOCK)):
        yield block, max(start - block * DROPOUT_BLOCK, 0), min(end - block * DROPOUT_BLOCK, DROPOUT_BLOCK)


StepPart = Literal["forward", "head", "recompute", "backward"]
STEP_PARTS: tuple[StepPart, ...] = ("forward", "head", "recompute", "backward")
STEP_PHASES = (*STEP_PARTS, "update")


class StepObserver:
    """Follows a training step. This one does nothing and has every chunk computed; a dry run's does more."""

    def enter(self, part: StepPart) -> None:
        """Called when a part of the step begins; a part may begin more than once."""

    def skips(self, index: int, chunks: int) -> bool:
        """Return whether chunk `index` of `chunks` is left out: then its results are tensors of the right shapes, and
        their values mean nothing."""
        return False


def is_middle_chunk(index: int, chunks: int) -> bool:
    """Return whether a chunk can't need the most memory, so that a dry run may skip it.

    What a chunk needs grows with the keys before it and with what earlier chunks left, up to the window. So the peak
    of a layer, of the head and of the embedding is in the first chunk (it has no keys before it), the last whole
    chunk, or the last.
    """
    return 0 < index < chunks - 2


class StepSeconds(NamedTuple):
    """Of one micro-batch: embedding and layers forward, head and loss, layers backward (computed again before)."""

    forward: float
    head: float
    backward: float


class StepClock(StepObserver):
    """Times the parts of a step."""

    def __init__(self) -> None:
        self._begins: dict[StepPart, float] = {}

    def enter(self, part: StepPart) -> None:
        self._begins.setdefault(part, time.perf_counter())

    def time(self, step: Callable[[], object]) -> StepSeconds:
        """Run a step that this clock observes, and that leaves nothing in flight."""
        self._begins.clear()
        began = time.perf_counter()
        step()
        head, backward = self._begins["head"], self._begins["backward"]
        return StepSeconds(head - began, backward - head, time.perf_counter() - backward)


class CountingStore(Generic[T]):
    """Stands in for a `DiskStore` in a dry run: counts bytes and forgets the tensors. `blank(shape, dtype)` makes a
    tensor of any values. `written`: bytes put so far; `kept_by_layer`: those of them that aren't a layer's input."""

    def __init__(self, blank: Callable[[Any, Any], T]) -> None:
        self.written = 0
        self.kept_by_layer: Counter[int] = Counter()
        self._blank = blank
        self._shapes: dict[StoreKey, tuple[Any, Any]] = {}

    def put(self, key: StoreKey, tensor: Any) -> None:
        self._shapes[key] = tensor.shape, tensor.dtype
        self.written += tensor.nbytes
        if key[0] != "input":
            self.kept_by_layer[key[1]] += tensor.nbytes

    def get(self, key: StoreKey) -> T:
        return self._blank(*self._shapes[key])

    def take(self, key: StoreKey) -> T:
        tensor = self.get(key)
        del self._shapes[key]
        return tensor

    def clear(self) -> None:
        self._shapes.clear()
