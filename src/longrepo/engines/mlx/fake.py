"""Arrays of true shape and dtype without bytes: `mx.eval` counts what it would allocate and computes nothing."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from longrepo.engines.mlx.allocator import Allocator, Array
from longrepo.engines.mlx.layout import Layout
from longrepo.engines.mlx.lazy_graph import trace

MARKS = {2: mx.uint16, 4: mx.uint32, 8: mx.uint64}  # by bytes of a value
FIRST = {2: 1, 4: 0x3F800001, 8: 1}  # float32 just above 1: a norm that is asked for its value is finite
REAL_EVAL = mx.eval
Place = tuple[int, int]  # bytes of a value, and the mark


class FakeArrays:
    """Stands in for evaluated arrays: one value, repeated over the shape, whose bits say which array it is. What is
    held across evaluations is taken to have been evaluated."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self._known: dict[Place, tuple[mx.Dtype, Array]] = {}
        self._dropped: list[Place] = []
        self._counts = {size: count(first) for size, first in FIRST.items()}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within: `mx.eval` is `evaluate`, and nothing is compiled."""
        mx.disable_compile()
        mx.eval = self.evaluate
        try:
            yield
        finally:
            mx.eval = REAL_EVAL
            mx.enable_compile()

    def like(self, array: mx.array) -> mx.array:
        """A fake of the shape and dtype of one that needn't be evaluated."""
        buffer = self.allocator.allocate(array.nbytes)
        buffer.holders = 1
        fake, place = self._new(array, Array(Layout.dense(tuple(array.shape)), array.itemsize, buffer, 1))
        self._until_dropped(fake, place)
        return fake

    def like_all(self, tree: Any) -> Any:
        return tree_map(lambda leaf: self.like(leaf) if isinstance(leaf, mx.array) else leaf, tree)

    def evaluate(self, *trees: Any) -> None:
        """What `mx.eval` would allocate and free; the arrays are fakes from then on."""
        leaves: list[Any] = tree_flatten(list(trees))  # type: ignore[assignment]
        arrays = list({id(leaf): leaf for _, leaf in leaves if isinstance(leaf, mx.array)}.values())
        graph, constants = trace(arrays)
        given = {}
        for name, constant in constants.items():
            if (place := self._place(constant)) is not None:
                given[name] = self._known[place][1]
                if place in self._dropped:  # this evaluation is the last to use it
                    self._dropped.remove(place)
                    self._known.pop(place)[1].uses = 0
        self.settle()
        found = self.allocator.evaluate(graph, given)
        taken: set[str] = set()
        for array, name in zip(arrays, graph.results, strict=True):
            if name in constants:
                continue
            if name in taken:
                found[name].buffer.holders += 1
            taken.add(name)
            result = found[name]
            fake, place = self._new(array, Array(result.layout, result.itemsize, result.buffer, 1))
            array[...] = fake
            self._until_dropped(array, place)

    def settle(self) -> None:
        """Free what nobody holds any more."""
        for place in self._dropped:
            self.allocator.release(self._known.pop(place)[1].buffer)
        self._dropped.clear()

    def _new(self, array: mx.array, known: Array) -> tuple[mx.array, Place | None]:
        """A fake of its shape and dtype. Of masks, a byte a value, none is told from another: they count no more."""
        if array.itemsize not in MARKS:
            self.allocator.release(known.buffer)
            return _spread(mx.zeros((), array.dtype), array.shape), None
        place = array.itemsize, next(self._counts[array.itemsize])
        self._known[place] = array.dtype, known
        return _spread(mx.array(place[1], MARKS[place[0]]).view(array.dtype), array.shape), place

    def _until_dropped(self, array: mx.array, place: Place | None) -> None:
        if place is not None:
            weakref.finalize(array, self._dropped.append, place)

    def _place(self, array: mx.array) -> Place | None:
        size = array.itemsize
        if size not in MARKS or not array.size:
            return None
        mark: Any = array[(0,) * array.ndim].view(MARKS[size]).item()
        if (found := self._known.get((size, mark))) is None:
            return None
        dtype, known = found
        return (size, mark) if dtype == array.dtype and known.layout.shape == tuple(array.shape) else None


def _spread(scalar: mx.array, shape: Sequence[int]) -> mx.array:
    wide = mx.broadcast_to(scalar, shape)
    REAL_EVAL(wide)
    return wide
