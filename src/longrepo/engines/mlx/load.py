"""Load an mlx-lm causal language model, 4-bit or not, ready for an adapter.

Weights are lazy arrays that are read when they are evaluated, so the full model is never in memory. A folder that is
already 4-bit is used as published; other layers are quantized here. `meta_model` builds the architecture without
weights, as unevaluated arrays of the true shapes.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from longrepo.config.schema import ContextSettings, ModelSettings, Settings
from longrepo.data.tokenizer_loading import new_token_rows
from longrepo.engines.base import MODEL_DROPOUTS, check_model_type, load_errors
from longrepo.engines.lora_targets import automatic_targets, is_expert
from longrepo.engines.mlx.models import build, family_of
from longrepo.engines.mlx.weight_names import language_model_path, rename_weights
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT, context_messages, engine_config_changes
from longrepo.rope.scaling import check_published_config
from longrepo.utils.hub import model_location

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer


def read_published_config(where: str, revision: str | None) -> dict[str, Any]:
    """Read config.json, completed with transformers' defaults; `eos_token_id` is where generation ends. Of a model that
    sees images too, its language model's.

    Raises OSError if it isn't available, ValueError if transformers can't read it, InputError if this engine doesn't
    support the model.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

    published, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
    check_model_type(published)
    text = published.get("text_config", published)
    family_of(text)
    check_published_config(text)
    try:
        config = AutoConfig.from_pretrained(where, revision=revision).get_text_config().to_dict()
    except StrictDataclassError as error:
        raise InputError(f"its config.json is wrong: {str(error).splitlines()[-1].strip()}") from None
    config |= {name: published[name] for name in ("quantization", "quantization_config") if name in published}
    if "quantization" in published:
        config["quantization_config"] = None  # mlx-lm writes the same twice
        config["quantization"] = {language_model_path(key): own for key, own in published["quantization"].items()}
    try:
        ends = GenerationConfig.from_pretrained(where, revision=revision or "main").eos_token_id
    except OSError:
        ends = None
    config["eos_token_id"] = config.get("eos_token_id") if ends is None else ends
    return config


def read_weights(where: str, revision: str | None) -> dict[str, mx.array]:
    """Return the tensors of a folder or a hub repository by name, downloaded if necessary; none is in memory yet.

    Raises OSError if the hub can't be reached, InputError for files that are missing, truncated or not safetensors.
    """
    tensors: dict[str, mx.array] = {}
    for file in _safetensors_files(where, revision):
        if not file.is_file():
            raise InputError(f"{file}: the index lists this file, but it doesn't exist; download it again")
        try:
            tensors |= mx.load(str(file), format="safetensors")  # type: ignore[arg-type]
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file}: can't be read as safetensors ({reason}); download it again") from None
    return tensors


def _safetensors_files(where: str, revision: str | None) -> list[Path]:
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


QUANTIZED_BITS, QUANTIZED_GROUP = 4, 64


def published_quantization(config: dict[str, Any], settings: ModelSettings) -> dict[str, Any] | None:
    """Return mlx-lm's `quantization` of a folder whose weights are already 4-bit, else None.

    Raises InputError if it isn't MLX's affine 4 bits, or isn't what the settings ask for.
    """
    quantization = config.get("quantization")
    if quantization is None:
        if other := config.get("quantization_config"):
            method = other.get("quant_method", "another library")
            raise InputError(f"published quantized by {method}; give the unquantized model or an MLX 4-bit folder")
        return None
    bits, group, mode = quantization.get("bits"), quantization.get("group_size"), quantization.get("mode", "affine")
    kind = f"{bits} bits in groups of {group}"
    if bits != QUANTIZED_BITS or mode != "affine" or not group:
        raise InputError(
            f"its weights are {mode} {kind}; the MLX engine supports affine {QUANTIZED_BITS} bits: "
            "give such a folder or the unquantized model"
        )
    if settings.quantization == "none":
        raise InputError(
            f"its weights are already {kind}; set model.quantization to nf4 (they are used as published), "
            "or give the unquantized model"
        )
    return dict(quantization)


def quantize_meta_model(model: Any, quantization: dict[str, Any], weights: dict[str, mx.array]) -> None:
    """Quantize those layers of an unevaluated model for which `weights` has scales; evaluates nothing.

    Raises InputError if the weights aren't packed as their configuration says.
    """

    def packing(path: str, module: Any) -> bool | dict[str, Any]:
        if f"{path}.scales" not in weights:
            return False
        own = quantization.get(path)
        merged = {**quantization, **own} if isinstance(own, dict) else quantization
        stated = {key: merged[key] for key in ("group_size", "bits")}
        width = module.weight.shape[-1]
        packed, scales = (weights[f"{path}.{name}"].shape[-1] for name in ("weight", "scales"))
        actual = {"group_size": width // scales, "bits": packed * 32 // width}
        if actual != stated:
            raise InputError(
                f"{path} is packed as {actual['bits']} bits in groups of {actual['group_size']}, but its config.json "
                f"says {stated['bits']} in groups of {stated['group_size']}; download it again"
            )
        return stated

    nn.quantize(model, class_predicate=packing)


def quantize_linear(linear: Any) -> Any:
    """Return the layer in 4 bits, evaluated, and empty the original, so that its full weight is freed. Return None and
    do nothing if its input width isn't a multiple of the group."""
    if linear.weight.shape[-1] % QUANTIZED_GROUP:
        return None
    quantized = linear.to_quantized(QUANTIZED_GROUP, QUANTIZED_BITS)
    mx.eval(quantized.parameters())
    linear.clear()
    return quantized


TOKEN_TABLES = ("model.embed_tokens", "lm_head")


def load_base(
    settings: ModelSettings, tokenizer: RepoTokenizer, dtype: mx.Dtype, context: ContextSettings = NATIVE_CONTEXT
) -> tuple[Any, list[str]]:
    """Load a frozen, evaluated `CausalLM`; return it and notes for the terminal.

    Its vocabulary is widened for the tokenizer; added rows are initialized by `new_token_rows`. The layers' linear
    modules are quantized to 4 bits in groups of 64; the embedding, an untied head and the norms stay in `dtype`. A
    folder that is already 4-bit is used as published, with its scales in `dtype`. `model.published` is config.json with
    the positions of `context` and the final `vocab_size`, `model.unpositioned` the same without these positions;
    generation ends at `model.eos_token_ids`. Raises InputError if the model can't be loaded.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    notes: list[str] = []
    with load_errors(settings.name):
        model = _load(model_location(settings.name), settings, tokenizer, dtype, context, notes)
    return model, notes


def _load(
    where: str,
    settings: ModelSettings,
    tokenizer: RepoTokenizer,
    dtype: mx.Dtype,
    context: ContextSettings,
    notes: list[str],
) -> Any:
    config = read_published_config(where, settings.revision)
    if dropouts := [name for name in MODEL_DROPOUTS if config.get(name)]:
        notes.append(f"{', '.join(dropouts)} of the base set to 0: lora.dropout is the only dropout")
    rows = config["vocab_size"]
    config["vocab_size"] = max(rows, tokenizer.vocabulary_size)
    notes += context_messages(config, context)
    before, config = config, config | engine_config_changes(config, context)
    model: Any = build(config)
    quantization = published_quantization(config, settings)
    weights = rename_weights(model, read_weights(where, settings.revision), family_of(config).centred_norms)
    if quantization is not None:
        quantize_meta_model(model, quantization, weights)
        kind = f"{quantization['bits']} bits in groups of {quantization['group_size']}"
        notes.append(f"used as published: MLX's affine {kind}, not NF4")
    _check_weights(model, weights, rows)
    _fill_tables(
        model, weights, config["vocab_size"], new_token_rows(tokenizer, settings.name, settings.revision), dtype
    )
    _fill_layers(model, weights, dtype, settings.quantization == "nf4" and quantization is None, notes)
    model.freeze()
    model.eval()
    mx.eval(model.state)
    mx.clear_cache()
    ends = config["eos_token_id"]
    model.published, model.unpositioned = MappingProxyType(config), MappingProxyType(before)
    model.eos_token_ids = tuple(ends) if isinstance(ends, list) else (ends,) if ends is not None else ()
    return model


def _check_weights(model: Any, weights: dict[str, mx.array], rows: int) -> None:
    """Raise InputError if the weights aren't those that the configuration asks for; tables have `rows` rows."""
    expected: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    wrong = {
        "lack": expected.keys() - weights.keys(),
        "have, unknown to its config.json,": weights.keys() - expected.keys(),
    }
    for what, names in wrong.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"its weights {what} {min(names)}{more}; download it again")
    for name, array in expected.items():
        shape = [rows, *array.shape[1:]] if name.rpartition(".")[0] in TOKEN_TABLES else list(array.shape)
        weight = weights[name]
        if list(weight.shape) != shape:
            raise InputError(f"{name} has the shape {list(weight.shape)}, its config.json asks for {shape}")
        if _is_float(weight) != _is_float(array):
            raise InputError(f"{name} has the type {weight.dtype}, which its config.json doesn't explain")


def _fill_tables(model: Any, weights: dict[str, mx.array], rows: int, copies: dict[int, int], dtype: mx.Dtype) -> None:
    """Fill the largest tensors first, while nothing else is in memory."""
    for path, module in model.named_modules():
        if path in TOKEN_TABLES:
            for name in _parameter_names(module):
                module[name] = _widen_table(_cast(weights.pop(f"{path}.{name}"), dtype), rows, copies)
                mx.eval(module[name])
            mx.clear_cache()


def _widen_table(table: mx.array, rows: int, copies: dict[int, int]) -> mx.array:
    """Return the table with `rows` rows, `[rows, …]`: new rows are zero, then row `new` becomes a copy of row
    `copies[new]`, packed or not."""
    if rows > len(table):
        table = mx.concatenate([table, mx.zeros((rows - len(table), *table.shape[1:]), table.dtype)])
    if copies:
        table[mx.array(list(copies))] = table[mx.array(list(copies.values()))]
    return table


def _fill_layers(model: Any, weights: dict[str, mx.array], dtype: mx.Dtype, quantize: bool, notes: list[str]) -> None:
    unquantized: list[str] = []
    for path, module in model.named_modules():
        if path in TOKEN_TABLES:
            continue
        for name in _parameter_names(module):
            module[name] = _cast(weights.pop(f"{path}.{name}"), dtype)
        if quantize and isinstance(module, nn.Linear):
            if (quantized := quantize_linear(module)) is None:
                unquantized.append(path)
            else:
                model.update_modules(tree_unflatten([(path, quantized)]))
        mx.eval([module[name] for name in _parameter_names(module)])
    if quantize:
        notes.append(
            f"quantized to MLX's affine {QUANTIZED_BITS} bits in groups of {QUANTIZED_GROUP}, not NF4: the "
            "weights differ from torch's"
        )
    if unquantized:
        notes.append(
            f"{len(unquantized)} linear layers stay unquantized, such as {unquantized[0]}: "
            f"their input widths aren't multiples of {QUANTIZED_GROUP}"
        )


def _parameter_names(module: Any) -> list[str]:
    """Return the names of a module's own parameters."""
    return [name for name, value in module.items() if isinstance(value, mx.array) and not name.startswith("_")]


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype) if _is_float(array) else array


def _is_float(array: mx.array) -> bool:
    return bool(mx.issubdtype(array.dtype, mx.floating))


def meta_model(config: dict[str, Any], settings: Settings, dtype: mx.Dtype) -> Any:
    """Build, unevaluated, what `load_base` would load for `config` (transformers', with the final vocabulary).

    Raises InputError if this engine doesn't support the model.
    """
    model: Any = build(config)
    model.set_dtype(dtype)
    if published := config.get("quantization"):
        nn.quantize(
            model,
            published["group_size"],
            published["bits"],
            class_predicate=lambda path, one: hasattr(one, "to_quantized") and published.get(path, True),
        )
    elif settings.model.quantization == "nf4":
        packed = [
            (path, one.to_quantized(QUANTIZED_GROUP, QUANTIZED_BITS))
            for path, one in layer_linears(model).items()
            if _is_quantizable(one)
        ]
        model.update_modules(tree_unflatten(packed))
    model.freeze()
    model.eval()
    return model


def count_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Count a model's parameters, as in `longrepo.engines.model_shape.ModelShape`: `linear`, `other`, `lora`, `targets`
    and `experts`."""
    model = build(config)
    arrays: list[Any] = tree_flatten(model.parameters())  # type: ignore[assignment]
    total = sum(array.size for _, array in arrays)
    linear, lora, linears = 0, dict[str, int](), layer_linears(model)
    for path, module in linears.items():
        name = path.rpartition(".")[2]
        linear += module.weight.size
        lora[name] = lora.get(name, 0) + sum(module.weight.shape)
    experts = sum(array.size for path, array in arrays if is_expert(path, array.ndim))
    targets = automatic_targets(linears)
    return {"linear": linear, "other": total - linear, "lora": lora, "targets": targets, "experts": experts}


def layer_linears(model: Any) -> dict[str, Any]:
    """Return the layers' linear modules, 4-bit or not, by path, in the order in which the model was made."""
    linears = nn.Linear | nn.QuantizedLinear
    named = reversed(list(model.named_modules()))  # mlx yields the last child first
    return {path: one for path, one in named if isinstance(one, linears) and ".layers." in path}


def _is_quantizable(linear: Any) -> bool:
    return linear.weight.shape[-1] % QUANTIZED_GROUP == 0
