"""A model's shape, counted on the model itself but without its weights."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.engines.base import check_model_type
from longrepo.engines.known_bases import known_bases
from longrepo.engines.lora_targets import automatic_targets, is_expert
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT, engine_config_changes
from longrepo.utils.cache import JsonCache
from longrepo.utils.hub import model_location
from longrepo.utils.hub_access import check_on_hub

if TYPE_CHECKING:
    from longrepo.engines.registry import EngineName


@dataclass(frozen=True)
class ModelShape:
    """What a model is made of: counts of layers, features and parameters."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    linear: int  # parameters of the layers' linear modules: what 4-bit quantization packs
    other: int  # all other parameters, a tied head counted once
    lora: dict[str, int]  # module name -> in + out features, summed over all layers; times r: its LoRA parameters
    max_positions: int
    targets: tuple[str, ...]  # what `lora.target_modules: auto` comes to
    experts: int = 0  # parameters of experts, which aren't linear modules

    def lora_parameters(self, r: int, target_modules: tuple[str, ...]) -> int:
        return r * sum(self.lora.get(name, 0) for name in target_modules)


def read_config(name: str, revision: str | None = None, context: ContextSettings = NATIVE_CONTEXT) -> Any:
    """Read a model's transformers configuration, with its positions changed as `context` says; of a model that sees
    images too (Qwen3.5), its language model's. Raises InputError if there is no readable configuration, or its
    positions can't be changed this way.

    A known base's is read from the copy in this package if the hub's isn't on this machine: no network is asked.
    """
    from transformers import AutoConfig, PreTrainedConfig

    try:
        if is_shipped_config(name, revision):
            config = _shipped_config(name)
        else:
            check_on_hub(name, revision)
            where = model_location(name)
            published, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
            check_model_type(published)
            config = AutoConfig.from_pretrained(where, revision=revision).get_text_config()
            config._name_or_path = name
    except InputError as error:
        raise InputError(str(error) if str(error).startswith("model ") else f"model {name}: {error}") from None
    except (OSError, ValueError, KeyError) as error:
        raise _config_error(name, error) from None
    try:
        config.update(engine_config_changes(config.to_dict(), context))
    except InputError as error:
        raise InputError(f"model {name}: {error}") from None
    return config


def is_shipped_config(name: str, revision: str | None = None) -> bool:
    """Return whether a model's configuration is read from this package, since the hub's isn't on this machine."""
    known = known_bases().get(name)
    if known is None or known.config is None or revision is not None:
        return False
    from huggingface_hub import try_to_load_from_cache

    return not isinstance(try_to_load_from_cache(name, "config.json"), str)


def _shipped_config(name: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    published = known_bases()[name].config
    assert published is not None
    config = CONFIG_MAPPING[published["model_type"]].from_dict(dict(published))
    config._name_or_path = name
    return config


def local_positions(model: ModelSettings, context: ContextSettings) -> int | None:
    """Return how far a model's positions reach; None if its configuration isn't on this machine. Raises InputError if
    its positions can't be changed as `context` says."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(model.name).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        return None  # a tokenizer alone, which is enough to prepare with
    where, revision = model_location(model.name), model.revision
    if not Path(where).is_dir() and not is_shipped_config(model.name, revision):
        cached = try_to_load_from_cache(where, "config.json", revision=revision)
        if not isinstance(cached, str):
            return None
        where = str(Path(cached).parent)
    if context == NATIVE_CONTEXT:  # as published: read without transformers, which takes seconds to import
        if not Path(where).is_dir():
            return known_bases()[model.name].positions
        with suppress(OSError, ValueError):
            text = (Path(where) / "config.json").read_text(encoding="utf-8")
            reach = json.loads(text).get("max_position_embeddings")
            if isinstance(reach, int):
                return reach
    config = read_config(model.name if not Path(where).is_dir() else where, revision, context)
    return getattr(config, "max_position_embeddings", None)


def read_shape(config: Any, engine: EngineName = "torch") -> ModelShape:
    """Build the architecture without weights in the engine's own library and count its parameters; results are cached.
    Raises InputError if the library has no such model."""
    cache = JsonCache("shapes.json")
    key = f"{SHAPE_FORMAT} {engine}: {json.dumps(config.to_dict(), sort_keys=True, default=str)}"
    if (counts := cache.get(key)) is None:
        counts = asdict(_shape(config, _count_with_mlx(config) if engine == "mlx" else _count_with_torch(config)))
        cache.put(key, counts)
    return ModelShape(**counts | {"targets": tuple(counts["targets"])})


SHAPE_FORMAT = 2  # of the cached counts
ParameterCounts = dict[str, Any]  # `linear`, `other`, `lora`, `targets` and `experts`, as in ModelShape


def _shape(config: Any, counts: ParameterCounts) -> ModelShape:
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        max_positions=config.max_position_embeddings,
        **counts,
    )


def _count_with_mlx(config: Any) -> ParameterCounts:
    from longrepo.engines.mlx.load import count_parameters

    try:
        return count_parameters(config.to_dict())
    except InputError as error:
        raise InputError(f"model {config.name_or_path}: {error}") from None


def _count_with_torch(config: Any) -> ParameterCounts:
    """Count on torch's `meta` device."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise _config_error(config.name_or_path, error) from None
    head = model.get_output_embeddings()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    lora: dict[str, int] = {}
    for path, module in linears.items():
        key = path.rpartition(".")[2]
        lora[key] = lora.get(key, 0) + module.in_features + module.out_features
    linear = sum(m.weight.numel() for m in linears.values())
    return {
        "linear": linear,
        "other": sum(p.numel() for p in model.parameters()) - linear,
        "lora": lora,
        "targets": automatic_targets(linears),
        "experts": sum(p.numel() for name, p in model.named_parameters() if is_expert(name, p.ndim)),
    }


def _config_error(name: str, error: Exception) -> InputError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return InputError(f"model {name}: no readable configuration ({reason}); give a folder or a hub name")
