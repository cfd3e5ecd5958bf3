"""Read an `adapter_config.json` of PEFT as plain LoRA of one rank and one scale, or refuse it.

rsLoRA, `rank_pattern`, `alpha_pattern`, `exclude_modules`, layer subsets and regular expressions of modules are LoRA of
several ranks and scales on some modules. Padded with zeros to the largest rank, and with the ratio of the scales in B,
they are the same function with one rank and one scale, which is all that engines and other tools need to know.

An adapter of another kind (DoRA, aLoRA, …), or one whose initialisation changed the base's weights (PiSSA, OLoRA,
CorDA, LoftQ, …), isn't LoRA on the published base: it is refused by everything alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longrepo.errors import InputError

Array = npt.NDArray[np.float32]
# Keys that don't change what plain LoRA computes, or that LoraScheme reads.
_KNOWN_KEYS = frozenset(
    (
        *("alpha_pattern", "exclude_modules", "init_lora_weights", "layers_pattern", "layers_to_transform"),
        *("lora_alpha", "lora_dropout", "r", "rank_pattern", "target_modules", "trainable_token_indices", "use_rslora"),
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"),
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "runtime_config", "task_type"),  # of a start
        *("megatron_core", "qalora_group_size"),  # of no effect without megatron_config and use_qalora
    )
)
_DEFAULT = 8  # of r and lora_alpha
_BASE_KEEPING_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_CONVERT = (
    "convert it to plain LoRA when it is trained (save_pretrained with path_initial_model_for_weight_conversion), or "
    "merge it with PEFT (merge_and_unload) and use the merged model"
)
MERGE_IT = "merge it with PEFT (merge_and_unload) and use the merged model"


def check_plain_lora(config: Mapping[str, Any], file: Path) -> None:
    """Raise InputError unless the adapter is LoRA on the base as published, with the way out."""
    if (kind := config.get("peft_type")) != "LORA":
        raise InputError(f"{file}: only plain LoRA is supported, but its peft_type is {kind}; {MERGE_IT}")
    start = config.get("init_lora_weights", True)
    if start not in _BASE_KEEPING_STARTS:
        raise InputError(
            f"{file}: its start changed the base's weights (init_lora_weights {start}), so it doesn't fit the base as "
            f"published; {_CONVERT}"
        )
    unknown = sorted(name for name, value in config.items() if value and name not in _KNOWN_KEYS)
    unknown = [name for name in unknown if (name, config[name]) != ("bias", "none")]
    if unknown:
        raise InputError(f"{file}: only plain LoRA is supported, but this has {unknown[0]}; {MERGE_IT}")


@dataclass(frozen=True)
class LoraScheme:
    """Which modules an adapter has and how, by a configuration that `check_plain_lora` accepts."""

    config: Mapping[str, Any]

    def has(self, module: str) -> bool:
        """Return whether it adapts the module at this path (PEFT 0.21, `check_target_module_exists`)."""
        config = self.config
        if _matches(config.get("exclude_modules"), module) or not _matches(config.get("target_modules"), module):
            return False
        layers = config.get("layers_to_transform")
        if layers is None or layers == [] or isinstance(config.get("target_modules"), str):
            return True
        patterns = config.get("layers_pattern") or [r"[^.]*"]
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if found := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
                return int(found[1]) in ([layers] if isinstance(layers, int) else layers)
        return False

    def rank(self, module: str) -> int:
        return int(self._of("rank_pattern", module, self._rank))

    def scale(self, module: str) -> float:
        """Return the factor of B · A in a module."""
        return self._scale(float(self._of("alpha_pattern", module, self._alpha)), self.rank(module))

    @property
    def own_scale(self) -> float:
        """The factor of modules that no pattern names: the one to which all others are brought."""
        return self._scale(self._alpha, self._rank)

    @property
    def largest_rank(self) -> int:
        return max((self._rank, *(int(rank) for rank in (self.config.get("rank_pattern") or {}).values())))

    @property
    def alpha(self) -> float:
        """The `alpha` of a plain adapter of `largest_rank` that has `own_scale`."""
        same = self.largest_rank == self._rank and not self.config.get("use_rslora")
        return self._alpha if same else self.own_scale * self.largest_rank

    @property
    def _rank(self) -> int:
        return int(self.config.get("r", _DEFAULT))

    @property
    def _alpha(self) -> float:
        return float(self.config.get("lora_alpha", _DEFAULT))

    def _scale(self, alpha: float, rank: int) -> float:
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def plain(self, module: str, a: Array, b: Array, rank: int) -> tuple[Array, Array]:
        """Return A `[rank, in]` and B `[out, rank]` of the plain adapter, from the file's `[r, in]` and `[out, r]`."""
        ratio = self.scale(module) / self.own_scale
        b = b if ratio == 1 else (b * np.float32(ratio)).astype(np.float32)
        if (more := rank - a.shape[0]) <= 0:
            return a, b
        return np.pad(a, ((0, more), (0, 0))), np.pad(b, ((0, 0), (0, more)))

    def _of(self, pattern: str, module: str, default: Any) -> Any:
        """Return a pattern's value for a module (PEFT 0.21, `get_pattern_key`)."""
        for key, value in (self.config.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default


def module_names(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the last names of modules' paths, sorted: what `lora.target_modules` calls them."""
    return tuple(sorted({module.rpartition(".")[2] for module in modules}))


def _matches(targets: Any, module: str) -> bool:
    if not targets:
        return False
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)
