"""The weights as a model's publisher left them: safetensors files, read a tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from longrepo.errors import InputError

_BEGINNING = 1 << 20  # bytes of a file that stand for its content


class Checkpoint:
    """Tensors by name. Files are read, not mapped: mapped, all that was read of them would stay in the process.

    Raises InputError for a file that is missing, cut off or can't be read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)
        self._holders: dict[str, tuple[Path, Any]] = {}
        for file in self.files:
            try:
                opened = safe_open(str(file), framework="pt", device="cpu", backend="pread")
                self._holders.update((name, (file, opened)) for name in opened.keys())  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise _unreadable(file, error) from None

    @property
    def names(self) -> list[str]:
        return list(self._holders)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._holders[name][1].get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor as it was written, on the CPU, in memory of its own."""
        file, opened = self._holders[name]
        try:
            return opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _unreadable(file, error) from None

    def identity(self) -> list[list[str | int]]:
        """What changes when the files do: names, sizes, times, and the first mebibyte (the list of tensors)."""
        found: list[list[str | int]] = []
        for file in self.files:
            facts = file.stat()
            with file.open("rb") as content:
                beginning = xxhash.xxh3_128_hexdigest(content.read(_BEGINNING))
            found.append([file.name, facts.st_size, facts.st_mtime_ns, beginning])
        return found


def find_checkpoint(where: str, revision: str | None) -> Checkpoint | None:
    """The safetensors files of a folder or a hub repository, downloaded if need be; None where it has none.

    Raises OSError where the hub can't be reached, InputError for an index that can't be read.
    """
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    def find(name: str) -> str | None:
        return cached_file(where, name, revision=revision, _raise_exceptions_for_missing_entries=False)

    if single := find("model.safetensors"):
        return Checkpoint([Path(single)])
    if (index := find("model.safetensors.index.json")) is None:
        return None
    try:
        shards, _ = get_checkpoint_shard_files(where, index, revision=revision)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index}: not an index of safetensors files; download it again") from None
    return Checkpoint(Path(shard) for shard in shards)


def _unreadable(file: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{file}: the index names this file, but it isn't there; download it again")
    reason = str(error).splitlines()[0]
    return InputError(f"{file}: can't be read as safetensors ({reason}); download it again")
