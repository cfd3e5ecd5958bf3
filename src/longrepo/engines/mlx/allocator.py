"""The bytes that MLX's allocator gives out while graphs are evaluated.

After the CPU backend of MLX 0.32 (`mlx/transforms.cpp`, `mlx/backend`). Operations are dispatched before they are
computed: what is no longer needed is freed once the operation that used it last has run, and that lags behind by up to
`TASKS` tasks of `DISPATCHES` dispatches. Here it lags behind as far as it can, as it does where operations are large.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from longrepo.engines.mlx.layout import Layout
from longrepo.engines.mlx.lazy_graph import Graph, Op, Value

DISPATCHES, TASKS = 10, 10
DONATION_EXTRA = 16384  # bytes: a buffer larger than the result by more than this isn't handed on

COPIES_FIRST = {"SliceUpdate", "DynamicSliceUpdate", "Scatter", "ScatterAxis"}  # then writes into the copy
SHARING = {"Copy", "StopGradient", "CustomTransforms", "Depends"}
RESHAPING = {"Reshape", "Flatten", "Unflatten"}
BINARY = {
    "Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Power", "Remainder", "LogAddExp", "ArcTan2",
    "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr",
    "BitwiseAnd", "BitwiseOr", "BitwiseXor", "LeftShift", "RightShift", "BitwiseBinary",
}  # fmt: skip
UNARY = {
    "Abs", "Ceil", "Cos", "Cosh", "Erf", "ErfInv", "Exp", "Expm1", "Floor", "Log", "Log1p", "LogicalNot", "Negative",
    "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Square", "Tan", "Tanh", "BitwiseInvert", "Rsqrt",
}  # fmt: skip


@dataclass(eq=False)
class Buffer:
    size: int
    holders: int = 0  # arrays, and dispatched operations that haven't run


@dataclass(eq=False)
class Array:
    """`uses`: operations that still need it, and one more for whoever holds it from outside."""

    layout: Layout
    itemsize: int
    buffer: Buffer
    uses: int = 0


class Allocator:
    """`live` bytes now, and the highest of each named phase in `peaks`. `waits`: a memory limit that is always reached
    makes MLX wait after each operation for all whole tasks that it has dispatched."""

    def __init__(self, waits: bool = False) -> None:
        self.live = 0
        self.peaks: dict[str, int] = {}
        self._phase = "other"
        self._tasks = 0 if waits else TASKS
        self._queue: deque[list[Buffer]] = deque()  # of each dispatch, what it keeps from being freed until it has run
        self._dispatched = self._done = 0

    def enter(self, phase: str) -> None:
        """From now on peaks are this phase's."""
        self._phase = phase
        self._note()

    def allocate(self, size: int) -> Buffer:
        self.live += size
        self._note()
        return Buffer(size)

    def release(self, buffer: Buffer) -> None:
        """One holder fewer; without any it is free."""
        buffer.holders -= 1
        if not buffer.holders:
            self.live -= buffer.size

    def evaluate(self, graph: Graph, given: Mapping[str, Array]) -> dict[str, Array]:
        """Run `mx.eval` of a graph; return its results by name. Small `given` arrays may be missing; one without a use
        beyond the graph's is handed on or freed as it goes."""
        self._dispatched = self._done = 0
        order = graph.evaluation_order()
        uses = Counter(name for op in order for name in op.inputs) + Counter(graph.results)
        arrays: dict[str, Array] = {}
        for value in graph.given:
            one = given.get(value.name) or Array(Layout.dense(value.shape), value.itemsize, Buffer(0, 2), 1)
            arrays[value.name] = Array(one.layout, one.itemsize, one.buffer, one.uses + uses[value.name])
        for op in order:
            self._run(op, arrays, uses)
        self._catch_up(self._dispatched)
        return {name: arrays[name] for name in graph.results}

    def _run(self, op: Op, arrays: dict[str, Array], uses: Counter[str]) -> None:
        inputs = [arrays[name] for name in op.inputs]
        temporaries: list[Buffer] = []
        outputs = [self._output(op, place, value, inputs, temporaries) for place, value in enumerate(op.outputs)]
        for value, (layout, buffer) in zip(op.outputs, outputs, strict=True):
            buffer.holders += 1
            arrays[value.name] = Array(layout, value.itemsize, buffer, uses[value.name])
        self._dispatch([array.buffer for array in inputs], [buffer for _, buffer in outputs], temporaries)
        if self._dispatched // DISPATCHES - self._done // DISPATCHES > self._tasks:
            self._catch_up((self._dispatched // DISPATCHES - self._tasks) * DISPATCHES)
        for name in op.inputs:
            arrays[name].uses -= 1
        for name in {*op.inputs, *(value.name for value in op.outputs)}:
            if not arrays[name].uses:
                self.release(arrays.pop(name).buffer)

    def _dispatch(self, inputs: list[Buffer], outputs: list[Buffer], temporaries: list[Buffer]) -> None:
        """The kernel, unless the result is a view; then what keeps its buffers until it has run."""
        kept = list({id(b): b for b in (*inputs, *outputs[1:]) if b is not outputs[0]}.values()) + temporaries
        for buffer in kept:
            buffer.holders += 1
        new = outputs[0] not in inputs
        self._queue.extend([[], kept] if new else [kept])
        self._dispatched += 2 if new else 1

    def _catch_up(self, to: int) -> None:
        while self._done < to:
            for buffer in self._queue.popleft():
                self.release(buffer)
            self._done += 1

    def _note(self) -> None:
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), self.live)

    def _output(
        self, op: Op, place: int, value: Value, inputs: list[Array], temporaries: list[Buffer]
    ) -> tuple[Layout, Buffer]:
        """Where a result lies: in an input's buffer, or in a new one."""
        if (view := _view(op, place, value, inputs)) is not None:
            return view, inputs[_shared(op, place)].buffer
        if op.name in UNARY or op.name == "AsType" or op.name == "Full":
            return self._like(inputs[0], value, inputs[0].layout.whole and inputs[0].layout.span > 1)
        if op.name == "Softmax":
            layout = inputs[0].layout
            return self._like(inputs[0], value, layout.whole and layout.strides[-1] == 1)
        if op.name in COPIES_FIRST:
            source = inputs[0].layout
            full = source.by_row if op.name == "Scatter" else source.whole and source.span == prod(source.shape)
            return self._like(inputs[0], value, full)
        if op.name in BINARY:
            return self._binary(value, *inputs)
        if op.name == "Select":
            return self._ternary(value, inputs)
        if op.name in ("Matmul", "AddMM"):
            temporaries += [self.allocate(_bytes(a)) for a in inputs[:2] if not _multipliable(a.layout)]
        if op.name == "QuantizedMatmul":
            temporaries += [self.allocate(_bytes(a)) for a in inputs if not a.layout.by_row]
        return Layout.dense(value.shape), self.allocate(prod(value.shape) * value.itemsize)

    def _like(self, source: Array, value: Value, same_layout: bool) -> tuple[Layout, Buffer]:
        if not same_layout:
            return Layout.dense(value.shape), self.allocate(prod(value.shape) * value.itemsize)
        if _donatable(source, value):
            return source.layout, source.buffer
        return source.layout, self.allocate(source.layout.span * value.itemsize)

    def _binary(self, value: Value, a: Array, b: Array) -> tuple[Layout, Buffer]:
        one, other = a.layout, b.layout
        if one.span == 1 and other.span == 1:
            return one, self.allocate(value.itemsize)
        if one.span == 1 and other.whole:
            return self._like(b, value, True)
        if other.span == 1 and one.whole:
            return self._like(a, value, True)
        if (one.by_row and other.by_row) or (one.by_column and other.by_column):
            return self._like(b if _donatable(b, value) and not _donatable(a, value) else a, value, True)
        for array in (a, b):
            if _donatable(array, value) and array.layout.by_row and prod(array.layout.shape) == prod(value.shape):
                return array.layout, array.buffer
        return Layout.dense(value.shape), self.allocate(prod(value.shape) * value.itemsize)

    def _ternary(self, value: Value, inputs: list[Array]) -> tuple[Layout, Buffer]:
        layouts = [array.layout for array in inputs]
        if all(layout.span == 1 for layout in layouts):
            return layouts[1], self.allocate(value.itemsize)
        alike = all(x.by_row for x in layouts) or all(x.by_column for x in layouts)
        for array in inputs:
            if _donatable(array, value) and (alike or array.layout.by_row):
                return array.layout, array.buffer
        return (layouts[1] if alike else Layout.dense(value.shape)), self.allocate(prod(value.shape) * value.itemsize)


def _view(op: Op, place: int, value: Value, inputs: list[Array]) -> Layout | None:
    """The result's layout where it shares an input's buffer, as its operation alone decides."""
    if not inputs:
        return None
    source, shape = inputs[_shared(op, place)].layout, value.shape
    match op.name:
        case name if name in SHARING:
            return source
        case "Broadcast" | "BroadcastAxes":
            return source.broadcast(shape)
        case "Transpose":
            return source.transposed(op.arguments[0])
        case "ExpandDims":
            return source.expanded(op.arguments[0], shape)
        case "Squeeze":
            return source.squeezed(op.arguments[0], shape)
        case "Slice":
            return source.sliced(shape, op.arguments[2])
        case "Split":
            return source.sliced(shape, (1,) * len(shape))
        case name if name in RESHAPING:
            return source.reshaped(shape)
        case "View" if value.itemsize == inputs[0].itemsize:
            return source
    return None


def _shared(op: Op, place: int) -> int:
    """The input whose buffer a view is of."""
    if op.name == "CustomTransforms":
        return len(op.inputs) - len(op.outputs) + place
    return place if op.name == "Depends" else 0


def _donatable(array: Array, value: Value) -> bool:
    fits = array.buffer.size <= prod(value.shape) * value.itemsize + DONATION_EXTRA
    return array.uses == 1 and array.buffer.holders == 1 and array.itemsize == value.itemsize and fits


def _multipliable(layout: Layout) -> bool:
    rows, columns = layout.shape[-2:]
    return layout.strides[-2:] in ((columns, 1), (1, rows))


def _bytes(array: Array) -> int:
    return prod(array.layout.shape) * array.itemsize
