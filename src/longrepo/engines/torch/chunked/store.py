"""What a chunked step keeps between its forward and its backward pass: in memory, or in one file on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from longrepo.engines.scratch_file import ScratchFile

Tensor = torch.Tensor
Key = tuple[str, int, int]  # what it is, the layer, the chunk (0 for what a layer has once)


class Store(Protocol):
    """Tensors by key. What `get` returns is bit for bit what was `put`."""

    def put(self, key: Key, tensor: Tensor) -> None: ...

    def get(self, key: Key) -> Tensor: ...

    def drop(self, key: Key) -> None:
        """It will not be asked for again."""
        ...

    def clear(self) -> None: ...


class MemoryStore:
    """Keeps the tensors themselves."""

    def __init__(self) -> None:
        self._kept: dict[Key, Tensor] = {}

    def put(self, key: Key, tensor: Tensor) -> None:
        self._kept[key] = tensor

    def get(self, key: Key) -> Tensor:
        return self._kept[key]

    def drop(self, key: Key) -> None:
        del self._kept[key]

    def clear(self) -> None:
        self._kept.clear()


class DiskStore:
    """Keeps them in a file (`longrepo.engines.scratch_file`), used again from its start after `clear`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._device, self._file = device, ScratchFile(folder)
        self._places: dict[Key, tuple[int, torch.Size, torch.dtype]] = {}

    @property
    def written(self) -> int:
        """Bytes, ever."""
        return self._file.written

    def put(self, key: Key, tensor: Tensor) -> None:
        flat = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
        place = self._file.append(memoryview(flat.numpy()))  # type: ignore[arg-type]
        self._places[key] = (place, tensor.shape, tensor.dtype)

    def get(self, key: Key) -> Tensor:
        place, shape, dtype = self._places[key]
        tensor = torch.empty(shape, dtype=dtype)
        self._file.read(place, memoryview(tensor.view(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
        return tensor.to(self._device)

    def drop(self, key: Key) -> None:
        del self._places[key]

    def clear(self) -> None:
        self._places.clear()
        self._file.rewind()
