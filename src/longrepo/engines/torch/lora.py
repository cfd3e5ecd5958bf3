"""LoRA from PEFT on a frozen base."""

from __future__ import annotations

from typing import Any

import peft
import torch

from longrepo.config.schema import Settings
from longrepo.errors import InputError


def attach_lora(base: Any, settings: Settings) -> peft.PeftModel:
    """Wrap a causal language model of transformers. Raises InputError where a target module isn't there."""
    lora = settings.lora
    modules = {name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, torch.nn.Linear)}
    missing = [name for name in lora.target_modules if name not in modules]
    if missing:
        raise InputError(
            f"lora.target_modules: {settings.model.name} has no {', '.join(missing)}; "
            f"it has {', '.join(sorted(modules))}"
        )
    if settings.training.use_gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(settings.training.seed)  # LoRA's A matrices start random
    return peft.get_peft_model(
        base,
        peft.LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # declared int, used as a factor
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            task_type="CAUSAL_LM",
        ),
    )
