"""Export to mlx-lm, and import its adapters into PEFT's format.

An export has `adapters/` (for `--adapter-path`) and, if the published base won't do, `base/`; or it is one fully
trained model. If mlx-lm's own model class computes something else than config.json says, the folder gets a model file,
put together from the MLX engine's sources: it imports only mlx and mlx_lm, and mlx-lm runs it with
`--trust-remote-code`.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.utils import save_config, save_model
from safetensors.numpy import save_file
from transformers.utils.hub import cached_file

from longrepo.data.tokenizer_files import is_read_unchanged
from longrepo.data.tokenizer_loading import base_tokenizer, load_tokenizer
from longrepo.engines.adapter_io import ADAPTER_CONFIG, ADAPTER_WEIGHTS, lora_config, read_adapter_config, tensor_name
from longrepo.engines.mlx import models, recurrent, rotary
from longrepo.engines.mlx.device import mlx_dtype, select_mlx_device
from longrepo.engines.mlx.load import QUANTIZED_BITS, QUANTIZED_GROUP, load_base, read_published_config, read_weights
from longrepo.engines.mlx.weight_names import language_model_path
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions, MergeInputs, PeftAdapter
from longrepo.export.card import CardUse, peft_usage, write_card
from longrepo.export.mlx_own_classes import config_differences, own_config, own_path, own_positions
from longrepo.training.artifact import TrainedArtifact, find_artifact
from longrepo.training.usage import base_reference
from longrepo.utils.hub import model_location

MLX_WEIGHTS_FILE = "adapters.safetensors"
LAYER_PATH = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")  # a module's path: the layer, and the rest


def write_mlx_adapters(folder: Path, adapter: PeftAdapter, base: str, layers: int) -> None:
    """Write `adapters.safetensors` and `adapter_config.json` into a new folder; the model has `layers` layers."""
    folder.mkdir()
    tensors = {path: mx.contiguous(tensor) for path, tensor in adapter.lora.items()}
    mx.save_safetensors(str(folder / MLX_WEIGHTS_FILE), tensors, metadata={"format": "mlx"})
    config: dict[str, Any] = {
        "fine_tune_type": "lora",
        "model": base,
        "num_layers": layers,
        "lora_parameters": {
            "rank": adapter.r,
            "scale": adapter.scale,
            "dropout": adapter.dropout,
            "keys": sorted({mlx_module_key(path.rpartition(".")[0]) for path in adapter.lora}),
        },
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def mlx_module_key(module: str) -> str:
    """Return mlx-lm's name of a module: its path within the layer, or the whole path outside of one."""
    within = LAYER_PATH.fullmatch(module)
    return within[2] if within else module


_LORA_PARTS = ("lora_a", "lora_b")


def write_imported_adapter(source: Path, base: str | None, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that will become `final` with the adapter that `mlx_lm.lora` wrote to `source`,
    trained on `base` (None: the model that it names); return lines for the terminal. Raises InputError."""
    config, tensors = read_adapter_config(source), _read_mlx_adapter(source / MLX_WEIGHTS_FILE)
    tensors = {language_model_path(path) or path: tensor for path, tensor in tensors.items()}
    kind, parameters = config.get("fine_tune_type", "lora"), config.get("lora_parameters")
    if kind != "lora" or not isinstance(parameters, dict) or not {"rank", "scale"} <= parameters.keys():
        what = f"is a fine-tune of type {kind}" if kind != "lora" else "has no rank and scale in lora_parameters"
        raise InputError(
            f"{source / ADAPTER_CONFIG}: {what}; only what mlx_lm.lora wrote with fine_tune_type lora is imported"
        )
    base = base or config.get("model")
    if not base:
        raise InputError(f"{source / ADAPTER_CONFIG}: names no model; give the one it was trained on with --model")
    rank, scale = int(parameters["rank"]), float(parameters["scale"])
    _check_lora(source / MLX_WEIGHTS_FILE, tensors, rank)
    try:
        where = model_location(base)
        about = read_published_config(where, None)
        weights = {language_model_path(name) or name: one for name, one in read_weights(where, None).items()}
        _check_base_layers(source, base, tensors, about, weights)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model {base}: can't be loaded ({reason}); give the one it was trained on with --model"
        ) from None
    modules = sorted({path.rpartition(".")[0] for path in tensors})
    dropout = float(parameters.get("dropout", 0.0))
    written = lora_config(
        base_reference(base), rank, scale * rank, dropout, {mlx_module_key(module) for module in modules}, None
    )
    layers = sorted({int(found[1]) for module in modules if (found := LAYER_PATH.fullmatch(module))})
    if layers != list(range(about["num_hidden_layers"])):
        written |= {"layers_to_transform": layers, "layers_pattern": "layers"}
    save_file(
        {tensor_name(path): np.ascontiguousarray(np.array(tensor).T) for path, tensor in tensors.items()},
        folder / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    (folder / ADAPTER_CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    lines = [f"adapter: {final} (base: {base}, LoRA on {len(modules)} modules of {len(layers)} layers)"]
    notes = []
    if about.get("quantization"):
        notes.append(f"{base} is an MLX folder: for PEFT, name the model it was made from with --model")
    notes += _write_base_tokenizer(base, where, folder)
    imported = find_artifact(folder)
    how = peft_usage(final.name, imported.settings)
    write_card(folder, imported, CardUse("peft", "A LoRA adapter of mlx_lm.lora, in PEFT's format.", how, notes))
    return [*lines, *notes]


def _write_base_tokenizer(base: str, where: str, folder: Path) -> list[str]:
    """Write the base's tokenizer beside an imported adapter; return notes."""
    try:
        tokenizer = load_tokenizer(base, None, "native")
    except InputError:
        return [f"{base} has no tokenizer.json: this folder has no tokenizer"]
    notes = list(tokenizer.write(folder))
    file = cached_file(where, "config.json")
    if not is_read_unchanged(tokenizer.file_text, tokenizer.file_config, Path(str(file)).parent):
        notes.append(
            "mlx-lm reads the base's tokenizer by AutoTokenizer, which splits text by other rules than tokenizer.json: "
            "the adapter was trained on those ids, and longrepo uses the file's, as the base was trained on"
        )
    return notes


def load_float32(file: Path) -> dict[str, mx.array]:
    """Read the tensors of a safetensors file into memory as float32. Raises RuntimeError if it can't be read."""
    loaded: Any = mx.load(str(file), format="safetensors")
    tensors = {name: tensor.astype(mx.float32) for name, tensor in loaded.items()}
    mx.eval(tensors)
    return tensors


def _read_mlx_adapter(file: Path) -> dict[str, mx.array]:
    try:
        return load_float32(file)
    except RuntimeError as error:
        raise InputError(f"{file}: can't be read ({error}); give the folder that mlx_lm.lora wrote") from None


def _check_lora(file: Path, tensors: dict[str, mx.array], rank: int) -> None:
    """Raises InputError unless it is LoRA of that rank on linear layers."""
    for path, tensor in tensors.items():
        name, _, matrix = path.rpartition(".")
        if matrix not in _LORA_PARTS or tensor.ndim != 2:
            raise InputError(f"{file}: only LoRA on linear layers is imported, and this has {path}")
        if tensor.shape[1 - _LORA_PARTS.index(matrix)] != rank:
            raise InputError(
                f"{file}: {path} is of rank {tensor.shape[1 - _LORA_PARTS.index(matrix)]}, {ADAPTER_CONFIG} says {rank}"
            )
        if any(f"{name}.{part}" not in tensors for part in _LORA_PARTS):
            raise InputError(f"{file}: of {name} one of {' and '.join(_LORA_PARTS)} is missing; save it again")
    if not tensors:
        raise InputError(f"{file}: holds no tensors; give the folder that mlx_lm.lora wrote")


def _check_base_layers(
    source: Path, base: str, tensors: dict[str, mx.array], config: dict[str, Any], weights: dict[str, mx.array]
) -> None:
    """Raises InputError if the base lacks one of the linear layers."""
    packed = config.get("quantization") or {}
    for path, tensor in tensors.items():
        name, _, matrix = path.rpartition(".")
        if config["model_type"] == "granitemoehybrid" and ".mlp." in name:
            raise InputError(
                f"{source}: {path} is LoRA on half of a matrix, which PEFT can't express: mlx-lm splits the first one "
                f"of {base}'s MLPs in two; only an adapter for its attention is imported"
            )
        if f"{name}.weight" not in weights or name.endswith("embed_tokens"):
            raise InputError(f"{source}: an adapter for another base: {base} has no linear layer {name}")
        out, width = weights[f"{name}.weight"].shape
        if f"{name}.scales" in weights:
            own = packed.get(name)
            width = width * 32 // (own if isinstance(own, dict) else packed)["bits"]
        expected = (width, out)[_LORA_PARTS.index(matrix)]
        width_given = tensor.shape[_LORA_PARTS.index(matrix)]
        if width_given != expected:
            raise InputError(
                f"{source}: an adapter for another base: {path} has width {width_given}, {base}'s is {expected}"
            )


MODEL_FILE = "longrepo_model.py"
_FILE_HEAD = '''"""The model that config.json describes, for mlx-lm. Needs --trust-remote-code."""

from __future__ import annotations

import sys
import types

sys.modules.setdefault(__name__, types.ModuleType(__name__))  # dataclasses look their module up there


class InputError(ValueError):
    """Raised if the model that config.json describes can't be computed."""
'''
_FILE_TAIL = """

class ModelArgs:
    def __init__(self, config: Config) -> None:
        self.config = config

    @classmethod
    def from_dict(cls, config: Config) -> ModelArgs:
        return cls(config)


def Model(args: ModelArgs) -> CausalLM:
    return build(args.config)
"""


def model_file_text() -> str:
    """Return the text of a model file for any configuration that the MLX engine computes."""
    return "\n\n".join([_FILE_HEAD.strip(), *map(_module_body, (rotary, recurrent, models)), _FILE_TAIL.strip()]) + "\n"


def _module_body(module: ModuleType) -> str:
    """Return a module's source without its docstring and its imports from longrepo and `__future__`."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ours = isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ("longrepo", "__future__")
        if docstring or ours:
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    return "\n".join(lines).strip()


def write_mlx_base(folder: Path, model: Any, adapter: PeftAdapter, with_file: bool) -> None:
    """Write the model (as `load_base` made it) into a new folder, without its tokenizer.

    Raises InputError if the adapter belongs to another base.
    """
    _check_shapes(model, adapter)
    if adapter.rows is not None:
        _set_rows(model, adapter.row_ids, adapter.rows)
    if not with_file:
        _split_shared_mlps(model)
    save_model(folder, model)
    config = mlx_config(model) if with_file else own_config(mlx_config(model))
    if with_file:
        (folder / MODEL_FILE).write_text(model_file_text(), encoding="utf-8")
        config["model_file"] = MODEL_FILE
    save_config(config, folder / "config.json")


def _split_shared_mlps(model: Any) -> None:
    """Give Granite 4's MLPs the matrices and names of mlx-lm's own class."""
    for layer in model.layers:
        if (shared := layer.pop("shared_mlp", None)) is None:
            continue
        gate, up = copy.copy(shared.input_linear), copy.copy(shared.input_linear)
        for name, array in shared.input_linear.items():
            gate[name], up[name] = mx.split(array, 2)
        layer.mlp = nn.Module()
        layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj = gate, up, shared.output_linear


def own_lora(lora: Mapping[str, mx.array], config: Mapping[str, Any]) -> dict[str, mx.array]:
    """Return LoRA on the matrices of mlx-lm's own class for `config`, by its names. It splits the first one of Granite
    4's MLPs in two: both halves get its `lora_a`, and each its part of `lora_b`."""
    found: dict[str, mx.array] = {}
    for path, tensor in lora.items():
        layer, _, rest = path.partition(".shared_mlp.")
        name, _, matrix = rest.partition(".")
        if name == "input_linear":
            gate, up = (tensor, tensor) if matrix == "lora_a" else mx.split(tensor, 2, axis=1)
            found |= {f"{layer}.mlp.gate_proj.{matrix}": gate, f"{layer}.mlp.up_proj.{matrix}": up}
        else:
            found[f"{layer}.mlp.down_proj.{matrix}" if rest else path] = tensor
    return {own_path(path, config): tensor for path, tensor in found.items()}


def mlx_config(model: Any) -> dict[str, Any]:
    """Return the model's config.json: mlx-lm reads `rope_theta` and `rope_scaling`, transformers `rope_parameters`."""
    unset = ("quantization", "quantization_config")
    config = {name: value for name, value in model.published.items() if value is not None or name not in unset}
    config |= own_positions(config)
    config |= {"eos_token_id": list(model.eos_token_ids), "dtype": str(model.model.norm.weight.dtype).split(".")[-1]}
    if any(isinstance(module, nn.QuantizedLinear) for module in model.modules()):
        config.setdefault("quantization", {"group_size": QUANTIZED_GROUP, "bits": QUANTIZED_BITS, "mode": "affine"})
    return config


def _set_rows(model: Any, ids: tuple[int, ...], rows: mx.array) -> None:
    table = model.model.embed_tokens
    weight = table.weight
    if isinstance(table, nn.QuantizedEmbedding):
        weight = mx.dequantize(weight, table.scales, table.biases, table.group_size, table.bits, mode=table.mode)
    if max(ids) >= len(weight):
        raise InputError(
            f"the adapter belongs to another base: it has a row for token {max(ids)}, the base {len(weight)} rows"
        )
    plain = nn.Embedding(1, 1)
    plain.weight = weight
    plain.weight[mx.array(ids)] = rows.astype(weight.dtype)
    model.model.embed_tokens = plain
    mx.eval(plain.weight)


def _check_shapes(model: Any, adapter: PeftAdapter) -> None:
    modules = dict(model.named_modules())
    for path, tensor in sorted(adapter.lora.items()):
        name, _, matrix = path.rpartition(".")
        side = ("lora_a", "lora_b").index(matrix)
        expected, width = _linear_widths(modules.get(name))[side], tensor.shape[side]
        if width != expected:
            has = f"this base's is {expected}" if expected else "this base has no such layer"
            raise InputError(f"the adapter belongs to another base: {path} has width {width}, {has}")


def _linear_widths(linear: Any) -> tuple[int, int]:
    """Return (in, out) of a linear layer, packed or not; zeros for anything else."""
    if not isinstance(linear, nn.Linear | nn.QuantizedLinear):
        return 0, 0
    out, packed = linear.weight.shape
    return (packed * 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else packed), out


def write_mlx(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that will become `final`; return lines for the terminal. Raises InputError."""
    parts = MergeInputs.of(source, mx.array)
    adapter, as_published = parts.adapter, options.quantization is None and not options.with_base
    reasons: list[str] = []
    if as_published and not (source.whole or source.has_own_positions) and adapter.rows is None:
        base = _PublishedBase.of(source)
        if not (reasons := base.differences(source)):
            return _write_adapter_alone(source, adapter, base, folder, final)
    model_settings = parts.model
    if options.quantization is not None:
        kind = "none" if options.quantization == "none" else "nf4"
        model_settings = model_settings.model_copy(update={"quantization": kind})
    placement = select_mlx_device("auto", options.precision or source.settings.training.precision)
    model, notes = load_base(model_settings, parts.tokenizer, mlx_dtype(placement), parts.context)
    differs = config_differences(model.published, own_config(mlx_config(model)))
    with_file = bool(differs) and options.model_file
    part = "" if source.whole else "base"  # a fully trained model has no parts
    write_mlx_base(folder / part, model, adapter, with_file)
    tokenizer_notes = parts.tokenizer.write(folder / part)
    rows = f", {len(adapter.row_ids)} trained rows in its embedding" if adapter.row_ids else ""
    what = "4-bit" if model_settings.quantization == "nf4" else "not quantised"
    kind = "model" if source.whole else "base"
    lines = [f"{kind}: {final / part} ({model_settings.name}, {what}, {placement.dtype_name}{rows})"]
    lines += [f"  {note}" for note in (*notes, *tokenizer_notes)]
    if reasons:
        lines.append(f"with a base of its own: of the published one, {'; '.join(reasons)}")
    if not source.whole:
        lora = adapter.lora if with_file else own_lora(adapter.lora, own_config(mlx_config(model)))
        write_mlx_adapters(folder / "adapters", replace(adapter, lora=lora), str(final / "base"), len(model.layers))
        lines += [f"adapter: {final / 'adapters'}"]
    if with_file:
        lines.append(
            f"mlx-lm's own {model.model_type} differs: {'; '.join(differs)}. The {kind}'s model file corrects it"
        )
    elif differs:
        lines.append(f"without a model file this isn't the model that was trained: {'; '.join(differs)}")
    return _write_card(lines, source, folder, final, str(final / part), with_file)


@dataclass(frozen=True)
class _PublishedBase:
    """A base as mlx-lm would load it: `where` it is, its config.json as `published` and with defaults."""

    where: str
    published: dict[str, Any]
    config: dict[str, Any]

    @staticmethod
    def of(source: TrainedArtifact) -> _PublishedBase:
        """Raises InputError if the base's configuration can't be read."""
        from transformers import PreTrainedConfig

        model = source.settings.model
        where = model_location(model.name)
        try:
            published, _ = PreTrainedConfig.get_config_dict(where, revision=model.revision)
            return _PublishedBase(where, published, read_published_config(where, model.revision))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"model {model.name}: can't be loaded ({reason}); connect once to download it") from None

    def differences(self, source: TrainedArtifact) -> list[str]:
        """List what mlx-lm would make of the base otherwise than training did."""
        differs = config_differences(self.config, self.published)
        found = [f"mlx-lm's own {self.config['model_type']} differs: {'; '.join(differs)}"] if differs else []
        tokenizer = base_tokenizer(source.settings)
        file = cached_file(self.where, "config.json", revision=source.settings.model.revision)
        if not is_read_unchanged(tokenizer.file_text, tokenizer.file_config, Path(str(file)).parent):
            found.append("mlx-lm gives other token ids than training used")
        return found


def _write_adapter_alone(
    source: TrainedArtifact, adapter: PeftAdapter, base: _PublishedBase, folder: Path, final: Path
) -> list[str]:
    adapter = replace(adapter, lora=own_lora(adapter.lora, base.published))
    write_mlx_adapters(folder / "adapters", adapter, base.where, base.config["num_hidden_layers"])
    lines = [f"adapter: {final / 'adapters'}", f"base: {base.where} as it is: no structure rows were trained"]
    if source.settings.model.quantization == "nf4" and "quantization" not in base.published:
        lines.append("it was trained on that base in 4 bits: --with-base writes a 4-bit base")
    return _write_card(lines, source, folder, final, base.where, False)


def _write_card(
    lines: list[str], source: TrainedArtifact, folder: Path, final: Path, base: str, trust: bool
) -> list[str]:
    """Write the model card with the lines and the two commands, and return both."""
    holds, options = "a model whose weights were all trained", f"--model {shlex.quote(base)}"
    if not source.whole:
        holds = "an adapter and, where one is needed, its base"
        options += f" --adapter-path {shlex.quote(str(final / 'adapters'))}"
    options += " --trust-remote-code" if trust else ""
    commands = [f"mlx_lm.generate {options} --prompt 'def main'", f"mlx_lm.server {options}"]
    how = "\n\n".join([*(line.strip() for line in lines), "```sh\n" + "\n".join(commands) + "\n```"])
    write_card(folder, source, CardUse("mlx", f"For mlx-lm: {holds}.", how))
    return [*lines, *commands]
