"""What a model's configuration says of its rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longrepo.errors import InputError

Config = Mapping[str, Any]
RECORD = "longrepo_context"  # a key of config.json: what was changed of it, and what was there before


@dataclass(frozen=True)
class Rotary:
    """`parameters`: transformers' `rope_parameters` before any scaling of ours. `size`: features of a head that are
    rotated. `native`: tokens that the positions were trained to."""

    parameters: dict[str, Any]
    size: int
    native: int

    @property
    def kind(self) -> str:
        return str(self.parameters.get("rope_type", "default"))

    @property
    def theta(self) -> float:
        return float(self.parameters["rope_theta"])

    def frequencies(self) -> list[float]:
        """Radians a token, `[size / 2]`, from the highest (RoPE, Su et al. 2021, section 3.3.3)."""
        return [self.theta ** (-2 * index / self.size) for index in range(self.size // 2)]


def rotary_of(config: Config) -> Rotary:
    """From config.json with transformers' defaults (`AutoConfig…to_dict()`).

    Raises InputError for a model without rotary positions, or with another setting for each kind of layer.
    """
    record = config.get(RECORD) or {}
    parameters = record.get("native_rope_parameters") or config.get("rope_parameters") or {}
    if not parameters.get("rope_theta"):
        kind = config.get("model_type")
        if any(isinstance(one, Mapping) for one in parameters.values()):
            raise InputError(f"its kinds of layers rotate each in their own way ({kind}): leave context out")
        raise InputError(
            f"it has no rotary positions (model type {kind}), so there is nothing to scale: leave context out, or take "
            "a model that has them, such as StarCoder2, Llama or Qwen2"
        )
    native = int(record.get("native_length") or config["max_position_embeddings"])
    return Rotary(dict(parameters), rotated_size(config), native)


def rotated_size(config: Config) -> int:
    """Features of a head that are rotated."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(head * (config["rope_parameters"].get("partial_rotary_factor") or 1.0))


def is_rotary(config: Config) -> bool:
    parameters = config.get("rope_parameters")
    return bool(parameters and parameters.get("rope_theta"))


def widest_window(config: Config) -> int | None:
    """Tokens that the layer which sees farthest sees; None where that is all."""
    window: int | None = config.get("sliding_window")
    kinds = config.get("layer_types")
    if config.get("use_sliding_window") is False or (kinds and "full_attention" in kinds):
        return None
    return window


def check_published(published: Config) -> None:
    """Raises InputError where config.json as it was published says two things: transformers would follow one of them,
    mlx-lm another."""
    new, old = published.get("rope_parameters"), published.get("rope_scaling")
    if not isinstance(new, Mapping) or any(isinstance(one, Mapping) for one in new.values()):
        return
    theta = published.get("rope_theta")
    if theta is not None and new.get("rope_theta") not in (None, theta):
        raise _two_things("rope_theta", theta, "rope_parameters", new["rope_theta"])
    kind = str(new.get("rope_type", new.get("type", "default")))
    if isinstance(old, Mapping):
        was = str(old.get("rope_type", old.get("type", "default")))
        if was != kind:
            raise _two_things("rope_scaling", was, "rope_parameters", kind)
        for name in sorted((old.keys() & new.keys()) - {"type", "rope_type"}):
            if old[name] != new[name]:
                raise _two_things(f"rope_scaling's {name}", old[name], "rope_parameters", new[name])
    elif "rope_scaling" in published and kind != "default":
        raise _two_things("rope_scaling", "null", "rope_parameters", kind)


def _two_things(one: str, says: Any, other: str, has: Any) -> InputError:
    return InputError(
        f"config.json contradicts itself: {one} says {says}, {other} {has}; make them agree, or delete the wrong one"
    )
