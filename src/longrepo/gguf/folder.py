"""Write a GGUF file's model as a Hugging Face folder, one tensor after the other."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo.errors import InputError
from longrepo.gguf.architectures import find_architecture, make_config, tensor_name
from longrepo.gguf.header import GgufModel, read_gguf
from longrepo.gguf.tensors import (
    OutOfRange,
    TensorPlan,
    check_kinds,
    unpermuted_rows,
    write_safetensors,
    written_dtype,
)
from longrepo.gguf.vocabulary import make_tokenizer

MAX_FLOAT32_BYTES = 2 << 30  # a larger model's de-quantised weights are rounded to 16 bits, to half the disk


@dataclass(frozen=True)
class WrittenModel:
    """`dtype` and `bytes` of the weights that were written, the quantisations of the file they came from, and notes for
    the terminal."""

    dtype: str
    bytes: int
    kinds: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class GgufConversion:
    """A model's file that was read and found whole, and its tokenizer; nothing is written yet."""

    file: Path
    model: GgufModel
    tokenizer: dict[str, dict[str, Any]]  # file name without .json → content

    @staticmethod
    def of(file: Path) -> GgufConversion:
        """Raises InputError if the file can't be read as a language model."""
        model = read_gguf(file)
        find_architecture(model)
        _check_blocks(model)
        check_kinds(model.kinds)
        state, config = make_tokenizer(model)
        rows, known = model.tensors["token_embd.weight"].shape[0], max(state["model"]["vocab"].values()) + 1
        if known > rows:
            raise InputError(f"its tokenizer has {known:,} tokens, its embedding {rows:,} rows; download it again")
        make_config(model, "float32")
        return GgufConversion(file, model, {"tokenizer": state, "tokenizer_config": config})

    def write(self, folder: Path) -> WrittenModel:
        """Fill an existing empty folder with config.json, weights, tokenizer, and a README that names the licence.

        Raises InputError if the disk has no room.
        """
        beyond: list[str] = []
        for dtype in self._dtypes():
            plans = _plan(self.model, dtype)
            size = sum(plan.bytes for plan in plans)
            _check_disk_space(folder, size)
            try:
                write_safetensors(folder / "model.safetensors", plans)
                break
            except OutOfRange:
                beyond = ["rounded to bfloat16: some weights are beyond float16's range"]
        main = _main_dtype(plans)
        config, notes = make_config(self.model, main)
        ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        for name, tree in {"config": config, "generation_config": ends, **self.tokenizer}.items():
            text = json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(_readme(self.model, self.file), encoding="utf-8")
        return WrittenModel(main, size, tuple(self.model.kinds), (*notes, *beyond))

    def _dtypes(self) -> tuple[str, ...]:
        """Return the types to round de-quantised weights to, the first first."""
        quantised = [tensor for tensor in self.model.tensors.values() if written_dtype(tensor.kind, "") == ""]
        exact = sum(4 * math.prod(tensor.shape) for tensor in quantised) <= MAX_FLOAT32_BYTES
        return ("float32",) if exact else ("float16", "bfloat16")


def _main_dtype(plans: list[TensorPlan]) -> str:
    sizes = {plan.dtype: 0 for plan in plans}
    for plan in plans:
        sizes[plan.dtype] += plan.bytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _plan(model: GgufModel, dtype: str) -> list[TensorPlan]:
    architecture, plans = find_architecture(model), []
    heads = {"attn_q": model.get("attention.head_count"), "attn_k": model.get("attention.head_count_kv")}
    for tensor in model.tensors.values():
        if (name := tensor_name(architecture, tensor.name)) is None:
            continue
        part = tensor.name.split(".")[-2]
        order = None
        if architecture.permuted and part in heads:
            order = unpermuted_rows(tensor.shape[0], heads[part] or heads["attn_q"])
        shift = architecture.norm_shift if tensor.name.endswith("norm.weight") else 0.0
        plans.append(TensorPlan(tensor, name, written_dtype(tensor.kind, dtype), order, shift))
    return plans


def _check_blocks(model: GgufModel) -> None:
    """Raise InputError if a block lacks a tensor that the first has."""
    first = {name.removeprefix("blk.0") for name in model.tensors if name.startswith("blk.0.")}
    wanted = [f"blk.{block}{part}" for block in range(model.get("block_count", 0)) for part in sorted(first)]
    missing = [name for name in ("token_embd.weight", "output_norm.weight", *wanted) if name not in model.tensors]
    if missing or not first:
        what = missing[0] if missing else "any block"
        raise InputError(f"it lacks {what}; download it again")


def _check_disk_space(folder: Path, needed: int) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise InputError(
            f"its weights take {needed / 1e9:.1f} GB in {folder.parent}, {free / 1e9:.1f} GB are free; free some "
            "space, or set LONGREPO_CACHE to a folder on another disk"
        )


def _readme(model: GgufModel, file: Path) -> str:
    """Return the hub's YAML with the licence the file names, and where the folder came from."""
    front = {
        key: model.metadata[f"general.{source}"]
        for key, source in (("license", "license"), ("license_name", "license.name"), ("license_link", "license.link"))
        if f"general.{source}" in model.metadata
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    name = model.metadata.get("general.name", file.stem)
    return "\n".join(["---", *lines, "---", "", f"# {name}", "", f"Written by longrepo from {file.name}.", ""])
