"""LoRA on a frozen base: mlx-lm's layer, its weights cast to what is computed in, its dropout ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.lora import LoRALinear

from longrepo.config.schema import Settings
from longrepo.engines.dropout_key import DropoutKey
from longrepo.engines.mlx.dropout import DerivedDropout
from longrepo.errors import InputError

PARTS = ("lora_a", "lora_b")


class Lora(LoRALinear):
    """`lora_a` `[in, r]` and `lora_b` `[r, out]` in float32. `active` False: the base alone."""

    active = True

    @staticmethod
    def on(linear: Any, r: int, scale: float, dropout: Any) -> Lora:
        out, packed = linear.weight.shape
        width = packed * 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else packed
        layer = Lora(width, out, r=r, scale=scale)
        layer.linear, layer.dropout = linear, dropout
        mx.eval(layer.lora_a, layer.lora_b)
        return layer

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        if not self.active:
            return y
        low = self.dropout(x) @ self.lora_a.astype(x.dtype)
        return y + self.scale * (low @ self.lora_b.astype(x.dtype))


@dataclass
class Slot:
    """A trained array where it lives: `name` is its path in the model."""

    name: str
    module: Any
    attribute: str

    @property
    def value(self) -> mx.array:
        return self.module[self.attribute]

    @value.setter
    def value(self, array: mx.array) -> None:
        self.module[self.attribute] = array


def attach_lora(model: Any, settings: Settings) -> DropoutKey:
    """Put LoRA on the target modules of a model of mlx-lm. Raises InputError where one isn't there."""
    lora, key = settings.lora, DropoutKey()
    linears = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.QuantizedLinear) and ".layers." in f".{path}"
    }
    names = {path.rpartition(".")[2] for path in linears}
    if missing := [name for name in lora.target_modules if name not in names]:
        raise InputError(
            f"lora.target_modules: {settings.model.name} has no {', '.join(missing)}; it has {', '.join(sorted(names))}"
        )
    mx.random.seed(settings.training.seed)  # LoRA's A matrices start random
    targets = [path for path in sorted(linears, key=_numeric) if path.rpartition(".")[2] in lora.target_modules]
    for number, path in enumerate(targets):
        parent, name = _parent(model, path)
        dropout = DerivedDropout(lora.dropout, number, key)
        parent[name] = Lora.on(linears[path], lora.r, lora.alpha / lora.r, dropout)
    return key


def slots_of(module: Any, prefix: str = "") -> list[Slot]:
    """LoRA's arrays within a module, in the order of their names; `prefix`: the module's own path."""
    found = [(path, one) for path, one in module.named_modules() if isinstance(one, Lora)]
    return [
        Slot(".".join(filter(None, (prefix, path, part))), one, part)
        for path, one in sorted(found, key=lambda pair: _numeric(pair[0]))
        for part in PARTS
    ]


@contextmanager
def placed(slots: Sequence[Slot], values: Sequence[mx.array]) -> Iterator[None]:
    """Within: the slots hold `values`; tracers are not left in the model."""
    before = [slot.value for slot in slots]
    for slot, value in zip(slots, values, strict=True):
        slot.value = value
    try:
        yield
    finally:
        for slot, value in zip(slots, before, strict=True):
            slot.value = value


def _numeric(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _parent(model: Any, path: str) -> tuple[Any, str]:
    *way, name = path.split(".")
    for part in way:
        model = model[int(part)] if isinstance(model, list) else getattr(model, part)
    return model, name
