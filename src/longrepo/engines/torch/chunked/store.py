"""What a chunked step keeps between its forward and its backward pass: in memory, or in one file on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

import torch

from longrepo.errors import RunError

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
    """Writes the tensors one after the other into a file without a name, so that nothing is left of it after a kill.

    The file is used again from its start after `clear`. A full disk is a RunError.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._device = device
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # as long as the store
        except OSError as error:
            raise RunError(f"{folder}: no file for a step's store can be made there ({error.strerror})") from None
        self._folder = folder
        self._places: dict[Key, tuple[int, torch.Size, torch.dtype]] = {}
        self._end = 0
        self.written = 0  # bytes, ever

    def put(self, key: Key, tensor: Tensor) -> None:
        flat = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
        data = memoryview(flat.numpy())  # type: ignore[arg-type]
        self._places[key] = (self._end, tensor.shape, tensor.dtype)
        try:
            while data:
                count = os.pwrite(self._file.fileno(), data, self._end)
                data, self._end = data[count:], self._end + count
        except OSError as error:
            raise RunError(
                f"{self._folder}: the step's store can't be written ({error.strerror}) after {self._end / 2**30:.1f} "
                "GiB; free some space, or set memory.store=recompute, and go on with --resume auto"
            ) from None
        self.written += flat.numel()

    def get(self, key: Key) -> Tensor:
        place, shape, dtype = self._places[key]
        tensor = torch.empty(shape, dtype=dtype)
        data = memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        while data:
            count = os.preadv(self._file.fileno(), [data], place)
            if not count:
                raise RunError(f"{self._folder}: the step's store is shorter than what was written to it")
            data, place = data[count:], place + count
        return tensor.to(self._device)

    def drop(self, key: Key) -> None:
        del self._places[key]

    def clear(self) -> None:
        self._places.clear()
        self._end = 0
