"""What `lora.target_modules: auto` comes to: every linear layer of a model's blocks but the routers of its experts.

It is read from the architecture, in either engine's library, never from a model's name. Heads and embeddings lie
outside the blocks. Experts are one tensor of three dimensions in transformers 5, no linear layers: they stay untrained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from longrepo.config.schema import Settings
from longrepo.errors import InputError

ROUTERS = frozenset(("gate", "router", "shared_expert_gate"))  # last names; what they choose is worth more than LoRA


def automatic_targets(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the last names of those of a model's linear modules that `auto` trains, in the order of their first block.

    A block's modules have its number in their `paths` (`model.layers.0.self_attn.q_proj`)."""
    inside = (path.split(".") for path in paths)
    names = (parts[-1] for parts in inside if any(part.isdecimal() for part in parts))
    return tuple(dict.fromkeys(name for name in names if name not in ROUTERS))


def is_expert(parameter: str, dimensions: int) -> bool:
    """Whether a parameter holds a layer of all of a block's experts at once; `parameter` is its path."""
    return dimensions == 3 and any("expert" in part or part == "switch_mlp" for part in parameter.split("."))


def experts_line(parameters: int) -> str:
    """Say that a model's experts aren't trained."""
    return f"its experts ({parameters / 1e6:,.0f} M parameters) get no LoRA: they are single tensors, not linear layers"


def with_lora_targets(settings: Settings, targets: Sequence[str]) -> Settings:
    """Return the settings with `targets` in the place of `auto`. Raises InputError if there is none to train."""
    if settings.lora.target_modules != "auto":
        return settings
    if not targets and settings.training.weights == "lora":
        raise InputError(
            f"lora.target_modules: the blocks of {settings.model.name} have no linear layers, which are what LoRA "
            "trains; use another base"
        )
    return settings.model_copy(update={"lora": settings.lora.model_copy(update={"target_modules": tuple(targets)})})


def check_lora_targets(settings: Settings, linears: Iterable[str]) -> None:
    """Raise InputError if a target module isn't the last name of one of a model's `linears` (paths or last names)."""
    known, wanted = {path.rpartition(".")[2] for path in linears}, settings.lora.target_modules
    if missing := [name for name in wanted if name not in known] if wanted != "auto" else []:
        raise InputError(
            f"lora.target_modules: {settings.model.name} has no {', '.join(missing)}; it has {', '.join(sorted(known))}"
        )
