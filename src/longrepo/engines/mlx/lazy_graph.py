"""What evaluating lazy MLX arrays would compute, operation by operation, without computing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

WIDTH = 20  # MLX_BFS_MAX_WIDTH: how many operations MLX queues at one depth before it goes deeper


@dataclass(frozen=True)
class Value:
    """An array: its name in the graph, its shape, bytes of one value."""

    name: str
    shape: tuple[int, ...]
    itemsize: int


@dataclass(frozen=True)
class Op:
    """A primitive of MLX, the arguments it was made with, names of its inputs, and what it makes."""

    name: str
    arguments: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Graph:
    """`given`: what is there already. `ops`: in some order in which each comes after its inputs; two that are the
    same were made one by the trace, MLX computes both. `results`: names."""

    given: tuple[Value, ...]
    ops: tuple[Op, ...]
    results: tuple[str, ...]

    def evaluation_order(self) -> list[Op]:
        """As `mx.eval` would run them: backwards from the results, breadth first up to a width (`mlx/transforms.cpp`).
        Operations that the results don't need are left out."""
        maker = {value.name: op for op in self.ops for value in op.outputs}
        uses = self._uses(maker)
        end = Op("Synchronize", (), self.results, ())
        tape, at = [end], 0
        stack: list[tuple[Op, int]] = []
        while uses and (at < len(tape) or stack):
            if at < len(tape):
                op, first = tape[at], 0
                at += 1
            else:
                op, first = stack.pop()
            for place in range(first, len(op.inputs)):
                source = maker.get(op.inputs[place])
                if source is None:
                    continue
                if len(tape) - at >= WIDTH:
                    stack.append((op, place))
                    break
                uses[id(source)] -= 1
                if not uses[id(source)]:
                    del uses[id(source)]
                    tape.append(source)
        return tape[:0:-1]

    def _uses(self, maker: dict[str, Op]) -> Counter[int]:
        """How often an operation's outputs are used by those that the results need, by the operation's `id`."""
        uses: Counter[int] = Counter()
        waiting = [maker[name] for name in self.results if name in maker]
        for op in waiting:
            uses[id(op)] += 1
            if uses[id(op)] == 1:
                waiting += [maker[name] for name in op.inputs if name in maker]
        return uses


def trace(results: Sequence[mx.array]) -> tuple[Graph, dict[str, mx.array]]:
    """What evaluating these arrays would compute; and the evaluated arrays that it begins from, by name."""
    given: dict[str, mx.array] = {}
    ops: list[Op] = []
    names: list[str] = []

    def note(event: dict[str, Any]) -> None:
        if event["type"] == "constants":
            given.update(event["constants"])
        elif event["type"] == "outputs":
            names.extend(name for name, _, _ in event["outputs"])
        elif event["type"] == "primitive":
            outputs = tuple(Value(name, tuple(shape), dtype.size) for name, shape, dtype in event["outputs"])
            inputs = tuple(name for name, _, _ in event["inputs"])
            ops.append(Op(event["name"], tuple(event["arguments"]), inputs, outputs))

    mx.export_function(note, lambda: tuple(results))
    values = tuple(Value(name, tuple(array.shape), array.dtype.size) for name, array in given.items())
    return Graph(values, tuple(ops), tuple(names)), given
