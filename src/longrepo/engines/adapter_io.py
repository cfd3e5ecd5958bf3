"""PEFT's names for what is trained, the same whichever engine trained it; no framework is imported here.

An engine other than torch calls a LoRA layer by its module's path in the model (`model.layers.0.self_attn.q_proj`) and
its two matrices `lora_a` `[in, r]` and `lora_b` `[r, out]`; PEFT keeps both transposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from longrepo.config.schema import Settings
from longrepo.errors import InputError

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
EMBEDDING_MODULE = "model.embed_tokens"
TOKEN_ROWS_PATH = "rows"  # the path of the structure tokens' trained rows
_PREFIX = "base_model.model."
_LORA_MATRICES = {"lora_a": "lora_A", "lora_b": "lora_B"}

TensorShapes = Mapping[str, Sequence[int]]


def tensor_name(path: str) -> str:
    """What the adapter's file calls a trained path (`<module>.lora_a`, `<module>.lora_b` or `rows`)."""
    if path == TOKEN_ROWS_PATH:
        return f"{_PREFIX}{EMBEDDING_MODULE}.token_adapter.trainable_tokens_delta"
    module, _, matrix = path.rpartition(".")
    return f"{_PREFIX}{module}.{_LORA_MATRICES[matrix]}.weight"


def parameter_name(path: str) -> str:
    """What the torch engine, and so the optimizer's file, calls a trained path."""
    if path == TOKEN_ROWS_PATH:
        return f"{_PREFIX}{EMBEDDING_MODULE}.rows.weight"
    module, _, matrix = path.rpartition(".")
    return f"{_PREFIX}{module}.{_LORA_MATRICES[matrix]}.default.weight"


def lora_path(tensor: str) -> str | None:
    """The path that a LoRA matrix of an adapter's file stands for; None where the tensor is something else."""
    for ours, theirs in _LORA_MATRICES.items():
        if tensor.startswith(_PREFIX) and tensor.endswith(f".{theirs}.weight"):
            return f"{tensor.removeprefix(_PREFIX).removesuffix(f'.{theirs}.weight')}.{ours}"
    return None


def adapter_config(settings: Settings, row_ids: list[int] | None) -> dict[str, Any]:
    """`adapter_config.json` of a LoRA adapter; PEFT's defaults hold for what it leaves out."""
    lora = settings.lora
    return lora_config(settings.model.name, lora.r, lora.alpha, lora.dropout, lora.target_modules, row_ids)


def lora_config(
    base: str | None, r: int, alpha: float, dropout: float, modules: Iterable[str], row_ids: list[int] | None
) -> dict[str, Any]:
    """As `config_of`, from the values themselves."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": r,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": row_ids,
        "use_dora": False,
        "use_rslora": False,
    }


def check_adapter(file: Path, ours: TensorShapes, saved: TensorShapes) -> None:
    """Raises InputError where an adapter's tensors aren't those of the model, by name or by shape."""
    wrong = sorted(ours.keys() ^ saved.keys()) or [n for n in sorted(ours) if tuple(ours[n]) != tuple(saved[n])]
    if wrong:
        raise InputError(
            f"{file}: made for another base model, other LoRA settings or other structure tokens "
            f"(first difference: {wrong[0]}); use the settings.yaml of the run it comes from"
        )


def unreadable_adapter(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: can't be read as an adapter ({error}); give a folder in PEFT's format")


def unreadable_optimizer(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: can't be read as an optimizer's state ({error}); use another checkpoint")


def unknown_parameter(file: Path, name: str) -> InputError:
    return InputError(f"{file}: state of unknown parameters ({name}); the LoRA settings differ")
