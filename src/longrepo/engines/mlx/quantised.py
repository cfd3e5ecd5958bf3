"""4-bit layers: what a published folder says of its own, and what this engine makes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from longrepo.config.schema import ModelSettings
from longrepo.errors import InputError

BITS, GROUP = 4, 64


def published_quantisation(config: dict[str, Any], settings: ModelSettings) -> dict[str, Any] | None:
    """mlx-lm's `quantization` of a folder whose weights are 4-bit already, else None.

    Raises InputError where it isn't MLX's affine 4 bits, or isn't what the settings ask for.
    """
    says = config.get("quantization")
    if says is None:
        if other := config.get("quantization_config"):
            method = other.get("quant_method", "another library")
            raise InputError(f"published quantised by {method}; give the unquantised model or an MLX 4-bit folder")
        return None
    kind = f"{says.get('bits')} bits in groups of {says.get('group_size')}"
    if says.get("bits") != BITS or says.get("mode", "affine") != "affine" or not says.get("group_size"):
        raise InputError(
            f"its weights are {says.get('mode', 'affine')} {kind}; the MLX engine takes affine {BITS} bits: "
            "give such a folder or the unquantised model"
        )
    if settings.quantization == "none":
        raise InputError(
            f"its weights are {kind} already; set model.quantization to nf4 (they are taken as they are), "
            "or give the unquantised model"
        )
    return dict(says)


def quantise_skeleton(model: Any, says: dict[str, Any], weights: dict[str, mx.array]) -> None:
    """Turn into quantised layers those of an unevaluated model that have scales among the weights; evaluates nothing.

    Raises InputError where the weights aren't packed as their configuration says.
    """

    def packing(path: str, module: Any) -> bool | dict[str, Any]:
        if f"{path}.scales" not in weights:
            return False
        own = says.get(path)
        asked = {key: ({**says, **own} if isinstance(own, dict) else says)[key] for key in ("group_size", "bits")}
        width = module.weight.shape[-1]
        packed, scales = (weights[f"{path}.{name}"].shape[-1] for name in ("weight", "scales"))
        is_packed = {"group_size": width // scales, "bits": packed * 32 // width}
        if is_packed != asked:
            raise InputError(
                f"{path} is packed as {is_packed['bits']} bits in groups of {is_packed['group_size']}, its config.json "
                f"says {asked['bits']} in groups of {asked['group_size']}; download it again"
            )
        return asked

    nn.quantize(model, class_predicate=packing)


def quantise(linear: Any) -> Any:
    """The linear in 4 bits, evaluated, and the linear emptied: its weight in full is gone. None (nothing done) where
    its input width isn't a multiple of the group."""
    if linear.weight.shape[-1] % GROUP:
        return None
    quantised = linear.to_quantized(GROUP, BITS)
    mx.eval(quantised.parameters())
    linear.clear()
    return quantised
