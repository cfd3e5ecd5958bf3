"""Load and quantise a base.

A published model's configuration, and its weights as arrays that are read when they are evaluated.

4-bit layers: what a published folder says of its own, and what this engine makes.

Loading a causal language model of mlx-lm's, 4-bit or not, ready for an adapter: never the whole in full.

A model's architecture without its weights: lazy arrays of the true shapes, none of them evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from longrepo.config.schema import ContextSettings, ModelSettings, Settings
from longrepo.data.tokenizer import new_token_rows
from longrepo.engines.base import MODEL_DROPOUTS
from longrepo.engines.messages import load_errors
from longrepo.engines.mlx.models import build, family_of
from longrepo.errors import InputError
from longrepo.rope.apply import NATIVE_CONTEXT, context_messages, engine_config_changes
from longrepo.rope.scaling import check_published_config
from longrepo.utils.hub import model_location

if TYPE_CHECKING:
    from longrepo.data.tokenizer import RepoTokenizer


def read_published_config(where: str, revision: str | None) -> dict[str, Any]:
    """config.json, with transformers' defaults for what it doesn't say; `eos_token_id` is what generation ends at.

    Raises OSError where it can't be had, ValueError where transformers can't read it, InputError where this engine has
    no such model.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

    published, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
    family_of(published)
    check_published_config(published)
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
    for file in _safetensors_files(where, revision):
        if not file.is_file():
            raise InputError(f"{file}: the index names this file, but it isn't there; download it again")
        try:
            found |= mx.load(str(file), format="safetensors")  # type: ignore[arg-type]
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file}: can't be read as safetensors ({reason}); download it again") from None
    return found


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
    """mlx-lm's `quantization` of a folder whose weights are 4-bit already, else None.

    Raises InputError where it isn't MLX's affine 4 bits, or isn't what the settings ask for.
    """
    says = config.get("quantization")
    if says is None:
        if other := config.get("quantization_config"):
            method = other.get("quant_method", "another library")
            raise InputError(f"published quantised by {method}; give the unquantised model or an MLX 4-bit folder")
        return None
    kind = f"{says.get('bits')} bits in groups of {says.get('group_size')}"
    if says.get("bits") != QUANTIZED_BITS or says.get("mode", "affine") != "affine" or not says.get("group_size"):
        raise InputError(
            f"its weights are {says.get('mode', 'affine')} {kind}; the MLX engine takes affine {QUANTIZED_BITS} bits: "
            "give such a folder or the unquantised model"
        )
    if settings.quantization == "none":
        raise InputError(
            f"its weights are {kind} already; set model.quantization to nf4 (they are taken as they are), "
            "or give the unquantised model"
        )
    return dict(says)


def quantize_meta_model(model: Any, says: dict[str, Any], weights: dict[str, mx.array]) -> None:
    """Turn into quantised layers those of an unevaluated model that have scales among the weights; evaluates nothing.

    Raises InputError where the weights aren't packed as their configuration says.
    """

    def packing(path: str, module: Any) -> bool | dict[str, Any]:
        if f"{path}.scales" not in weights:
            return False
        own = says.get(path)
        asked = {key: ({**says, **own} if isinstance(own, dict) else says)[key] for key in ("group_size", "bits")}
        width = module.weight.shape[-1]
        packed, scales = (weights[f"{path}.{name}"].shape[-1] for name in ("weight", "scales"))
        is_packed = {"group_size": width // scales, "bits": packed * 32 // width}
        if is_packed != asked:
            raise InputError(
                f"{path} is packed as {is_packed['bits']} bits in groups of {is_packed['group_size']}, its config.json "
                f"says {asked['bits']} in groups of {asked['group_size']}; download it again"
            )
        return asked

    nn.quantize(model, class_predicate=packing)


def quantize_linear(linear: Any) -> Any:
    """The linear in 4 bits, evaluated, and the linear emptied: its weight in full is gone. None (nothing done) where
    its input width isn't a multiple of the group."""
    if linear.weight.shape[-1] % QUANTIZED_GROUP:
        return None
    quantised = linear.to_quantized(QUANTIZED_GROUP, QUANTIZED_BITS)
    mx.eval(quantised.parameters())
    linear.clear()
    return quantised


TOKEN_TABLES = ("model.embed_tokens", "lm_head")


def load_base(
    settings: ModelSettings, tokenizer: RepoTokenizer, dtype: mx.Dtype, context: ContextSettings = NATIVE_CONTEXT
) -> tuple[Any, list[str]]:
    """A frozen, evaluated `CausalLM`, its vocabulary wide enough for the tokenizer; and notes for the terminal.

    Quantising makes 4 bits of the layers' linears, in groups of 64; the embedding, an untied head and the norms stay in
    `dtype`. A folder that is 4-bit already is taken as it is, its scales in `dtype`. Added rows begin as
    `new_rows` says. Its positions are as `context` says. `model.published` is its config.json with
    these and the final `vocab_size`, `model.unpositioned` the same without them; `model.eos_token_ids` what generation
    ends at. Raises InputError where the model can't be had.
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
    if off := [name for name in MODEL_DROPOUTS if config.get(name)]:
        notes.append(f"{', '.join(off)} of the base set to 0: lora.dropout is the only dropout")
    rows = config["vocab_size"]
    config["vocab_size"] = max(rows, tokenizer.vocabulary_size)
    notes += context_messages(config, context)
    before, config = config, config | engine_config_changes(config, context)
    model: Any = build(config)
    says = published_quantization(config, settings)
    weights = _rename_weights(model, read_weights(where, settings.revision))
    if says is not None:
        quantize_meta_model(model, says, weights)
        notes.append(f"taken as published: MLX's affine {says['bits']} bits in groups of {says['group_size']}, not NF4")
    _check_weights(model, weights, rows)
    _fill_tables(
        model, weights, config["vocab_size"], new_token_rows(tokenizer, settings.name, settings.revision), dtype
    )
    _fill_layers(model, weights, dtype, settings.quantization == "nf4" and says is None, notes)
    model.freeze()
    model.eval()
    mx.eval(model.state)
    mx.clear_cache()
    ends = config["eos_token_id"]
    model.published, model.unpositioned = MappingProxyType(config), MappingProxyType(before)
    model.eos_token_ids = tuple(ends) if isinstance(ends, list) else (ends,) if ends is not None else ()
    return model


def _rename_weights(model: Any, weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """The weights by the model's names: a bare decoder is published without the prefix, a tied head maybe with a copy
    of its table, old folders with the rope's angles. Empties `weights`, so that nothing else holds on to them."""
    modules = {path for path, _ in model.named_modules()}
    named: dict[str, mx.array] = {}
    while weights:
        name, array = weights.popitem()
        module = name.rpartition(".")[0]
        if name.endswith("rotary_emb.inv_freq") or (module == "lm_head" and module not in modules):
            continue
        named[f"model.{name}" if module not in modules and f"model.{module}" in modules else name] = array
    return named


def _check_weights(model: Any, weights: dict[str, mx.array], rows: int) -> None:
    """Raises InputError where the weights are not those that the configuration asks for; tables have `rows` rows."""
    asked: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    wrong = {
        "lack": asked.keys() - weights.keys(),
        "hold, unknown to its config.json,": weights.keys() - asked.keys(),
    }
    for what, names in wrong.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"its weights {what} {min(names)}{more}; download it again")
    for name, array in asked.items():
        shape = [rows, *array.shape[1:]] if name.rpartition(".")[0] in TOKEN_TABLES else list(array.shape)
        given = weights[name]
        if list(given.shape) != shape:
            raise InputError(f"{name} has the shape {list(given.shape)}, its config.json asks for {shape}")
        if _is_float(given) != _is_float(array):
            raise InputError(f"{name} is of the type {given.dtype}, which its config.json doesn't explain")


def _fill_tables(model: Any, weights: dict[str, mx.array], rows: int, copies: dict[int, int], dtype: mx.Dtype) -> None:
    """First of all: the largest tensors, each then in full beside nothing else."""
    for path, module in model.named_modules():
        if path in TOKEN_TABLES:
            for name in _parameter_names(module):
                module[name] = _widen_table(_cast(weights.pop(f"{path}.{name}"), dtype), rows, copies)
                mx.eval(module[name])
            mx.clear_cache()


def _widen_table(table: mx.array, rows: int, copies: dict[int, int]) -> mx.array:
    """`[rows, …]`: zeros below what the table has, then row `new` a copy of row `old`, packed or not."""
    if rows > len(table):
        table = mx.concatenate([table, mx.zeros((rows - len(table), *table.shape[1:]), table.dtype)])
    if copies:
        table[mx.array(list(copies))] = table[mx.array(list(copies.values()))]
    return table


def _fill_layers(model: Any, weights: dict[str, mx.array], dtype: mx.Dtype, quantising: bool, notes: list[str]) -> None:
    whole: list[str] = []
    for path, module in model.named_modules():
        if path in TOKEN_TABLES:
            continue
        for name in _parameter_names(module):
            module[name] = _cast(weights.pop(f"{path}.{name}"), dtype)
        if quantising and isinstance(module, nn.Linear):
            if (quantised := quantize_linear(module)) is None:
                whole.append(path)
            else:
                model.update_modules(tree_unflatten([(path, quantised)]))
        mx.eval([module[name] for name in _parameter_names(module)])
    if quantising:
        notes.append(
            f"quantised to MLX's affine {QUANTIZED_BITS} bits in groups of {QUANTIZED_GROUP}, not NF4: other weights "
            f"than torch's"
        )
    if whole:
        notes.append(
            f"{len(whole)} linear layers stay unquantised, such as {whole[0]}: "
            f"their input widths are no multiple of {QUANTIZED_GROUP}"
        )


def _parameter_names(module: Any) -> list[str]:
    """Names of a module's own parameters."""
    return [name for name, value in module.items() if isinstance(value, mx.array) and not name.startswith("_")]


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype) if _is_float(array) else array


def _is_float(array: mx.array) -> bool:
    return bool(mx.issubdtype(array.dtype, mx.floating))


def meta_model(config: dict[str, Any], settings: Settings, dtype: mx.Dtype) -> Any:
    """What `longrepo.engines.mlx.load.load_base` would load for `config`, transformers' with the final vocabulary.

    Raises InputError where this engine has no such model.
    """
    model: Any = build(config)
    model.set_dtype(dtype)
    if published := config.get("quantization"):
        nn.quantize(model, published["group_size"], published["bits"])
    elif settings.model.quantization == "nf4":
        packed = [
            (path, one.to_quantized(QUANTIZED_GROUP, QUANTIZED_BITS))
            for path, one in layer_linears(model)
            if _is_quantizable(one)
        ]
        model.update_modules(tree_unflatten(packed))
    model.freeze()
    model.eval()
    return model


def count_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Of a model: `linear` parameters of the layers' linear modules, `other` parameters, and `lora`: by the name of a
    linear module its in and out features, summed over all layers."""
    model = build(config)
    arrays: list[Any] = tree_flatten(model.parameters())  # type: ignore[assignment]
    total = sum(array.size for _, array in arrays)
    linear, lora = 0, dict[str, int]()
    for path, module in layer_linears(model):
        name = path.rpartition(".")[2]
        linear += module.weight.size
        lora[name] = lora.get(name, 0) + sum(module.weight.shape)
    return {"linear": linear, "other": total - linear, "lora": lora}


def layer_linears(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers' linear modules with their paths."""
    return ((path, one) for path, one in model.named_modules() if isinstance(one, nn.Linear) and ".layers." in path)


def _is_quantizable(linear: Any) -> bool:
    return linear.weight.shape[-1] % QUANTIZED_GROUP == 0
