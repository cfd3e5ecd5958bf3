"""De-quantise the tensors of a GGUF file into a safetensors file, a few rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from longrepo.errors import InputError
from longrepo.gguf.header import GgufTensor

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

Array = npt.NDArray[Any]
_ROWS_BYTES = 16 << 20  # of float32 held at once
# Kinds that are already what safetensors holds; all others are de-quantised to float32 and rounded.
_PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


class OutOfRange(Exception):
    """A weight is too large for float16."""


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to write: its `name` and `dtype` in the new file, the order of its rows (None: as they lie), and what
    is subtracted from it."""

    source: GgufTensor
    name: str
    dtype: str
    order: Array | None = None
    shift: float = 0.0

    @property
    def bytes(self) -> int:
        return int(np.prod(self.source.shape)) * _DTYPES[self.dtype][1]


def written_dtype(kind: str, dtype: str) -> str:
    """Return in which type a tensor of a kind is written: unquantised ones as they are."""
    return _PLAIN.get(kind, dtype)


def check_kinds(kinds: list[str]) -> None:
    """Raise InputError for a quantisation that can't be undone here."""
    import gguf

    for name in kinds:
        kind = gguf.GGMLQuantizationType[name]
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            raise InputError(f"its tensors are of quantisation {name}, which can't be undone here") from None


def unpermuted_rows(rows: int, heads: int) -> Array:
    """Return where each row of a query's or key's weight lies in a file of llama.cpp, which rotates neighbours, not
    features half a head apart; `[rows]`."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)


def read_tensor(tensor: GgufTensor) -> Array:
    """Return a whole tensor in float32."""
    return np.concatenate(list(_float_rows(tensor, None))).reshape(tensor.shape)


def write_safetensors(file: Path, plans: list[TensorPlan]) -> None:
    """Write all tensors into a new file. Raises OutOfRange if a float16 would overflow."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for plan in plans:
        header[plan.name] = {
            "dtype": _DTYPES[plan.dtype][0],
            "shape": list(plan.source.shape),
            "data_offsets": [end, end + plan.bytes],
        }
        end += plan.bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for plan in plans:
            for rows in _written_rows(plan):
                stream.write(rows.tobytes())


def _written_rows(plan: TensorPlan) -> Iterator[Array]:
    if _PLAIN.get(plan.source.kind) == plan.dtype and not plan.shift:
        yield from _raw_rows(plan.source, plan.order)
        return
    for rows in _float_rows(plan.source, plan.order):
        yield _ROUNDED[plan.dtype](rows - plan.shift if plan.shift else rows)


def _float_rows(tensor: GgufTensor, order: Array | None) -> Iterator[Array]:
    import gguf

    kind: GGMLQuantizationType = gguf.GGMLQuantizationType[tensor.kind]
    for rows in _raw_rows(tensor, order):
        yield np.asarray(gguf.dequantize(rows, kind), np.float32)


def _raw_rows(tensor: GgufTensor, order: Array | None) -> Iterator[Array]:
    """Yield a tensor's rows as they lie in the file, `[rows, bytes of a row]`; with `order` a vector's elements are its
    rows."""
    count = int(np.prod(tensor.shape[:-1])) if len(tensor.shape) > 1 or order is None else tensor.shape[0]
    width = tensor.bytes // count
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        if order is not None:
            yield np.frombuffer(stream.read(tensor.bytes), np.uint8).reshape(count, width)[order]
            return
        few = max(1, _ROWS_BYTES // (int(tensor.shape[-1]) * 4))
        for first in range(0, count, few):
            some = min(few, count - first)
            yield np.frombuffer(stream.read(some * width), np.uint8).reshape(some, width)


def _to_float16(values: Array) -> Array:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise OutOfRange
    return rounded


def _to_bfloat16(values: Array) -> Array:
    """Round to nearest, ties to even; `uint16`."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


_ROUNDED: Mapping[str, Any] = {"float32": lambda rows: rows, "float16": _to_float16, "bfloat16": _to_bfloat16}
