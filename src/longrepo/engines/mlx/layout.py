"""How an array lies in its buffer, as MLX keeps track of it: what decides whether an operation copies or shares.

The rules are those of MLX 0.32 (`mlx/backend/common`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """`strides` and `span` (values from the first to the last, gaps included) count values. `whole`: no gaps."""

    shape: Dims
    strides: Dims
    span: int
    whole: bool
    by_row: bool
    by_column: bool

    @staticmethod
    def dense(shape: Dims) -> Layout:
        """Row by row in a buffer of its own."""
        size = prod(shape)
        return Layout(shape, _row_strides(shape), size, True, True, size <= 1 or size == max(shape))

    def broadcast(self, shape: Dims) -> Layout:
        strides = [0] * (len(shape) - len(self.shape)) + [
            0 if n == 1 else stride for n, stride in zip(self.shape, self.strides, strict=True)
        ]
        grown = prod(shape) > prod(self.shape)
        by_row, by_column = self.by_row and not grown, self.by_column and not grown
        return Layout(shape, tuple(strides), self.span, self.whole, by_row, by_column)

    def transposed(self, axes: Sequence[int]) -> Layout:
        shape = tuple(self.shape[axis] for axis in axes)
        strides = tuple(self.strides[axis] for axis in axes)
        if not (self.whole and self.span == prod(shape)):
            return Layout(shape, strides, self.span, self.whole, self.by_row, self.by_column)
        _, by_row, by_column = _contiguity(shape, strides)
        return Layout(shape, strides, self.span, self.whole, by_row, by_column)

    def expanded(self, axes: Sequence[int], shape: Dims) -> Layout:
        strides = list(self.strides)
        for axis in axes:
            strides.insert(axis, 1)
        return Layout(shape, tuple(strides), self.span, self.whole, self.by_row, self.by_column)

    def squeezed(self, axes: Sequence[int], shape: Dims) -> Layout:
        strides = tuple(stride for axis, stride in enumerate(self.strides) if axis not in axes)
        return Layout(shape, strides, self.span, self.whole, self.by_row, self.by_column)

    def sliced(self, shape: Dims, steps: Sequence[int]) -> Layout:
        strides = tuple(stride * step for stride, step in zip(self.strides, steps, strict=True))
        span = 1 + sum(abs(stride) * (n - 1) for stride, n in zip(strides, shape, strict=True))
        size, by_row, by_column = _contiguity(shape, strides)
        return Layout(shape, strides, span, size == span, by_row, by_column)

    def reshaped(self, shape: Dims) -> Layout | None:
        """None where the values have to be copied."""
        if self.by_row or not prod(shape):
            size = prod(shape)
            by_column = size <= 1 or size == max(shape)
            return Layout(shape, _row_strides(shape), self.span, self.whole, self.by_row, by_column)
        sizes, steps = self._collapsed()
        strides: list[int] = []
        at = 0
        for n in shape:
            if at < len(sizes) and sizes[at] % n == 0:
                sizes[at] //= n
                strides.append(sizes[at] * steps[at])
                at += sizes[at] == 1
            elif n == 1:
                strides.append(strides[-1])
            else:
                return None
        return Layout(shape, tuple(strides), self.span, self.whole, self.by_row, self.by_column)

    def _collapsed(self) -> tuple[list[int], list[int]]:
        """Sizes and strides, with neighbouring axes made one where they lie as one."""
        sizes: list[int] = []
        steps: list[int] = []
        for n, stride in zip(self.shape, self.strides, strict=True):
            if n == 1:
                continue
            if steps and steps[-1] == n * stride:
                sizes[-1] *= n
                steps[-1] = stride
            else:
                sizes.append(n)
                steps.append(stride)
        return sizes, steps


def _row_strides(shape: Dims) -> Dims:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _contiguity(shape: Dims, strides: Dims) -> tuple[int, bool, bool]:
    """(values without repeated ones, whether they lie row by row, whether column by column)."""
    size, by_row, by_column = 1, True, True
    forward, backward = 1, 1
    for (n, stride), (m, step) in zip(
        zip(shape, strides, strict=True), zip(reversed(shape), reversed(strides), strict=True), strict=True
    ):
        by_column &= stride == forward or n == 1
        by_row &= step == backward or m == 1
        forward *= n
        backward *= m
        size *= n if stride > 0 else 1
    return size, by_row, by_column
