"""Read a LoRA adapter in PEFT's format for conversion, and collect what a merge needs: base, positions, adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.engines.adapter_io import Array, read_plain_lora
from longrepo.rope.apply import NATIVE_CONTEXT
from longrepo.training.artifact import TrainedArtifact

Quantization = Literal["none", "4bit", "8bit"]
Precision = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class ExportOptions:
    """Export options of every format. None means: as in the run's settings."""

    quantization: Quantization | None = None
    precision: Precision | None = None
    with_base: bool = False  # even if the published base would do
    model_file: bool = True  # add a model file if mlx-lm's own model computes something else
    adapter_only: bool = False  # gguf: write the adapter to its own file
    llama_cpp: Path | None = None  # folder of its converters; None: look on PATH
    for_: str | None = None  # gguf --adapter-only: a client that applies adapters at a scale of its own


@dataclass(frozen=True)
class PeftAdapter:
    """A LoRA adapter in memory, as arrays of the framework that read it (transposed ones are views).

    `lora`: float32 `lora_a` `[in, r]` and `lora_b` `[r, out]` by path. `rows`: float32 `[k, hidden]`, the trained
    embedding rows of the token ids `row_ids`."""

    r: int
    scale: float
    dropout: float
    lora: dict[str, Any]
    row_ids: tuple[int, ...]
    rows: Any


def read_peft_adapter(folder: Path, convert: Callable[[Array], Any]) -> PeftAdapter:
    """Read an adapter; `convert` makes a framework's array of NumPy's.

    Raises InputError if it can't be read, or is anything but LoRA on the published base with trained embedding rows."""
    plain = read_plain_lora(folder)
    lora = {path: convert(tensor).T for path, tensor in plain.tensors.items()}
    rows = None if plain.rows is None else convert(plain.rows)
    return PeftAdapter(plain.r, plain.scale, plain.dropout, lora, plain.row_ids, rows)


_NO_ADAPTER = PeftAdapter(r=1, scale=0.0, dropout=0.0, lora={}, row_ids=(), rows=None)


@dataclass(frozen=True)
class MergeInputs:
    """What a merge needs: the weights of `model`, the positions in `context`, and the `adapter` to merge.

    A fully trained model has its positions and token rows already, and nothing to merge."""

    model: ModelSettings
    tokenizer: RepoTokenizer
    context: ContextSettings
    adapter: PeftAdapter

    @staticmethod
    def of(source: TrainedArtifact, convert: Callable[[Array], Any]) -> MergeInputs:
        """`convert` as in `read_peft_adapter`. Raises InputError if the adapter or the tokenizer can't be read."""
        settings = source.settings
        tokenizer = source.load_tokenizer()
        if not source.whole:
            return MergeInputs(settings.model, tokenizer, settings.context, read_peft_adapter(source.adapter, convert))
        tokenizer.initial_from = {}
        model = settings.model.model_copy(update={"name": str(source.adapter), "revision": None})
        return MergeInputs(model, tokenizer, NATIVE_CONTEXT, _NO_ADAPTER)
