"""The folder that mlx-lm takes as `--adapter-path`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx

from longrepo.engines.peft_names import CONFIG
from longrepo.export.peft_adapter import PeftAdapter

MLX_WEIGHTS = "adapters.safetensors"
LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")  # of a module's path: the layer, and the rest


def write_mlx_adapters(folder: Path, adapter: PeftAdapter, base: str, layers: int) -> None:
    """Write `adapters.safetensors` and `adapter_config.json` into a new folder; the model has `layers` layers."""
    folder.mkdir()
    tensors = {path: mx.contiguous(tensor) for path, tensor in adapter.lora.items()}
    mx.save_safetensors(str(folder / MLX_WEIGHTS), tensors, metadata={"format": "mlx"})
    config: dict[str, Any] = {
        "fine_tune_type": "lora",
        "model": base,
        "num_layers": layers,
        "lora_parameters": {
            "rank": adapter.r,
            "scale": adapter.scale,
            "dropout": adapter.dropout,
            "keys": sorted({module_key(path.rpartition(".")[0]) for path in adapter.lora}),
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def module_key(module: str) -> str:
    """mlx-lm's name of a module: within its layer, or whole."""
    within = LAYER.fullmatch(module)
    return within[2] if within else module
