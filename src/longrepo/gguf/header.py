"""Read what a GGUF file says of itself: metadata, and where each tensor lies.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The library's own reader makes two arrays of
every string, 1.7 KB together: 160 MB for a vocabulary of 49,152. Here strings are strings.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from longrepo.errors import InputError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_ALIGNMENT = 32  # of tensors, where the file names no other
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
# What a file holds in place of a language model, by general.type or general.architecture, and what to do.
_OTHER_KINDS = {
    "mmproj": "a vision projector; give the file of the language model",
    "clip": "a vision projector; give the file of the language model",
    "adapter": "a LoRA adapter, not a model; give the file of its base",
    "imatrix": "an importance matrix, not a model; give the model's file",
    "vocab": "a vocabulary without a model; give the model's file",
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as it lies in a file; `shape` outermost first, `kind` the name of its quantisation, such as Q4_K."""

    name: str
    shape: tuple[int, ...]
    kind: str
    file: Path
    offset: int
    bytes: int


@dataclass(frozen=True)
class GgufModel:
    """Metadata and tensors of a language model's file, of all its parts if it was split."""

    files: tuple[Path, ...]
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key in the architecture's own part of the metadata."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def kinds(self) -> list[str]:
        """The names of the quantisations in it, that of most bytes first."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.bytes
        return sorted(sizes, key=lambda kind: -sizes[kind])


def is_gguf(file: Path) -> bool:
    """Return whether a file begins as GGUF does. Ollama's have no suffix."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def find_parts(file: Path) -> tuple[Path, ...]:
    """Return all files of a model that was split (`…-00001-of-00003.gguf`), or the file alone. Raises InputError if one
    is missing."""
    if (numbers := _PART.search(file.name)) is None:
        return (file,)
    stem, count = file.name[: numbers.start()], int(numbers[2])
    parts = tuple(file.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))
    for part in parts:
        if not part.is_file():
            raise InputError(f"{part.name} is missing, one of the {count} files of this model; download it too")
    return parts


def read_gguf(file: Path) -> GgufModel:
    """Read a model's file, and its other parts. Raises InputError if it is cut short, damaged or not a language
    model."""
    parts = find_parts(file)
    metadata: dict[str, Any] = {}
    tensors: dict[str, GgufTensor] = {}
    for part in parts:
        own, found = _read_part(part)
        metadata = own | metadata
        tensors |= found
    expected = metadata.get("split.count", 1)
    if expected not in (0, 1, len(parts)):
        raise InputError(f"{file.name} is one of {expected} files; give the others the names they were published with")
    for key in ("general.type", "general.architecture"):
        if what := _OTHER_KINDS.get(str(metadata.get(key))):
            raise InputError(f"{file.name} is {what}")
    return GgufModel(parts, metadata, tensors)


def _read_part(file: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    size = file.stat().st_size
    with file.open("rb", buffering=1 << 20) as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{file.name} is no GGUF file")
        try:
            return _read_header(stream, file, size)
        except (struct.error, UnicodeDecodeError, KeyError, OverflowError):
            raise InputError(
                f"{file.name} is cut short or damaged: its list of tensors can't be read; download it again"
            ) from None


def _read_header(stream: BinaryIO, file: Path, size: int) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    number = partial(_number, stream)
    version = number("I")
    if version not in _VERSIONS:
        swapped = " (of the other byte order)" if version & 0xFFFF == 0 else ""
        raise InputError(f"{file.name} is GGUF of version {version}{swapped}; versions 2 and 3 are read")
    tensor_count, key_count = number("Q"), number("Q")
    text = partial(_text, stream, size)
    metadata = {text(): _value(stream, size, number("I")) for _ in range(key_count)}
    listed = [
        (text(), [number("Q") for _ in range(number("I"))], number("I"), number("Q")) for _ in range(tensor_count)
    ]
    alignment = int(metadata.get("general.alignment", _ALIGNMENT))
    start = -(-stream.tell() // alignment) * alignment
    tensors = {
        name: _tensor(file, name, tuple(reversed(dims)), kind, start + offset) for name, dims, kind, offset in listed
    }
    end = max((tensor.offset + tensor.bytes for tensor in tensors.values()), default=0)
    if end > size:
        raise InputError(f"{file.name} is cut short: {size:,} bytes of {end:,} are there; download it again")
    return metadata, tensors


def _tensor(file: Path, name: str, shape: tuple[int, ...], number: int, offset: int) -> GgufTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise InputError(
            f"{file.name}: {name} is of quantisation {number}, unknown here; give a file in Q4_K_M or Q8_0"
        ) from None
    elements = 1
    for length in shape:
        elements *= length
    block, size = GGML_QUANT_SIZES[kind]
    return GgufTensor(name, shape, kind.name, file, offset, elements // block * size)


def _number(stream: BinaryIO, form: str) -> Any:
    form = "<" + form
    return struct.unpack(form, stream.read(struct.calcsize(form)))[0]


def _text(stream: BinaryIO, size: int) -> str:
    length = _number(stream, "Q")
    if length > size:
        raise struct.error
    data = stream.read(length)
    if len(data) < length:
        raise struct.error
    return data.decode()


def _value(stream: BinaryIO, size: int, kind: int) -> Any:
    if kind == _STRING:
        return _text(stream, size)
    if kind == _FLOAT32:
        return float(str(np.float32(_number(stream, "f"))))  # 1e-05 as published, not 9.999999747378752e-06
    if kind != _ARRAY:
        return _number(stream, _SCALARS[kind])
    item, count = _number(stream, "I"), _number(stream, "Q")
    if count > size:
        raise struct.error
    if item in _SCALARS:
        form = f"<{count}{_SCALARS[item]}"
        return list(struct.unpack(form, stream.read(struct.calcsize(form))))
    read: Callable[[], Any] = partial(_value, stream, size, item)
    return list(_times(read, count))


def _times(read: Callable[[], Any], count: int) -> Iterator[Any]:
    return (read() for _ in range(count))
