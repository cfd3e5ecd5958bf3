"""A base's own weights with an adapter merged in, written tensor by tensor.

W + alpha / r · B · A is computed in float32 from the weights as published, never from 4-bit ones, and rounded once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import StateDictSplit, split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from longrepo.config.files import write_text
from longrepo.config.schema import ModelSettings
from longrepo.engines.torch.checkpoint import Checkpoint
from longrepo.engines.torch.device import Placement
from longrepo.engines.torch.skeleton import NotStreamable, Skeleton
from longrepo.errors import InputError
from longrepo.export.peft_adapter import PeftAdapter
from longrepo.sequences.tokenizer import RepoTokenizer

INDEX = "model.safetensors.index.json"
_SHARD = 2**30  # bytes of a file, and so what lies in memory at a time
_CPU = Placement(torch.device("cpu"), torch.float32, ())

Tensor = torch.Tensor


def load_float32(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file in float32."""
    return {name: tensor.float() for name, tensor in load_file(file).items()}


class MergedWeights:
    """What the files are going to hold, under the names that the base was published with. `dtype` None: each tensor's
    own; `new_rows`: see there. Raises InputError where the adapter is another base's, or not on linear layers alone."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Any,
        adapter: PeftAdapter,
        tokenizer: RepoTokenizer,
        new_rows: Mapping[int, int],
        dtype: torch.dtype | None,
    ) -> None:
        self._checkpoint, self._adapter, self._dtype = checkpoint, adapter, dtype
        self._own = _types(checkpoint.files)
        self._initial_from = new_rows
        settings = ModelSettings(name=tokenizer.name, quantization="none")
        try:
            skeleton = Skeleton(config, settings, _CPU, tokenizer.vocabulary_size)
            self._published = skeleton.match(checkpoint.names)
        except NotStreamable as reason:
            raise InputError(f"{reason}, and such a base can't be merged; export the adapter, --format peft") from None
        model = skeleton.model
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        for ours, theirs in self._published.items():
            skeleton.check_shape(ours, checkpoint.shape(theirs))
        self._table = _name_of(model, model.get_input_embeddings())
        self._head = _name_of(model, model.get_output_embeddings())
        if config.get_text_config().tie_word_embeddings:
            self._published.pop(self._head, None)
        self._check(model)
        self._split = self._sharded()
        self.bytes = int(self._split.metadata["total_size"])

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding."""
        return self._shapes[self._table][0]

    @property
    def dtype(self) -> str:
        """Of the embedding, as config.json names it."""
        return str(self._type_of(self._table)).removeprefix("torch.")

    def write(self, folder: Path) -> None:
        """Write the files into an existing folder. Raises InputError where a weight is beyond the type's range."""
        ours = {theirs: name for name, theirs in self._published.items()}
        for file, names in self._split.filename_to_tensors.items():
            tensors = {theirs: self._tensor(ours[theirs]) for theirs in names}
            save_file(tensors, folder / file, metadata={"format": "pt"})
        if self._split.is_sharded:
            index = {"metadata": self._split.metadata, "weight_map": self._split.tensor_to_filename}
            write_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")

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
        """With rows for the tokens that were added: those of the tokens they began as, or as they were trained."""
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
        """Which file holds which tensor, by tensors without content."""
        empty = {
            theirs: torch.empty(self._shapes[name], dtype=self._type_of(name), device="meta")
            for name, theirs in self._published.items()
        }
        return split_torch_state_dict_into_shards(empty, max_shard_size=_SHARD)

    def _check(self, model: Any) -> None:
        modules, adapter = dict(model.named_modules()), self._adapter
        for path, tensor in sorted(adapter.lora.items()):
            name, _, matrix = path.rpartition(".")
            module, side = modules.get(name), ("lora_a", "lora_b").index(matrix)
            if module is not None and not isinstance(module, nn.Linear):
                raise InputError(f"{name} isn't a linear layer, and only those can be merged; use --format peft")
            asked = (module.in_features, module.out_features)[side] if module is not None else 0
            if tensor.shape[side] != asked:
                has = f"this base's is {asked}" if asked else "this base has no such layer"
                raise InputError(f"the adapter is another base's: {path} is for a width of {tensor.shape[side]}, {has}")
        rows, width = self._shapes[self._table]
        if adapter.rows is not None and (max(adapter.row_ids) >= rows or adapter.rows.shape[1] != width):
            raise InputError(
                f"the adapter is another base's: it has rows of {adapter.rows.shape[1]} up to token "
                f"{max(adapter.row_ids)}, this base has {rows} of {width}"
            )


def _name_of(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, one in model.named_modules() if one is module) + ".weight"


def _types(files: Iterable[Path]) -> dict[str, torch.dtype]:
    """Of every tensor, read without its content."""
    found: dict[str, torch.dtype] = {}
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            found |= {name: opened.get_slice(name)[:0].dtype for name in opened.keys()}  # noqa: SIM118
    return found
