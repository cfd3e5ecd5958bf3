"""What was accumulated since the last update, float32 by name."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from longrepo.engines.mlx.lora import Slot


class Gradients:
    """Of the slots named in `trained`; others' are dropped."""

    def __init__(self, trained: set[str]) -> None:
        self.trained = trained
        self.by_name: dict[str, mx.array] = {}

    def add(self, slots: Sequence[Slot], news: Sequence[mx.array]) -> None:
        for slot, new in zip(slots, news, strict=True):
            if slot.name in self.trained:
                former = self.by_name.get(slot.name)
                self.by_name[slot.name] = new if former is None else former + new

    def of(self, slots: Sequence[Slot]) -> list[mx.array]:
        return [self.by_name[slot.name] for slot in slots if slot.name in self.by_name]

    def clear(self) -> None:
        self.by_name.clear()
