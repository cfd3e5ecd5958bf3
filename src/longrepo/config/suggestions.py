"""The setting that an unknown name was probably meant to be: by other tools' names, another section, or spelling."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from longrepo.config.schema import Settings

PathPart = str | int

# The names that PEFT, transformers, TRL, Axolotl and mlx-lm have for our settings; without marks and in lower case.
_OTHER_NAMES = {
    "lora.r": "rank lora_r lora_rank",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.target_modules": "modules keys lora_target_modules target_layers",
    "model.name": "path id model_id base_model model_name_or_path pretrained_model_name_or_path repo_id",
    "model.max_position_embeddings": "max_length max_seq_length max_seq_len sequence_length sequence_len block_size "
    "context_length cutoff_len model_max_length",
    "model.quantization": "load_in_4bit bits quant_type bnb_4bit_quant_type quantize",
    "model.double_quantization": "bnb_4bit_use_double_quant double_quant",
    "data.redact": "redact_secrets",
    "data.fim_share": "fim_rate",
    "training.base_learning_rate": "lr learning_rate",
    "training.warmup_ratio": "warmup warmup_steps",
    "training.batch_size_reference": "batch_size micro_batch_size per_device_train_batch_size train_batch_size",
    "training.gradient_accumulation_steps": "grad_accumulation_steps gradient_accumulation grad_accum "
    "accumulate_grad_batches",
    "training.use_gradient_checkpointing": "grad_checkpoint gradient_checkpointing activation_checkpointing",
    "training.max_grad_norm": "gradient_clipping clip_grad grad_clip",
    "training.precision": "dtype bf16 fp16 torch_dtype mixed_precision",
    "training.early_stopping_patience": "patience",
    "training.save_every_steps": "save_steps save_every steps_per_save",
    "training.keep_last": "save_total_limit",
    "training.max_updates": "max_steps iters max_iters num_iters",
    "training.max_validation_sequences": "val_batches max_eval_samples eval_iters",
    "training.report_to": "logger log_with wandb mlflow",
    "long_context.phase1_epochs": "epochs num_epochs num_train_epochs",
    "context.method": "rope_type rope_scaling scaling",
    "context.window": "sliding_window",
    "context.factor": "rope_factor scaling_factor",
    "memory.budget_gb": "budget limit limit_gb max_memory memory_limit",
}
_BY_OTHER_NAME = {other: ours for ours, names in _OTHER_NAMES.items() for other in names.split()}


def dotted_key(path: Sequence[PathPart]) -> str:
    """Join a path: `("long_context", "further_phases", 0, "epochs")` → `long_context.further_phases[0].epochs`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, by itself or in a list; None if it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := section_in(one))), None)


def nearest_key(path: Sequence[PathPart]) -> str | None:
    """Return the known key that an unknown one was probably meant to be."""
    *above, wrong = path
    if above:
        section: type[BaseModel] | None = Settings
        for part in above:
            if isinstance(part, str) and section is not None and part in section.model_fields:
                section = section_in(section.model_fields[part].annotation)
        if section not in (None, Settings):
            near = _closest(wrong, section.model_fields, 0.75)
            if near and not re.match(r"phase[4-9]", str(wrong)):
                return dotted_key((*above, near))
            return nearest_name(str(wrong)) or _in_section(above, wrong, section)
    return nearest_name(str(wrong))


def nearest_name(name: str) -> str | None:
    """Return the setting, or the section, of this name or nearly this name, whichever section it was looked for in."""
    plain = name.lower().replace("-", "_")
    if re.match(r"phase\d", plain):
        plain = re.sub(r"^phase([4-9]|\d\d).*", "further_phases", plain)
    by_last = {key.rpartition(".")[2]: key for key in (*Settings.model_fields, *all_keys())}
    if plain in by_last or plain in _BY_OTHER_NAME:
        return by_last.get(plain) or _BY_OTHER_NAME[plain]
    match = _closest(plain, {**_BY_OTHER_NAME, **by_last}, 0.75)
    return ({**_BY_OTHER_NAME, **by_last}[match]) if match else None


def _in_section(above: Sequence[PathPart], wrong: PathPart, section: type[BaseModel] | None) -> str | None:
    match = _closest(wrong, section.model_fields, 0.5) if section else None
    return dotted_key((*above, match)) if match else None


def all_keys() -> Iterator[str]:
    """Yield the names of all settings: `model.name`, …"""
    for name, field in Settings.model_fields.items():
        section = section_in(field.annotation)
        yield from (f"{name}.{key}" for key in (section.model_fields if section else ()))


def _closest(word: PathPart, known: Any, cutoff: float) -> str | None:
    match = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return match[0] if match else None
