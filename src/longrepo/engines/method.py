"""How a micro-batch is computed: plainly, or in chunks, and where a chunked step keeps what its backward pass needs.

Every method computes the same loss and gradients. The store never changes a bit; the chunk size changes rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Step = Literal["plain", "chunked"]
Store = Literal["memory", "recompute", "disk"]


@dataclass(frozen=True)
class Method:
    """`plain`: one graph for a sequence (layers checkpointed as `training.use_gradient_checkpointing` says).
    `chunked`: reverse mode in chunks of `chunk` tokens; each layer's inputs, keys and values are kept in memory, on
    disk, or (`recompute`) only the input of every `every`-th layer, and the layers between are computed again."""

    step: Step = "plain"
    chunk: int = 0
    store: Store = "memory"
    every: int = 1

    def __str__(self) -> str:
        if self.step == "plain":
            return "plain"
        kept = f"1 layer in {self.every}" if self.store == "recompute" else self.store
        return f"chunks of {self.chunk}, {kept}"

    def as_dict(self) -> dict[str, str | int]:
        if self.step == "plain":
            return {"step": "plain"}
        kept = {"every": self.every} if self.store == "recompute" else {}
        return {"step": self.step, "chunk": self.chunk, "store": self.store, **kept}

    @staticmethod
    def from_dict(tree: dict[str, str | int]) -> Method:
        """Raises TypeError for what isn't a method."""
        return Method(**tree)  # type: ignore[arg-type]
