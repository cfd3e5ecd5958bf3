"""The adapter in PEFT's own format: what any tool that knows PEFT loads, trained structure-token rows included.

The adapter in PEFT's own format: what any tool that knows PEFT loads, trained structure-token rows included.

AdamW's whole state as safetensors: one file, no pickles, bit-identical when read back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from longrepo.engines.adapter_io import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_adapter,
    unknown_parameter,
    unreadable_adapter,
    unreadable_optimizer,
)
from longrepo.engines.torch.lora import TorchPatchedEmbedding, TorchTokenEmbeddings

Tensor = torch.Tensor


def write_torch_adapter(folder: Path, model: PeftModel, rows: TorchTokenEmbeddings | None, base_name: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` into an existing folder."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in _adapter_tensors(model, rows).items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config |= {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "trainable_token_indices": rows.ids.tolist() if rows else None,
    }
    text = json.dumps(config, indent=2, sort_keys=True, default=_json_value)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


@torch.no_grad()
def read_torch_adapter(folder: Path, model: PeftModel, rows: TorchTokenEmbeddings | None) -> None:
    """Copy a folder's adapter into the model. Raises InputError where it was made for another model or other LoRA."""
    file = folder / ADAPTER_WEIGHTS
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise unreadable_adapter(file, error) from None
    ours = _adapter_tensors(model, rows)
    check_adapter(file, {n: t.shape for n, t in ours.items()}, {n: t.shape for n, t in saved.items()})
    for name, tensor in ours.items():
        tensor.copy_(saved[name])


def _adapter_tensors(model: PeftModel, rows: TorchTokenEmbeddings | None) -> dict[str, Tensor]:
    """PEFT's names for what is trained. The tensors are the model's own, not copies."""
    named = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    if rows is not None:
        embedding = next(name for name, module in model.named_modules() if isinstance(module, TorchPatchedEmbedding))
        named[f"{embedding}.token_adapter.trainable_tokens_delta"] = rows.weight.data
    return named


def _json_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


NamedParameters = dict[str, torch.nn.Parameter]


def write_torch_optimizer(file: Path, optimizer: torch.optim.Optimizer, parameters: NamedParameters) -> None:
    """Write `<parameter>/<exp_avg|exp_avg_sq|step>` for each parameter that has been updated yet."""
    save_file(
        {
            f"{name}/{key}": value.detach().cpu().contiguous()
            for name, parameter in parameters.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        },
        file,
    )


def read_torch_optimizer(file: Path, optimizer: torch.optim.Optimizer, parameters: NamedParameters) -> None:
    """Replace the optimizer's state with the file's. Raises InputError where the parameters differ."""
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise unreadable_optimizer(file, error) from None
    unknown = {key.rpartition("/")[0] for key in saved} - parameters.keys()
    if unknown:
        raise unknown_parameter(file, min(unknown))
    optimizer.state.clear()
    for key, value in saved.items():
        name, _, part = key.rpartition("/")
        parameter = parameters[name]
        # AdamW keeps its step counts on the CPU, the moments beside the parameter.
        optimizer.state[parameter][part] = value if part == "step" else value.to(parameter.device)
