"""Loading a causal language model of mlx-lm's, 4-bit or not, ready for an adapter: never the whole in full."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from longrepo.config.model_source import model_location
from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.context.change import OWN, positioned
from longrepo.context.said import lines
from longrepo.engines.base_config import DROPOUTS
from longrepo.engines.mlx.fidelity.families import build
from longrepo.engines.mlx.quantised import BITS, GROUP, published_quantisation, quantise, quantise_skeleton
from longrepo.engines.mlx.weights import read_config, read_weights
from longrepo.engines.said import loading
from longrepo.errors import InputError
from longrepo.sequences.tokenizer import new_rows

if TYPE_CHECKING:
    from longrepo.sequences.tokenizer import RepoTokenizer

TABLES = ("model.embed_tokens", "lm_head")


def load_base(
    settings: ModelSettings, tokenizer: RepoTokenizer, dtype: mx.Dtype, context: ContextSettings = OWN
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
    with loading(settings.name):
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
    config = read_config(where, settings.revision)
    if off := [name for name in DROPOUTS if config.get(name)]:
        notes.append(f"{', '.join(off)} of the base set to 0: lora.dropout is the only dropout")
    rows = config["vocab_size"]
    config["vocab_size"] = max(rows, tokenizer.vocabulary_size)
    notes += lines(config, context)
    before, config = config, config | positioned(config, context)
    model: Any = build(config)
    says = published_quantisation(config, settings)
    weights = _named_as(model, read_weights(where, settings.revision))
    if says is not None:
        quantise_skeleton(model, says, weights)
        notes.append(f"taken as published: MLX's affine {says['bits']} bits in groups of {says['group_size']}, not NF4")
    _check(model, weights, rows)
    _fill_tables(model, weights, config["vocab_size"], new_rows(tokenizer, settings.name, settings.revision), dtype)
    _fill_layers(model, weights, dtype, settings.quantization == "nf4" and says is None, notes)
    model.freeze()
    model.eval()
    mx.eval(model.state)
    mx.clear_cache()
    ends = config["eos_token_id"]
    model.published, model.unpositioned = MappingProxyType(config), MappingProxyType(before)
    model.eos_token_ids = tuple(ends) if isinstance(ends, list) else (ends,) if ends is not None else ()
    return model


def _named_as(model: Any, weights: dict[str, mx.array]) -> dict[str, mx.array]:
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


def _check(model: Any, weights: dict[str, mx.array], rows: int) -> None:
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
        shape = [rows, *array.shape[1:]] if name.rpartition(".")[0] in TABLES else list(array.shape)
        given = weights[name]
        if list(given.shape) != shape:
            raise InputError(f"{name} has the shape {list(given.shape)}, its config.json asks for {shape}")
        if _is_float(given) != _is_float(array):
            raise InputError(f"{name} is of the type {given.dtype}, which its config.json doesn't explain")


def _fill_tables(model: Any, weights: dict[str, mx.array], rows: int, copies: dict[int, int], dtype: mx.Dtype) -> None:
    """First of all: the largest tensors, each then in full beside nothing else."""
    for path, module in model.named_modules():
        if path in TABLES:
            for name in _arrays(module):
                module[name] = _widened(_cast(weights.pop(f"{path}.{name}"), dtype), rows, copies)
                mx.eval(module[name])
            mx.clear_cache()


def _widened(table: mx.array, rows: int, copies: dict[int, int]) -> mx.array:
    """`[rows, …]`: zeros below what the table has, then row `new` a copy of row `old`, packed or not."""
    if rows > len(table):
        table = mx.concatenate([table, mx.zeros((rows - len(table), *table.shape[1:]), table.dtype)])
    if copies:
        table[mx.array(list(copies))] = table[mx.array(list(copies.values()))]
    return table


def _fill_layers(model: Any, weights: dict[str, mx.array], dtype: mx.Dtype, quantising: bool, notes: list[str]) -> None:
    whole: list[str] = []
    for path, module in model.named_modules():
        if path in TABLES:
            continue
        for name in _arrays(module):
            module[name] = _cast(weights.pop(f"{path}.{name}"), dtype)
        if quantising and isinstance(module, nn.Linear):
            if (quantised := quantise(module)) is None:
                whole.append(path)
            else:
                model.update_modules(tree_unflatten([(path, quantised)]))
        mx.eval([module[name] for name in _arrays(module)])
    if quantising:
        notes.append(f"quantised to MLX's affine {BITS} bits in groups of {GROUP}, not NF4: other weights than torch's")
    if whole:
        notes.append(
            f"{len(whole)} linear layers stay unquantised, such as {whole[0]}: "
            f"their input widths are no multiple of {GROUP}"
        )


def _arrays(module: Any) -> list[str]:
    """Names of a module's own parameters."""
    return [name for name, value in module.items() if isinstance(value, mx.array) and not name.startswith("_")]


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype) if _is_float(array) else array


def _is_float(array: mx.array) -> bool:
    return bool(mx.issubdtype(array.dtype, mx.floating))
