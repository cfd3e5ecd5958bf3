"""How a dry run follows a training step: told which part begins, asked which chunks are computed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

from longrepo.engines.chunked import StoreKey

StepPart = Literal["forward", "head", "recompute", "backward"]
STEP_PARTS: tuple[StepPart, ...] = ("forward", "head", "recompute", "backward")
STEP_PHASES = (*STEP_PARTS, "update")
T = TypeVar("T")  # an engine's tensor


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


class StepClock(StepObserver):
    """Notes when each part of a step first began, in seconds of `time.perf_counter`."""

    def __init__(self) -> None:
        self.begins: dict[StepPart, float] = {}

    def enter(self, part: StepPart) -> None:
        self.begins.setdefault(part, time.perf_counter())


class CountingStore(Generic[T]):
    """Stands in for a `DiskStore` in a dry run: counts bytes and forgets the tensors. `blank(shape, dtype)` makes a
    tensor of any values. `bytes_by_name`: put so far, by the first part of the key."""

    def __init__(self, blank: Callable[[Any, Any], T]) -> None:
        self.bytes_by_name: Counter[str] = Counter()
        self._blank = blank
        self._shapes: dict[StoreKey, tuple[Any, Any]] = {}

    def put(self, key: StoreKey, tensor: Any) -> None:
        self._shapes[key] = tensor.shape, tensor.dtype
        self.bytes_by_name[key[0]] += tensor.nbytes

    @property
    def written(self) -> int:
        """Bytes put so far."""
        return self.bytes_by_name.total()

    def get(self, key: StoreKey) -> T:
        return self._blank(*self._shapes[key])

    def take(self, key: StoreKey) -> T:
        tensor = self.get(key)
        del self._shapes[key]
        return tensor

    def clear(self) -> None:
        self._shapes.clear()
