"""AdamW of mlx, bias correction as torch's, one parameter evaluated at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import mlx.optimizers as optim

from longrepo.engines.mlx.gradients import Gradients
from longrepo.engines.mlx.lora import Slot
from longrepo.engines.mlx.scalar import number

Moments = tuple[mx.array, mx.array]  # of the gradient and of its square, float32


class AdamW:
    """`moments`: by the parameter's name, once it has been updated; `step`: updates until now."""

    def __init__(self, weight_decay: float) -> None:
        self._adamw = optim.AdamW(0.0, weight_decay=weight_decay, bias_correction=True)
        self.moments: dict[str, Moments] = {}
        self.step = 0

    def update(self, slots: Sequence[Slot], gradients: Gradients, learning_rate: float, max_norm: float) -> float:
        """Clip by global norm and step, unless the norm isn't finite; return the norm before clipping."""
        norm = math.sqrt(math.fsum(number(mx.square(g).sum()) for g in gradients.by_name.values()))
        if not math.isfinite(norm):
            return norm
        scale = min(1.0, max_norm / (norm + 1e-6))
        self.step += 1
        self._adamw.learning_rate = learning_rate
        self._adamw.state["step"] = mx.array(self.step, mx.uint64)
        for slot in slots:
            gradient = gradients.by_name.pop(slot.name, None)
            if gradient is None:
                continue
            first, second = self.moments.get(slot.name) or (mx.zeros_like(slot.value), mx.zeros_like(slot.value))
            state = {"m": first, "v": second}
            slot.value = self._adamw.apply_single(gradient * scale, slot.value, state)
            self.moments[slot.name] = state["m"], state["v"]
            mx.eval(slot.value, *self.moments[slot.name])
        return norm
