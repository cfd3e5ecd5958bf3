"""What a chunked step keeps between its forward and its backward pass: in memory, or in one file on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from longrepo.engines.scratch_file import ScratchFile

Key = tuple[str, int, int]  # what it is, the layer, the chunk


class Store(Protocol):
    """Evaluated arrays by key. What `take` returns is bit for bit what was `put`; the store no longer has it."""

    def put(self, key: Key, array: mx.array) -> None: ...

    def get(self, key: Key) -> mx.array: ...

    def take(self, key: Key) -> mx.array: ...

    def clear(self) -> None: ...


class MemoryStore:
    """Keeps the arrays themselves."""

    def __init__(self) -> None:
        self._kept: dict[Key, mx.array] = {}

    def put(self, key: Key, array: mx.array) -> None:
        self._kept[key] = array

    def get(self, key: Key) -> mx.array:
        return self._kept[key]

    def take(self, key: Key) -> mx.array:
        return self._kept.pop(key)

    def clear(self) -> None:
        self._kept.clear()


class DiskStore:
    """Keeps them in a file (`longrepo.engines.scratch_file`), used again from its start after `clear`."""

    def __init__(self, folder: Path) -> None:
        self._file = ScratchFile(folder)
        self._places: dict[Key, tuple[int, tuple[int, ...], mx.Dtype]] = {}

    @property
    def written(self) -> int:
        """Bytes, ever."""
        return self._file.written

    def put(self, key: Key, array: mx.array) -> None:
        flat: Any = mx.contiguous(array).reshape(-1).view(mx.uint8)
        self._places[key] = (self._file.append(memoryview(flat)), array.shape, array.dtype)

    def get(self, key: Key) -> mx.array:
        place, shape, dtype = self._places[key]
        data: Any = np.empty(int(np.prod(shape)) * dtype.size, dtype=np.uint8)
        self._file.read(place, memoryview(data))
        return mx.array(data).view(dtype).reshape(shape)

    def take(self, key: Key) -> mx.array:
        array = self.get(key)
        del self._places[key]
        return array

    def clear(self) -> None:
        self._places.clear()
        self._file.rewind()
