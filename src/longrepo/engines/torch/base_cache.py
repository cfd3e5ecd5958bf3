"""The quantised base, kept for the next start: `<cache>/bases/<key>`, safetensors and one JSON. It may be deleted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import save_file

from longrepo.config.files import WRITING
from longrepo.config.schema import ModelSettings
from longrepo.engines.torch.checkpoint import Checkpoint
from longrepo.engines.torch.device import Placement
from longrepo.engines.torch.skeleton import Skeleton
from longrepo.errors import InputError
from longrepo.sequences.cache import cache_folder

Tensor = torch.Tensor
FORMAT = 1
KEEP = 3  # bases; the one used longest ago goes first
LEAST_BYTES = 200 << 20  # a smaller base is quantised in seconds
_PART_BYTES = 256 << 20  # of a file: what is held twice for a moment where the model isn't in the CPU's memory
_FORGOTTEN = 3600  # seconds after which what another process was writing counts as left behind


class DamagedCache(Exception):
    """What lies there is not what was written."""


def cached_base(checkpoint: Checkpoint, config: Any, settings: ModelSettings, placement: Placement) -> Path | None:
    """Where this base, quantised so by these versions, is or would be kept; None where nothing is to be kept."""
    folder = cache_folder()
    if folder is None or settings.quantization == "none":
        return None
    facts = {
        "format": FORMAT,
        "files": checkpoint.identity(),
        "config": config.to_dict(),
        "quantization": [settings.quantization, settings.double_quantization],
        "dtype": str(placement.dtype),
        "device": placement.device.type,
        "bitsandbytes": bitsandbytes.__version__,
    }
    key = xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True, default=str).encode())
    return folder / "bases" / key


def read_base(entry: Path, skeleton: Skeleton, device: torch.device) -> None:
    """Put every tensor of a kept base into a skeleton. Raises DamagedCache where one isn't what was written."""
    try:
        digests: dict[str, str] = json.loads((entry / "base.json").read_text(encoding="utf-8"))["digests"]
        kept = Checkpoint(sorted(entry.glob("*.safetensors")))
        if set(kept.names) != set(digests):
            raise DamagedCache("tensors are missing")

        def read(name: str) -> Tensor:
            tensor = kept.read(name)
            if _digest(tensor) != digests[name]:
                raise DamagedCache(name)
            return tensor

        stated: dict[str, list[str]] = {name: [] for name in skeleton.quantised}
        plain = []
        for name in kept.names:
            weight = next((name[:end] for end in _dots(name) if name[:end] in stated), None)
            if weight is not None:
                stated[weight].append(name)
            elif name not in stated:
                plain.append(name)
        skeleton.check_names([*plain, *(name for name in stated if name in kept.names)])
        for name in plain:
            skeleton.put(name, read(name))
        for name, parts in stated.items():
            facts = {part.removeprefix(name + "."): read(part) for part in parts}
            state = bitsandbytes.functional.QuantState.from_dict(facts, device=device)
            skeleton.put_quantised(name, read(name).to(device), state)
        os.utime(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, InputError) as error:
        raise DamagedCache(str(error)) from None


def write_base(entry: Path, skeleton: Skeleton) -> int:
    """Keep a finished model's tensors, without the rows that the checkpoint didn't give; return their bytes.

    Written beside and renamed; 0 where the model is too small to be worth it. Raises OSError where the disk is full.
    """
    tied = skeleton.model.all_tied_weights_keys
    state = {name: tensor for name, tensor in skeleton.model.state_dict().items() if name not in tied}
    size = sum(tensor.nbytes for tensor in state.values())
    if size < LEAST_BYTES:
        return 0
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _tidy(entry.parent)
    free = shutil.disk_usage(entry.parent).free
    if free < size:
        raise OSError(f"it takes {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    beside = entry.with_name(f"{WRITING}{entry.name}-{os.getpid()}")
    try:
        beside.mkdir(mode=0o700)
        digests: dict[str, str] = {}
        for number, part in enumerate(_parts(skeleton, state)):
            digests |= {name: _digest(tensor) for name, tensor in part.items()}
            save_file(part, beside / f"{number:05}.safetensors")
        (beside / "base.json").write_text(json.dumps({"format": FORMAT, "digests": digests}), encoding="utf-8")
        for file in beside.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        beside.rename(entry)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return size


def drop_base(entry: Path) -> None:
    shutil.rmtree(entry, ignore_errors=True)


def _parts(skeleton: Skeleton, state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """What goes into one file after the other."""
    part: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part[name] = skeleton.published_part(name, tensor).cpu().contiguous()
        if sum(one.nbytes for one in part.values()) >= _PART_BYTES:
            yield part
            part = {}
    if part:
        yield part


def _tidy(folder: Path) -> None:
    """Leave room for one more, and nothing of processes that died while writing."""
    with contextlib.suppress(OSError):
        found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        whole = [path for path in found if not path.name.startswith(WRITING)]
        dead = [path for path in found if path not in whole and path.stat().st_mtime < time.time() - _FORGOTTEN]
        for path in whole[KEEP - 1 :] + dead:
            shutil.rmtree(path, ignore_errors=True)


def _digest(tensor: Tensor) -> str:
    return xxhash.xxh3_64_hexdigest(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _dots(name: str) -> Iterator[int]:
    return (at for at, letter in enumerate(name) if letter == ".")
