"""What the MLX engine trains: LoRA on a frozen base, rows for the structure tokens, and AdamW.

LoRA is mlx-lm's layer, cast to the dtype of the activations, with dropout masks from `longrepo.engines.chunked`. The
trained rows are k rows of their own that replace the base's, in a tied head too. AdamW is MLX's with torch's bias
correction, and evaluates one parameter at a time. Adapter and moments are converted to PEFT's names and orientation, in
which `longrepo.engines.adapter_io` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner.lora import LoRALinear

from longrepo.config.schema import Settings
from longrepo.engines import adapter_io
from longrepo.engines.adapter_io import Array
from longrepo.engines.chunked import DROPOUT_BLOCK, DropoutKey, dropout_blocks, dropout_seed
from longrepo.engines.lora_targets import automatic_targets, with_lora_targets
from longrepo.engines.mlx.device import to_float
from longrepo.engines.mlx.load import layer_linears


class MlxTokenEmbeddings(nn.Module):
    """Trained embedding rows: `weight` float32 `[k, hidden]` for the ascending token ids `ids` int32 `[k]`. If `active`
    is False, the base's rows are used."""

    def __init__(self, ids: Sequence[int], embedding: Any, vocabulary: int) -> None:
        super().__init__()
        self.ids = mx.array(sorted(ids), dtype=mx.int32)
        self.weight = embedding(self.ids).astype(mx.float32)
        slots = [-1] * vocabulary
        for slot, token in enumerate(sorted(ids)):
            slots[token] = slot
        self._slots = mx.array(slots, dtype=mx.int32)  # token -> its row, or -1
        self.active = True
        mx.eval(self.weight, self._slots)

    def of(self, ids: mx.array) -> tuple[mx.array, mx.array]:
        """Return which of `ids` are trained, and the row of each."""
        slots = self._slots[ids]
        return slots >= 0, self.weight[mx.maximum(slots, 0)]


class MlxPatchedEmbedding(nn.Module):
    """The base's embedding (and tied head), in which the rows of some ids come from `rows`."""

    def __init__(self, base: Any, rows: MlxTokenEmbeddings) -> None:
        super().__init__()
        self.base, self.rows = base, rows

    def __call__(self, ids: mx.array) -> mx.array:
        hidden = self.base(ids)
        if not self.rows.active:
            return hidden
        trained, rows = self.rows.of(ids)
        return mx.where(trained[..., None], rows.astype(hidden.dtype), hidden)

    def as_linear(self, hidden: mx.array) -> mx.array:
        logits = self.base.as_linear(hidden)
        if not self.rows.active:
            return logits
        logits[..., self.rows.ids] = (hidden @ self.rows.weight.T.astype(hidden.dtype)).astype(logits.dtype)
        return logits


def add_trained_tokens(model: Any, ids: Sequence[int], vocabulary: int) -> MlxTokenEmbeddings:
    """Put trained rows for `ids` into an mlx-lm model; return the rows."""
    rows = MlxTokenEmbeddings(ids, model.model.embed_tokens, vocabulary)
    model.model.embed_tokens = MlxPatchedEmbedding(model.model.embed_tokens, rows)
    return rows


class MlxDerivedDropout(nn.Module):
    """Zeroes each element of `[rows, tokens, features]` with probability `p` and scales the others by 1 / (1 - p). It
    is the identity in eval mode."""

    def __init__(self, p: float, number: int, key: DropoutKey) -> None:
        super().__init__()
        self._p, self._number, self._key = p, number, key

    def __call__(self, x: mx.array) -> mx.array:
        if not self.training or self._p == 0:
            return x
        return mx.where(self._mask(*x.shape), x * (1 / (1 - self._p)), mx.zeros((), x.dtype))

    def _mask(self, rows: int, tokens: int, features: int) -> mx.array:
        """Return which elements are kept, bool `[rows, tokens, features]`."""
        start = self._key.start
        masks = [
            mx.concatenate([self._block(row, *block, features) for block in dropout_blocks(start, start + tokens)])
            for row in range(rows)
        ]
        return mx.stack(masks)

    def _block(self, row: int, block: int, first: int, last: int, features: int) -> mx.array:
        key = mx.random.key(dropout_seed(self._key.key, self._number, row, block))
        return mx.random.bernoulli(1 - self._p, (DROPOUT_BLOCK, features), key)[first:last]


LORA_MATRICES = ("lora_a", "lora_b")


class LoraLinear(LoRALinear):
    """LoRA with `lora_a` `[in, r]` and `lora_b` `[r, out]` in float32. If `active` is False, only the base computes."""

    active = True

    @staticmethod
    def on(linear: Any, r: int, scale: float, dropout: Any) -> LoraLinear:
        out, packed = linear.weight.shape
        width = packed * 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else packed
        layer = LoraLinear(width, out, r=r, scale=scale)
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
class ParameterSlot:
    """A trained array's place in the model; `name` is its path."""

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
    """Add LoRA to those of the target modules that an mlx-lm model has."""
    key, linears = DropoutKey(), layer_linears(model)
    lora = with_lora_targets(settings, automatic_targets(linears)).lora
    mx.random.seed(settings.training.seed)  # LoRA's A matrices start random
    targets = [path for path in sorted(linears, key=_path_sort_key) if path.rpartition(".")[2] in lora.module_names]
    for number, path in enumerate(targets):
        parent, name = _parent_module(model, path)
        dropout = MlxDerivedDropout(lora.dropout, number, key)
        parent[name] = LoraLinear.on(linears[path], lora.r, lora.alpha / lora.r, dropout)
    return key


def lora_slots(module: Any, prefix: str = "") -> list[ParameterSlot]:
    """Return LoRA's arrays in a module, in the order of their names; `prefix` is the module's own path."""
    layers = [(path, one) for path, one in module.named_modules() if isinstance(one, LoraLinear)]
    return [
        ParameterSlot(".".join(filter(None, (prefix, path, part))), one, part)
        for path, one in sorted(layers, key=lambda pair: _path_sort_key(pair[0]))
        for part in LORA_MATRICES
    ]


@contextmanager
def temporary_values(slots: Sequence[ParameterSlot], values: Sequence[mx.array]) -> Iterator[None]:
    """Put `values` into the slots inside the context, and the previous ones back afterwards (no tracer is left)."""
    before = [slot.value for slot in slots]
    for slot, value in zip(slots, values, strict=True):
        slot.value = value
    try:
        yield
    finally:
        for slot, value in zip(slots, before, strict=True):
            slot.value = value


def _path_sort_key(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _parent_module(model: Any, path: str) -> tuple[Any, str]:
    *way, name = path.split(".")
    for part in way:
        model = model[int(part)] if isinstance(model, list) else getattr(model, part)
    return model, name


class Gradients:
    """Gradients accumulated since the last update, float32 by name; those of slots not in `trained` are dropped."""

    def __init__(self, trained: set[str]) -> None:
        self.trained = trained
        self.by_name: dict[str, mx.array] = {}

    def add(self, slots: Sequence[ParameterSlot], news: Sequence[mx.array]) -> None:
        for slot, new in zip(slots, news, strict=True):
            if slot.name in self.trained:
                previous = self.by_name.get(slot.name)
                self.by_name[slot.name] = new if previous is None else previous + new

    def of(self, slots: Sequence[ParameterSlot]) -> list[mx.array]:
        return [self.by_name[slot.name] for slot in slots if slot.name in self.by_name]

    def clear(self) -> None:
        self.by_name.clear()


Moments = tuple[mx.array, mx.array]  # first (gradient) and second (its square), float32


class MlxAdamW:
    """AdamW with `moments` by parameter name (once updated) and `step`, the number of updates so far."""

    def __init__(self, weight_decay: float) -> None:
        self._adamw = optim.AdamW(0.0, weight_decay=weight_decay, bias_correction=True)
        self.moments: dict[str, Moments] = {}
        self.step = 0

    def update(
        self, slots: Sequence[ParameterSlot], gradients: Gradients, learning_rate: float, max_norm: float
    ) -> float:
        """Clip by global norm and take a step, unless the norm isn't finite; return the norm before clipping."""
        norm = math.sqrt(math.fsum(to_float(mx.square(g).sum()) for g in gradients.by_name.values()))
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


def adapter_tensors(slots: Sequence[ParameterSlot]) -> dict[str, mx.array]:
    """Return the trained arrays by PEFT's names and in its orientation, as unevaluated views."""
    return {adapter_io.tensor_name(slot.name): _transpose_lora(slot.name, slot.value) for slot in slots}


def set_adapter(slots: Sequence[ParameterSlot], saved: Mapping[str, Array]) -> None:
    """Put an adapter, named as by `adapter_tensors`, into the slots."""
    for slot in slots:
        slot.value = _from_numpy(slot.name, saved[adapter_io.tensor_name(slot.name)])


def moment_shapes(slots: Sequence[ParameterSlot]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the slots' moments by their names in the optimizer's file."""
    return {adapter_io.parameter_name(slot.name): _transpose_lora(slot.name, slot.value).shape for slot in slots}


def moments_to_numpy(moments: Mapping[str, Moments]) -> dict[str, adapter_io.Moments]:
    """Return the moments by the names and in the orientation of the optimizer's file."""
    return {
        adapter_io.parameter_name(path): (_to_numpy(path, first), _to_numpy(path, second))
        for path, (first, second) in moments.items()
    }


def moments_from_numpy(saved: Mapping[str, adapter_io.Moments], paths: Iterable[str]) -> dict[str, Moments]:
    """Return the moments of those `paths` that the file has, as the optimizer stores them."""
    names = {path: adapter_io.parameter_name(path) for path in paths}
    return {
        path: (_from_numpy(path, saved[name][0]), _from_numpy(path, saved[name][1]))
        for path, name in names.items()
        if name in saved
    }


def _to_numpy(path: str, array: mx.array) -> Array:
    return np.array(_transpose_lora(path, array))


def _from_numpy(path: str, array: Array) -> mx.array:
    tensor = mx.contiguous(_transpose_lora(path, mx.array(array)))
    mx.eval(tensor)
    return tensor


def _transpose_lora(path: str, tensor: mx.array) -> mx.array:
    """Transpose LoRA's matrices, which PEFT stores transposed; rows are the same in both."""
    return tensor if path == adapter_io.TOKEN_ROWS_PATH else tensor.T
