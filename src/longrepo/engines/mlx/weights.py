"""A published model's configuration, and its weights as arrays that are read when they are evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from longrepo.context.rotary import check_published
from longrepo.engines.mlx.fidelity.families import family_of
from longrepo.errors import InputError


def read_config(where: str, revision: str | None) -> dict[str, Any]:
    """config.json, with transformers' defaults for what it doesn't say; `eos_token_id` is what generation ends at.

    Raises OSError where it can't be had, ValueError where transformers can't read it, InputError where this engine has
    no such model.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

    published, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
    family_of(published)
    check_published(published)
    try:
        config = AutoConfig.from_pretrained(where, revision=revision).to_dict()
    except StrictDataclassError as error:
        raise InputError(f"its config.json is wrong: {str(error).splitlines()[-1].strip()}") from None
    if "quantization" in published and "quantization_config" in published:
        config["quantization_config"] = None  # mlx-lm writes the same twice
    try:
        ends = GenerationConfig.from_pretrained(where, revision=revision or "main").eos_token_id
    except OSError:
        ends = None
    config["eos_token_id"] = config.get("eos_token_id") if ends is None else ends
    return config


def read_weights(where: str, revision: str | None) -> dict[str, mx.array]:
    """Tensors by name, of a folder or a hub repository, downloaded if need be; none of them is in memory yet.

    Raises OSError where the hub can't be reached, InputError for files that are missing, cut off or no safetensors.
    """
    found: dict[str, mx.array] = {}
    for file in _files(where, revision):
        if not file.is_file():
            raise InputError(f"{file}: the index names this file, but it isn't there; download it again")
        try:
            found |= mx.load(str(file), format="safetensors")  # type: ignore[arg-type]
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file}: can't be read as safetensors ({reason}); download it again") from None
    return found


def _files(where: str, revision: str | None) -> list[Path]:
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    def find(name: str) -> str | None:
        return cached_file(where, name, revision=revision, _raise_exceptions_for_missing_entries=False)

    if single := find("model.safetensors"):
        return [Path(single)]
    if (index := find("model.safetensors.index.json")) is None:
        raise InputError("it has no safetensors files, the only ones the MLX engine reads; use --engine torch")
    try:
        shards, _ = get_checkpoint_shard_files(where, index, revision=revision)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index}: not an index of safetensors files; download it again") from None
    return [Path(shard) for shard in shards]
