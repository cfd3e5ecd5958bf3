"""A whole model as transformers loads it, with tokenizer and card: the base's own weights and the adapter in one, or
the weights that were all trained."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.utils import logging

from longrepo.config.files import write_text
from longrepo.config.model_source import model_location
from longrepo.context.change import changes
from longrepo.engines.said import loading
from longrepo.engines.torch.checkpoint import find_checkpoint
from longrepo.errors import InputError
from longrepo.export.base_licence import licence_files
from longrepo.export.card import Use, write_card
from longrepo.export.formats import Choices
from longrepo.export.merged_weights import MergedWeights, load_float32
from longrepo.export.parts import Parts
from longrepo.export.source import Source
from longrepo.sequences.tokenizer import new_rows

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "auto": None}
_HOW = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto")
ids = tokenizer("def main(", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=40)[0]))
```"""


@dataclass(frozen=True)
class Written:
    """`bytes` of weights in `dtype`; `notes` for the terminal."""

    dtype: str
    bytes: int
    notes: tuple[str, ...]


def write_merged(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that is going to be `final`; return lines for the terminal. Raises InputError."""
    written = write_model(source, Parts.of(source, load_float32), choices.precision or "bfloat16", folder)
    holds, what = "The base's unquantised weights with the adapter merged in", "with the adapter merged in"
    if source.whole:
        holds, what = "A model whose weights were all trained", "with all weights trained"
    holds = f"{holds}, in {written.dtype}."
    write_card(folder, source, Use("transformers", holds, _HOW.format(folder=final.name), written.notes))
    name, size = source.settings.model.name, written.bytes / 1e9
    return [f"model: {final} ({name} {what}, {written.dtype}, {size:.2f} GB)", *written.notes]


def write_model(source: Source, parts: Parts, precision: str, folder: Path, copies: int = 1) -> Written:
    """Write weights, config.json, generation_config.json, tokenizer and the base's licence files into a folder.

    Raises InputError where the base can't be had unquantised, the adapter is another base's, or the disk has no room
    for so many copies of the weights.
    """
    logging.set_verbosity_error()
    settings, base = parts.model, source.settings.model
    with loading(settings.name):
        where = model_location(settings.name)
        published, _ = PreTrainedConfig.get_config_dict(where, revision=settings.revision)
        _check_unquantised(published)
        if (checkpoint := find_checkpoint(where, settings.revision)) is None:
            raise InputError("it has no safetensors files; save it again with transformers and name that with --base")
        config = AutoConfig.from_pretrained(where, revision=settings.revision)
        rows = new_rows(parts.tokenizer, settings.name, settings.revision)
        weights = MergedWeights(checkpoint, config, parts.adapter, parts.tokenizer, rows, DTYPES[precision])
        _check_room(folder, weights.bytes * copies)
        weights.write(folder)
    published |= changes(config.to_dict(), parts.context)
    _write_config(folder / "config.json", published, weights)
    with contextlib.suppress(OSError):  # then generation is what config.json says
        GenerationConfig.from_pretrained(where, revision=settings.revision or "main").save_pretrained(str(folder))
    parts.tokenizer.source.save_pretrained(str(folder))
    for file in licence_files(model_location(base.name), base.revision):
        shutil.copyfile(file, folder / file.name)
    notes: tuple[str, ...] = ()
    if base.quantization == "nf4":
        notes = ("trained on 4 bits of that base: what longrepo evaluate measured there isn't quite this model",)
    return Written(weights.dtype, weights.bytes, notes)


def _check_unquantised(published: dict[str, Any]) -> None:
    how = published.get("quantization_config") or published.get("quantization")
    if how:
        kind = how.get("quant_method", f"{how.get('bits', 'few')} bits")
        raise InputError(
            f"published quantised ({kind}), and an adapter isn't merged into rounded weights; name the model it was "
            "made from with --base, or export the adapter alone with --format peft"
        )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"--output: {needed / 1e9:.1f} GB are needed there, {free / 1e9:.1f} GB are free; "
            "free some space or give a folder on another disk"
        )


def _write_config(file: Path, published: dict[str, Any], weights: MergedWeights) -> None:
    """With its vocabulary and its type, which older readers call `torch_dtype`."""
    config = {name: value for name, value in published.items() if not name.startswith("_")}
    config |= {"vocab_size": weights.vocabulary_size, "dtype": weights.dtype}
    if "torch_dtype" in config:
        config["torch_dtype"] = weights.dtype
    write_text(file, json.dumps(config, indent=2, sort_keys=True) + "\n")
