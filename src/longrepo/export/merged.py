"""Write a complete model folder for transformers: the base with the adapter merged in, or a fully trained model.

W + alpha / r · B · A is computed in float32 from the published weights, never from 4-bit ones, tensor by tensor, and
rounded once.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import StateDictSplit, split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.utils import logging

from longrepo.config.schema import ModelSettings
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import new_token_rows
from longrepo.engines.base import Placement, load_errors
from longrepo.engines.torch.weights import MetaModel, NotStreamable, WeightFiles, find_weight_files
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions, MergeInputs, PeftAdapter
from longrepo.export.card import CardUse, find_license_files, write_card
from longrepo.rope.apply import config_changes
from longrepo.training.artifact import TrainedArtifact
from longrepo.utils.files import write_text_file
from longrepo.utils.hub import model_location

SHARD_INDEX_FILE = "model.safetensors.index.json"
_SHARD_BYTES = 2**30  # bytes of a file, and so in memory at a time
_CPU_PLACEMENT = Placement("cpu", "float32")

Tensor = torch.Tensor


class MergedWeights:
    """The merged tensors, under the names that the base was published with.

    `dtype` None: each tensor's own. `new_rows`: see `new_token_rows`. Raises InputError if the adapter belongs to
    another base, or adapts anything but linear layers."""

    def __init__(
        self,
        checkpoint: WeightFiles,
        config: Any,
        adapter: PeftAdapter,
        tokenizer: RepoTokenizer,
        new_rows: Mapping[int, int],
        dtype: torch.dtype | None,
    ) -> None:
        self._checkpoint, self._adapter, self._dtype = checkpoint, adapter, dtype
        self._own = _read_dtypes(checkpoint.files)
        self._initial_from = new_rows
        settings = ModelSettings(name=tokenizer.name, quantization="none")
        try:
            skeleton = MetaModel(config, settings, _CPU_PLACEMENT, tokenizer.vocabulary_size)
            self._published = skeleton.match(checkpoint.names)
        except NotStreamable as reason:
            raise InputError(f"{reason}, so an adapter can't be merged into it; use --format peft") from None
        model = skeleton.model
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        for ours, theirs in self._published.items():
            skeleton.check_shape(ours, checkpoint.shape(theirs))
        self.architecture = type(model).__name__
        self._table = _published_name(model, model.get_input_embeddings())
        self._head = _published_name(model, model.get_output_embeddings())
        if config.get_text_config().tie_word_embeddings:
            self._published.pop(self._head, None)
        self._check(model)
        self._split = self._sharded()
        self.bytes = int(self._split.metadata["total_size"])

    @property
    def vocabulary_size(self) -> int:
        """Number of rows of the embedding."""
        return self._shapes[self._table][0]

    @property
    def dtype(self) -> str:
        """The embedding's type, as config.json names it."""
        return str(self._type_of(self._table)).removeprefix("torch.")

    def write(self, folder: Path) -> None:
        """Write the files into an existing folder. Raises InputError if a weight is beyond the type's range."""
        ours = {theirs: name for name, theirs in self._published.items()}
        for file, names in self._split.filename_to_tensors.items():
            tensors = {theirs: self._tensor(ours[theirs]) for theirs in names}
            save_file(tensors, folder / file, metadata={"format": "pt"})
        if self._split.is_sharded:
            index = {"metadata": self._split.metadata, "weight_map": self._split.tensor_to_filename}
            write_text_file(folder / SHARD_INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _tensor(self, name: str) -> Tensor:
        value = self._checkpoint.read(self._published[name])
        dtype = self._type_of(name)
        if not value.is_floating_point():
            return value
        module = name.removesuffix(".weight")
        if (first := self._adapter.lora.get(f"{module}.lora_a")) is not None:
            value = value.float() + self._adapter.scale * (first @ self._adapter.lora[f"{module}.lora_b"]).T
        elif name in (self._table, self._head):
            value = self._widened(name, value.float())
        rounded = value.to(dtype).contiguous()
        if not torch.isfinite(rounded).all():
            raise InputError(f"{name} has weights beyond the range of {dtype}; choose --precision bfloat16")
        return rounded

    def _widened(self, name: str, table: Tensor) -> Tensor:
        """Add rows for the new tokens: as trained, or else copies of the rows they start from."""
        wide = table.new_zeros(self._shapes[name])
        wide[: len(table)] = table
        for new, source in self._initial_from.items():
            wide[new] = wide[source]
        if name == self._table and self._adapter.rows is not None:
            wide[list(self._adapter.row_ids)] = self._adapter.rows
        return wide

    def _type_of(self, name: str) -> torch.dtype:
        own = self._own[self._published[name]]
        return (self._dtype or own) if own.is_floating_point else own

    def _sharded(self) -> StateDictSplit:
        """Assign the tensors to files, from their shapes alone."""
        empty = {
            theirs: torch.empty(self._shapes[name], dtype=self._type_of(name), device="meta")
            for name, theirs in self._published.items()
        }
        return split_torch_state_dict_into_shards(empty, max_shard_size=_SHARD_BYTES)

    def _check(self, model: Any) -> None:
        modules, adapter = dict(model.named_modules()), self._adapter
        for path, tensor in sorted(adapter.lora.items()):
            name, _, matrix = path.rpartition(".")
            module, side = modules.get(name), ("lora_a", "lora_b").index(matrix)
            if module is not None and not isinstance(module, nn.Linear):
                raise InputError(f"{name} isn't a linear layer, and only those can be merged; use --format peft")
            expected = (module.in_features, module.out_features)[side] if module is not None else 0
            if tensor.shape[side] != expected:
                has = f"this base's is {expected}" if expected else "this base has no such layer"
                raise InputError(f"the adapter belongs to another base: {path} has width {tensor.shape[side]}, {has}")
        rows, width = self._shapes[self._table]
        if adapter.rows is not None and (max(adapter.row_ids) >= rows or adapter.rows.shape[1] != width):
            raise InputError(
                f"the adapter belongs to another base: it has rows of {adapter.rows.shape[1]} up to token "
                f"{max(adapter.row_ids)}, this base has {rows} of {width}"
            )


def _published_name(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, one in model.named_modules() if one is module) + ".weight"


def _read_dtypes(files: Iterable[Path]) -> dict[str, torch.dtype]:
    """Read the type of every tensor without its content."""
    found: dict[str, torch.dtype] = {}
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            found |= {name: opened.get_slice(name)[:0].dtype for name in opened.keys()}  # noqa: SIM118
    return found


MERGED_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "auto": None}
_USAGE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto")
ids = tokenizer("def main(", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=40)[0]))
```"""


@dataclass(frozen=True)
class WrittenWeights:
    """What was written: `bytes` of weights in `dtype`, and `notes` for the terminal."""

    dtype: str
    bytes: int
    notes: tuple[str, ...]


def write_merged(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that will become `final`; return lines for the terminal. Raises InputError."""
    parts, precision = MergeInputs.of(source, torch.from_numpy), options.precision or "bfloat16"
    written = write_merged_model(source, parts, precision, folder)
    holds, what = "The base's unquantised weights with the adapter merged in", "with the adapter merged in"
    if source.whole:
        holds, what = "A model whose weights were all trained", "with all weights trained"
    holds = f"{holds}, in {written.dtype}."
    write_card(folder, source, CardUse("transformers", holds, _USAGE.format(folder=final.name), written.notes))
    name, size = source.settings.model.name, written.bytes / 1e9
    return [f"model: {final} ({name} {what}, {written.dtype}, {size:.2f} GB)", *written.notes]


def write_merged_model(
    source: TrainedArtifact, parts: MergeInputs, precision: str, folder: Path, copies: int = 1
) -> WrittenWeights:
    """Write weights, config.json, generation_config.json, tokenizer and the base's licence files into a folder.

    Raises InputError if the base isn't available unquantised, the adapter belongs to another base, or the disk has no
    room for `copies` copies of the weights.
    """
    logging.set_verbosity_error()
    settings, base = parts.model, source.settings.model
    with load_errors(settings.name):
        where = model_location(settings.name)
        published, _ = PreTrainedConfig.get_config_dict(where, revision=settings.revision)
        _check_unquantised(published)
        if (checkpoint := find_weight_files(where, settings.revision)) is None:
            raise InputError("it has no safetensors files; save it again with transformers and name that with --base")
        whole = AutoConfig.from_pretrained(where, revision=settings.revision)
        config = whole.get_text_config()
        rows = new_token_rows(parts.tokenizer, settings.name, settings.revision)
        weights = MergedWeights(checkpoint, config, parts.adapter, parts.tokenizer, rows, MERGED_DTYPES[precision])
        _check_disk_space(folder, weights.bytes * copies)
        weights.write(folder)
    if config is not whole:  # of a model that sees images too, the language model is what was trained
        published = config.to_dict() | {"architectures": [weights.architecture]}
    published |= config_changes(config.to_dict(), parts.context)
    _write_config(folder / "config.json", published, weights)
    with contextlib.suppress(OSError):  # then generation follows config.json
        GenerationConfig.from_pretrained(where, revision=settings.revision or "main").save_pretrained(str(folder))
    notes = parts.tokenizer.write(folder)
    for file in find_license_files(model_location(base.name), base.revision):
        shutil.copyfile(file, folder / file.name)
    if base.quantization == "nf4":
        notes += ("trained on the base in 4 bits: longrepo evaluate measured that, not quite this model",)
    return WrittenWeights(weights.dtype, weights.bytes, notes)


def _check_unquantised(published: dict[str, Any]) -> None:
    how = published.get("quantization_config") or published.get("quantization")
    if how:
        kind = how.get("quant_method", f"{how.get('bits', 'few')} bits")
        raise InputError(
            f"published quantised ({kind}), and an adapter can't be merged into rounded weights; name the model it was "
            "made from with --base, or export the adapter alone with --format peft"
        )


def _check_disk_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"--output: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "free some space or give a folder on another disk"
        )


def _write_config(file: Path, published: dict[str, Any], weights: MergedWeights) -> None:
    """Write config.json with the vocabulary and the type, which older readers call `torch_dtype`."""
    config = {name: value for name, value in published.items() if not name.startswith("_")}
    config |= {"vocab_size": weights.vocabulary_size, "dtype": weights.dtype}
    if "torch_dtype" in config:
        config["torch_dtype"] = weights.dtype
    write_text_file(file, json.dumps(config, indent=2, sort_keys=True) + "\n")
