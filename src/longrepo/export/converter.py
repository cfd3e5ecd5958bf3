"""llama.cpp's own converters from Hugging Face folders to GGUF, run in a process of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from longrepo.errors import InputError

MODEL_SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
# Pre-tokenizers by llama.cpp's name, as tokenizer.json spells them: one that its converter doesn't find in its list of
# published tokenizers (it compares ids, which a vocabulary of one's own changes) is told by what it does.
_PRE_TOKENIZERS = {
    "starcoder": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
}


@dataclass(frozen=True)
class Converter:
    """A checkout of llama.cpp, or whichever folder its scripts lie in."""

    folder: Path

    def model(self, model: Path, out: Path, kind: str, name: str) -> None:
        """Convert a model's folder to a file; `kind` is what the script calls --outtype. Raises InputError."""
        arguments = [str(model), "--outfile", str(out), "--outtype", kind, "--model-name", name]
        self._run(MODEL_SCRIPT, pre_tokenizer(model / "tokenizer.json"), arguments, out)

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


def find_converter(given: Path | None) -> Converter:
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
    return Converter(folder.absolute())


def pre_tokenizer(file: Path) -> str | None:
    """llama.cpp's name of how a tokenizer.json splits text before BPE; None where it isn't one of those known here."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    split, plain = tree.get("pre_tokenizer") or {}, tree.get("normalizer") is None
    parts = split.get("pretokenizers") if split.get("type") == "Sequence" else [split]
    return next((name for name, known in _PRE_TOKENIZERS.items() if plain and parts == known), None)
