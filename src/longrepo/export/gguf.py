"""Export to GGUF for llama.cpp: the merged model in one file, or a base and its adapter in two.

llama.cpp's own scripts convert Hugging Face folders, each in its own process.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from longrepo.engines.adapter_io import ADAPTER_CONFIG, ADAPTER_WEIGHTS, lora_config, tensor_name
from longrepo.engines.base import load_errors
from longrepo.export.adapter import ExportOptions, MergeInputs, PeftAdapter
from longrepo.export.card import CardUse, base_label, write_card
from longrepo.export.merged import write_merged_model
from longrepo.export.run_converter import find_converter, is_composed_first
from longrepo.training.artifact import TrainedArtifact
from longrepo.utils.hub import model_location

_OUTTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
LORA_FILE = "adapter-f32.gguf"
CLIENT_SCALES = {"llama.vscode": 0.5}  # the scale that a client asks for whatever is set (llama.vscode 0.0.63)
_WITHOUT_WINDOW = ("starcoder2",)  # model types whose sliding window llama.cpp leaves out


@dataclass(frozen=True)
class GgufFiles:
    """What was written: the name of the `model` file (None: the published base's serves), `lines` on the files, and
    `notes` on what differs in llama.cpp."""

    model: str | None
    lines: list[str]
    notes: list[str]


def write_gguf(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that will become `final`; return lines for the terminal. Raises InputError."""
    written = write_gguf_files(source, options, folder, final)
    scale = CLIENT_SCALES[options.for_] if options.for_ else 1
    lora = f" --lora {LORA_FILE}" if scale == 1 else f" --lora-scaled {LORA_FILE}:{scale}"
    flags = f"-m {written.model or 'BASE.gguf'}" + (lora if options.adapter_only else "")
    commands = [f"llama-completion {flags} -p 'def main(' -n 40 --temp 0", f"llama-server {flags}"]
    how = "In this folder, with any build of llama.cpp:\n\n```sh\n" + "\n".join(commands) + "\n```"
    apart = ": the base and the adapter apart" if options.adapter_only else ""
    holds = f"GGUF files for llama.cpp, {_choose_types(options)[1]}{apart}."
    write_card(folder, source, CardUse("gguf", holds, how, written.notes))
    return [*written.lines, *written.notes, f"cd {shlex.quote(str(final))} && {commands[1]}"]


def write_gguf_files(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> GgufFiles:
    """Write the tuned model's file, or the base's and the adapter's; no card. Raises InputError."""
    precision, kind = _choose_types(options)
    converter, parts = find_converter(options.llama_cpp), MergeInputs.of(source, torch.from_numpy)
    adapter = parts.adapter
    base = source.settings.model.name
    with_base = not options.adapter_only or adapter.rows is not None or options.with_base or source.has_own_positions
    file = f"{'base' if options.adapter_only else 'model'}-{kind}.gguf"
    lines: list[str] = []
    notes: list[str] = []
    with _scratch_folder(folder) as scratch:
        if with_base:
            merged = replace(adapter, lora={}) if options.adapter_only else adapter
            written = write_merged_model(source, replace(parts, adapter=merged), precision, scratch, copies=2)
            notes += [*written.notes, *_other_ids(scratch / "tokenizer.json")]
            name = base_label(base) + ("" if options.adapter_only else ", tuned")
            write_card(scratch, source, CardUse("gguf", "", ""))  # the converter takes licence and base from it
            converter.model(scratch, folder / file, kind, name)
            rows = f"{len(adapter.row_ids)} trained rows in its embedding" if adapter.row_ids else "as published"
            tuned = "all weights trained" if source.whole else "the adapter merged in"
            lines.append(f"{final / file} ({base}, {rows if options.adapter_only else tuned})")
        else:
            _copy_config(source, scratch)
        notes += _unsupported_by_gguf(scratch)
        if options.adapter_only:
            scale = CLIENT_SCALES[options.for_] if options.for_ else 1
            _write_plain_lora(scratch / "adapter", replace(adapter, scale=adapter.scale / scale))
            converter.adapter(scratch / "adapter", scratch, folder / LORA_FILE, "f32")
            lines.append(f"{final / LORA_FILE} (the adapter, of {file if with_base else base})")
            if options.for_:
                notes.append(f"{options.for_} applies adapters at scale {scale:g}: this one's own makes up for it")
    return GgufFiles(file if with_base else None, lines, notes)


def _choose_types(options: ExportOptions) -> tuple[str, str]:
    """Return the dtype to merge in, and the converter's name of the file's type."""
    precision = options.precision or "bfloat16"
    return precision, "q8_0" if options.quantization == "8bit" else _OUTTYPES[precision]


@contextmanager
def _scratch_folder(folder: Path) -> Iterator[Path]:
    """Make a folder, and remove it at the end."""
    scratch = folder / "scratch"
    scratch.mkdir()
    yield scratch
    shutil.rmtree(scratch)


def _copy_config(source: TrainedArtifact, folder: Path) -> None:
    from transformers.utils.hub import cached_file

    settings = source.settings.model
    with load_errors(settings.name):
        file = cached_file(model_location(settings.name), "config.json", revision=settings.revision)
    shutil.copyfile(str(file), folder / "config.json")


def _write_plain_lora(folder: Path, adapter: PeftAdapter) -> None:
    """Write PEFT's format without the trained token rows: the converter refuses them, and the base holds them."""
    folder.mkdir()
    tensors = {tensor_name(path): tensor.T.contiguous() for path, tensor in adapter.lora.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = lora_config(None, adapter.r, adapter.scale * adapter.r, 0.0, (), None)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _other_ids(tokenizer: Path) -> list[str]:
    if not is_composed_first(tokenizer):
        return []
    return ["text that isn't in Unicode's form NFC gets other ids in llama.cpp than in training: compose it first"]


def _unsupported_by_gguf(model: Path) -> list[str]:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    window = config.get("sliding_window")
    if config.get("model_type") not in _WITHOUT_WINDOW or not window or not config.get("use_sliding_window", True):
        return []
    return [f"beyond {window:,} tokens llama.cpp attends to all tokens, the base only to the last {window:,}"]
