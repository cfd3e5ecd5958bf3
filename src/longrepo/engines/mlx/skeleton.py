"""A model's architecture without its weights: lazy arrays of the true shapes, none of them evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from longrepo.config.schema import Settings
from longrepo.engines.mlx.fidelity.families import build
from longrepo.engines.mlx.quantised import BITS, GROUP


def skeleton(config: dict[str, Any], settings: Settings, dtype: mx.Dtype) -> Any:
    """What `longrepo.engines.mlx.load.load_base` would load for `config`, transformers' with the final vocabulary.

    Raises InputError where this engine has no such model.
    """
    model: Any = build(config)
    model.set_dtype(dtype)
    if published := config.get("quantization"):
        nn.quantize(model, published["group_size"], published["bits"])
    elif settings.model.quantization == "nf4":
        packed = [(path, one.to_quantized(GROUP, BITS)) for path, one in linears(model) if _packable(one)]
        model.update_modules(tree_unflatten(packed))
    model.freeze()
    model.eval()
    return model


def counts(config: dict[str, Any]) -> dict[str, Any]:
    """Of a model: `linear` parameters of the layers' linear modules, `other` parameters, and `lora`: by the name of a
    linear module its in and out features, summed over all layers."""
    model = build(config)
    arrays: list[Any] = tree_flatten(model.parameters())  # type: ignore[assignment]
    total = sum(array.size for _, array in arrays)
    linear, lora = 0, dict[str, int]()
    for path, module in linears(model):
        name = path.rpartition(".")[2]
        linear += module.weight.size
        lora[name] = lora.get(name, 0) + sum(module.weight.shape)
    return {"linear": linear, "other": total - linear, "lora": lora}


def linears(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers' linear modules with their paths."""
    return ((path, one) for path, one in model.named_modules() if isinstance(one, nn.Linear) and ".layers." in path)


def _packable(linear: Any) -> bool:
    return linear.weight.shape[-1] % GROUP == 0
