"""A chunked step on fake arrays in which only the chunks that can need most are run: others' results take their room.

What a chunk needs grows with the keys before it and with what earlier chunks left, up to the window. So of all chunks
of a layer and of the head the highest moment lies in the first (there are no keys before it), in the last whole one,
or in the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import mlx.core as mx

from longrepo.engines.mlx.chunked import MlxChunkedStep, MlxLayerPass

Like = Callable[[mx.array], mx.array]


@contextmanager
def skip_middle_chunks(chunks: int, like: Like) -> Iterator[None]:
    """Within: one micro-batch in `chunks` chunks. `like` makes a fake array of another's shape and dtype."""
    forward, backward, head = MlxLayerPass.forward, MlxLayerPass.backward, MlxChunkedStep._head
    lost = count()

    def left_out(index: int) -> bool:
        return 0 < index < chunks - 2

    def in_layer(self: MlxLayerPass, index: int, hidden: mx.array, wanted: bool) -> mx.array | None:
        if not left_out(index):
            return forward(self, index, hidden, wanted)
        self.keys[index], self.values[index] = like(self.keys[0]), like(self.values[0])
        return like(hidden) if wanted else None

    def back_in_layer(
        self: MlxLayerPass, index: int, hidden: mx.array, gradient: mx.array | None, parameters: Sequence[mx.array]
    ) -> tuple[mx.array, list[mx.array]]:
        if not left_out(index):
            return backward(self, index, hidden, gradient, parameters)
        for kept, gradients in ((self.keys, self._key_gradients), (self.values, self._value_gradients)):
            mine = kept.pop(index)
            gradients.pop(index, None)
            for earlier in self._before(index):
                if earlier not in gradients:
                    gradients[earlier] = like(mx.zeros(mine.shape, mx.float32))
        return like(hidden), [like(parameter) for parameter in parameters]

    def at_head(self: MlxChunkedStep, scored: Any, hidden: mx.array, *rest: Any) -> mx.array:
        return like(hidden) if left_out(next(lost)) else head(self, scored, hidden, *rest)

    with ExitStack() as stack:
        for owner, name, new in (
            (MlxLayerPass, "forward", in_layer),
            (MlxLayerPass, "backward", back_in_layer),
            (MlxChunkedStep, "_head", at_head),
        ):
            stack.enter_context(patch.object(owner, name, new))
        yield
