"""GGUF by llama.cpp.

llama.cpp's own converters from Hugging Face folders to GGUF, run in a process of their own.

GGUF for llama.cpp and what is built on it: the merged model in one file, or a base and the adapter apart.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save_file

from longrepo.engines.adapter_io import ADAPTER_CONFIG, ADAPTER_WEIGHTS, lora_config, tensor_name
from longrepo.engines.messages import load_errors
from longrepo.errors import InputError
from longrepo.export.adapter import ExportOptions, MergeInputs, PeftAdapter
from longrepo.export.card import CardUse, base_label, write_card
from longrepo.export.merged import load_float32, write_merged_model
from longrepo.training.artifact import TrainedArtifact
from longrepo.utils.hub import model_location

MODEL_SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
# Pre-tokenizers by llama.cpp's name, as tokenizer.json spells them: one that its converter doesn't find in its list of
# published tokenizers (it compares ids, which a vocabulary of one's own changes) is told by what it does.
_KNOWN_PRE_TOKENIZERS = {
    "starcoder": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
}


@dataclass(frozen=True)
class LlamaCppConverter:
    """A checkout of llama.cpp, or whichever folder its scripts lie in."""

    folder: Path

    def model(self, model: Path, out: Path, kind: str, name: str) -> None:
        """Convert a model's folder to a file; `kind` is what the script calls --outtype. Raises InputError."""
        arguments = [str(model), "--outfile", str(out), "--outtype", kind, "--model-name", name]
        self._run(MODEL_SCRIPT, find_pre_tokenizer(model / "tokenizer.json"), arguments, out)

    def adapter(self, adapter: Path, base: Path, out: Path, kind: str) -> None:
        """Convert plain LoRA in PEFT's format; of `base` only the configuration is read. Raises InputError."""
        self._run(LORA_SCRIPT, None, [str(adapter), "--base", str(base), "--outfile", str(out), "--outtype", kind], out)

    def _run(self, script: str, pre: str | None, arguments: list[str], out: Path) -> None:
        command = [sys.executable, "-m", "longrepo.export.run_converter", str(self.folder / script), pre or ""]
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
        if ended.returncode or not out.is_file():
            said = [line for line in (ended.stderr or ended.stdout).strip().splitlines() if line.strip()]
            reason = said[-1] if said else f"exit status {ended.returncode}"
            raise InputError(f"{self.folder / script}: {reason}; try a newer llama.cpp with --llama-cpp DIR")


def find_converter(given: Path | None) -> LlamaCppConverter:
    """In the checkout that was named, else on PATH. Raises InputError with what to do where there is none."""
    if given is not None:
        folder = given.expanduser()
    else:
        found = shutil.which(MODEL_SCRIPT)
        folder = Path(found).resolve().parent if found else Path()
    missing = [name for name in (MODEL_SCRIPT, LORA_SCRIPT) if not (folder / name).is_file()]
    if missing and given is not None:
        raise InputError(f"--llama-cpp {given}: holds no {missing[0]}; give a checkout of llama.cpp")
    if missing:
        raise InputError(
            f"--format gguf: {MODEL_SCRIPT} isn't on PATH; git clone https://github.com/ggml-org/llama.cpp "
            "and name that folder with --llama-cpp"
        )
    return LlamaCppConverter(folder.absolute())


def find_pre_tokenizer(file: Path) -> str | None:
    """llama.cpp's name of how a tokenizer.json splits text before BPE; None where it isn't one of those known here."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    split, plain = tree.get("pre_tokenizer") or {}, tree.get("normalizer") is None
    parts = split.get("pretokenizers") if split.get("type") == "Sequence" else [split]
    return next((name for name, known in _KNOWN_PRE_TOKENIZERS.items() if plain and parts == known), None)


_OUTTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
_LORA_FILE = "adapter-f32.gguf"
_WITHOUT_WINDOW = ("starcoder2",)  # model types whose sliding window llama.cpp leaves out


def write_gguf(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that is going to be `final`; return lines for the terminal. Raises InputError."""
    precision, kind = _choose_types(options)
    converter, parts = find_converter(options.llama_cpp), MergeInputs.of(source, load_float32)
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
            notes += written.notes
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
            _write_plain_lora(scratch / "adapter", adapter)
            converter.adapter(scratch / "adapter", scratch, folder / _LORA_FILE, "f32")
            lines.append(f"{final / _LORA_FILE} (the adapter, of {file if with_base else base})")
    flags = f"-m {file if with_base else 'BASE.gguf'}" + (f" --lora {_LORA_FILE}" if options.adapter_only else "")
    commands = [f"llama-completion {flags} -p 'def main(' -n 40 --temp 0", f"llama-server {flags}"]
    how = "In this folder, with any build of llama.cpp:\n\n```sh\n" + "\n".join(commands) + "\n```"
    holds = f"GGUF files for llama.cpp, {kind}" + (": the base and the adapter apart." if options.adapter_only else ".")
    write_card(folder, source, CardUse("gguf", holds, how, notes))
    return [*lines, *notes, f"cd {shlex.quote(str(final))} && {commands[1]}"]


def _choose_types(options: ExportOptions) -> tuple[str, str]:
    """The type that weights are merged in, and what the converter calls the file's."""
    precision = options.precision or "bfloat16"
    return precision, "q8_0" if options.quantization == "8bit" else _OUTTYPES[precision]


@contextmanager
def _scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards."""
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
    """In PEFT's format, without the rows of tokens: those the converter refuses, and the base holds them."""
    folder.mkdir()
    tensors = {tensor_name(path): tensor.T.contiguous() for path, tensor in adapter.lora.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = lora_config(None, adapter.r, adapter.scale * adapter.r, 0.0, (), None)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _unsupported_by_gguf(model: Path) -> list[str]:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    window = config.get("sliding_window")
    if config.get("model_type") not in _WITHOUT_WINDOW or not window or not config.get("use_sliding_window", True):
        return []
    return [f"beyond {window:,} tokens llama.cpp attends to all of them, the base to the last {window:,} only"]
