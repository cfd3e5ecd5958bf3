"""GGUF for llama.cpp and what is built on it: the merged model in one file, or a base and the adapter apart."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from longrepo.config.model_source import model_location
from longrepo.engines.peft_names import CONFIG, WEIGHTS, lora_config, tensor_name
from longrepo.engines.said import loading
from longrepo.export.card import Use, shown_base, write_card
from longrepo.export.converter import find_converter
from longrepo.export.formats import Choices
from longrepo.export.merged_folder import write_model
from longrepo.export.merged_weights import load_float32
from longrepo.export.parts import Parts
from longrepo.export.peft_adapter import PeftAdapter
from longrepo.export.source import Source

_KINDS = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
_LORA = "adapter-f32.gguf"
_UNWINDOWED = ("starcoder2",)  # model types whose sliding window llama.cpp leaves out


def write_gguf(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that is going to be `final`; return lines for the terminal. Raises InputError."""
    precision, kind = _kind(choices)
    converter, parts = find_converter(choices.llama_cpp), Parts.of(source, load_float32)
    adapter = parts.adapter
    base = source.settings.model.name
    with_base = not choices.adapter_only or adapter.rows is not None or choices.with_base or source.repositioned
    file = f"{'base' if choices.adapter_only else 'model'}-{kind}.gguf"
    lines: list[str] = []
    notes: list[str] = []
    with _scratch(folder) as scratch:
        if with_base:
            merged = replace(adapter, lora={}) if choices.adapter_only else adapter
            written = write_model(source, replace(parts, adapter=merged), precision, scratch, copies=2)
            notes += written.notes
            name = shown_base(base) + ("" if choices.adapter_only else ", tuned")
            write_card(scratch, source, Use("gguf", "", ""))  # the converter takes licence and base from it
            converter.model(scratch, folder / file, kind, name)
            rows = f"{len(adapter.row_ids)} trained rows in its embedding" if adapter.row_ids else "as published"
            tuned = "all weights trained" if source.whole else "the adapter merged in"
            lines.append(f"{final / file} ({base}, {rows if choices.adapter_only else tuned})")
        else:
            _copy_config(source, scratch)
        notes += _differences(scratch)
        if choices.adapter_only:
            _write_plain_lora(scratch / "adapter", adapter)
            converter.adapter(scratch / "adapter", scratch, folder / _LORA, "f32")
            lines.append(f"{final / _LORA} (the adapter, of {file if with_base else base})")
    options = f"-m {file if with_base else 'BASE.gguf'}" + (f" --lora {_LORA}" if choices.adapter_only else "")
    commands = [f"llama-completion {options} -p 'def main(' -n 40 --temp 0", f"llama-server {options}"]
    how = "In this folder, with any build of llama.cpp:\n\n```sh\n" + "\n".join(commands) + "\n```"
    holds = f"GGUF files for llama.cpp, {kind}" + (": the base and the adapter apart." if choices.adapter_only else ".")
    write_card(folder, source, Use("gguf", holds, how, notes))
    return [*lines, *notes, f"cd {shlex.quote(str(final))} && {commands[1]}"]


def _kind(choices: Choices) -> tuple[str, str]:
    """The type that weights are merged in, and what the converter calls the file's."""
    precision = choices.precision or "bfloat16"
    return precision, "q8_0" if choices.quantization == "8bit" else _KINDS[precision]


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    scratch = folder / "scratch"
    scratch.mkdir()
    yield scratch
    shutil.rmtree(scratch)


def _copy_config(source: Source, folder: Path) -> None:
    from transformers.utils.hub import cached_file

    settings = source.settings.model
    with loading(settings.name):
        file = cached_file(model_location(settings.name), "config.json", revision=settings.revision)
    shutil.copyfile(str(file), folder / "config.json")


def _write_plain_lora(folder: Path, adapter: PeftAdapter) -> None:
    """In PEFT's format, without the rows of tokens: those the converter refuses, and the base holds them."""
    folder.mkdir()
    tensors = {tensor_name(path): tensor.T.contiguous() for path, tensor in adapter.lora.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = lora_config(None, adapter.r, adapter.scale * adapter.r, 0.0, (), None)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _differences(model: Path) -> list[str]:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    window = config.get("sliding_window")
    if config.get("model_type") not in _UNWINDOWED or not window or not config.get("use_sliding_window", True):
        return []
    return [f"beyond {window:,} tokens llama.cpp attends to all of them, the base to the last {window:,} only"]
