"""A base model's folder as mlx-lm loads it: trained structure rows in its embedding, rope as either spells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.utils import save_config, save_model

from longrepo.engines.mlx.quantised import BITS, GROUP
from longrepo.errors import InputError
from longrepo.export.model_file import MODEL_FILE, model_file
from longrepo.export.peft_adapter import PeftAdapter


def write_mlx_base(folder: Path, model: Any, adapter: PeftAdapter, with_file: bool) -> None:
    """Write the model (as `load_base` made it) into a new folder, without its tokenizer.

    Raises InputError where the adapter is another base's.
    """
    _check_shapes(model, adapter)
    if adapter.rows is not None:
        _set_rows(model, adapter.row_ids, adapter.rows)
    save_model(folder, model)
    config = mlx_config(model)
    if with_file:
        (folder / MODEL_FILE).write_text(model_file(), encoding="utf-8")
        config["model_file"] = MODEL_FILE
    save_config(config, folder / "config.json")


def mlx_config(model: Any) -> dict[str, Any]:
    """The model's config.json: mlx-lm reads `rope_theta` and `rope_scaling`, transformers `rope_parameters`."""
    unset = ("quantization", "quantization_config")
    config = {name: value for name, value in model.published.items() if value is not None or name not in unset}
    rope = config["rope_parameters"]
    config["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    config |= {"eos_token_id": list(model.eos_token_ids), "dtype": str(model.model.norm.weight.dtype).split(".")[-1]}
    if any(isinstance(module, nn.QuantizedLinear) for module in model.modules()):
        config.setdefault("quantization", {"group_size": GROUP, "bits": BITS, "mode": "affine"})
    return config


def _set_rows(model: Any, ids: tuple[int, ...], rows: mx.array) -> None:
    table = model.model.embed_tokens
    weight = table.weight
    if isinstance(table, nn.QuantizedEmbedding):
        weight = mx.dequantize(weight, table.scales, table.biases, table.group_size, table.bits, mode=table.mode)
    if max(ids) >= len(weight):
        raise InputError(f"trained token {max(ids)} is beyond the base's {len(weight)}: it is another base's")
    plain = nn.Embedding(1, 1)
    plain.weight = weight
    plain.weight[mx.array(ids)] = rows.astype(weight.dtype)
    model.model.embed_tokens = plain
    mx.eval(plain.weight)


def _check_shapes(model: Any, adapter: PeftAdapter) -> None:
    modules = dict(model.named_modules())
    for path, tensor in sorted(adapter.lora.items()):
        name, _, matrix = path.rpartition(".")
        side = ("lora_a", "lora_b").index(matrix)
        asked, given = _widths(modules.get(name))[side], tensor.shape[side]
        if given != asked:
            has = f"this base's is {asked}" if asked else "this base has no such layer"
            raise InputError(f"the adapter is another base's: {path} is for a width of {given}, {has}")


def _widths(linear: Any) -> tuple[int, int]:
    """(in, out) of a linear layer, packed or not; zeros for anything else."""
    if not isinstance(linear, nn.Linear | nn.QuantizedLinear):
        return 0, 0
    out, packed = linear.weight.shape
    return (packed * 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else packed), out
