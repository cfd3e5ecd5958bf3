"""What a model is made of: its parameters by part, counted on the architecture itself without any weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longrepo.errors import InputError

PARTS = ("embedding", "positions", "attention", "mlp", "norms", "head", "other")


@dataclass(frozen=True)
class Parts:
    """Parameters by part (`PARTS`); what is tied counts once, in the embedding. Rotary positions have none."""

    by_part: dict[str, int]
    tied: bool
    rotary: bool

    @property
    def total(self) -> int:
        return sum(self.by_part.values())

    @property
    def position_share(self) -> float:
        """Of all parameters."""
        return self.by_part["positions"] / self.total


def count_parts(config: Any) -> Parts:
    """Build the architecture of a configuration of transformers on torch's `meta` device, and count.

    Raises InputError where transformers has no causal language model of that kind.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"model {config.name_or_path}: can't be built ({reason})") from None
    tokens, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    counted = dict.fromkeys(PARTS, 0)
    seen: set[int] = set()
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                counted[_part(path, module, parameter is tokens, parameter is head)] += parameter.numel()
    rotary = any("rotary" in name for name, _ in model.named_modules())
    return Parts(counted, tied=tokens is head, rotary=rotary)


def _part(path: str, module: Any, tokens: bool, head: bool) -> str:
    if tokens:
        return "embedding"
    if head:
        return "head"
    kind, names = type(module).__name__.lower(), path.lower().split(".")
    if kind == "embedding" or "position" in names[-1]:
        return "positions"
    if "norm" in kind:
        return "norms"
    if any("attn" in name or "attention" in name for name in names):
        return "attention"
    if any(name in ("mlp", "feed_forward", "ffn") or "expert" in name for name in names):
        return "mlp"
    return "other"
