"""Find llama.cpp's converter and run its scripts, each in a process of its own.

That process is `python -m longrepo.export.run_converter SCRIPT PRE ARGUMENTS`.

Its converter recognises a tokenizer by a hash of some ids, so it doesn't know one that has its own vocabulary, even if
it splits text exactly as a known one does. PRE names that one; it is used only if the converter recognises none.
Tokens of a sentencepiece-like tokenizer.json get scores in the order of its merges.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from longrepo.errors import InputError
from longrepo.gguf.vocabulary import DIGIT, GPT2_WORDS, SPLITTINGS

MODEL_SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"


@dataclass(frozen=True)
class LlamaCppConverter:
    """A checkout of llama.cpp, or any folder that holds its scripts."""

    folder: Path

    def model(self, model: Path, out: Path, kind: str, name: str) -> None:
        """Convert a model's folder to a file; `kind` is the script's --outtype. Raises InputError."""
        arguments = [str(model), "--outfile", str(out), "--outtype", kind, "--model-name", name]
        self._run(MODEL_SCRIPT, find_pre_tokenizer(model / "tokenizer.json"), arguments, out)

    def adapter(self, adapter: Path, base: Path, out: Path, kind: str) -> None:
        """Convert plain LoRA in PEFT's format; only the configuration of `base` is read. Raises InputError."""
        self._run(LORA_SCRIPT, None, [str(adapter), "--base", str(base), "--outfile", str(out), "--outtype", kind], out)

    def _run(self, script: str, pre: str | None, arguments: list[str], out: Path) -> None:
        command = [sys.executable, "-m", "longrepo.export.run_converter", str(self.folder / script), pre or ""]
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        result = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
        if result.returncode or not out.is_file():
            output = [line for line in (result.stderr or result.stdout).strip().splitlines() if line.strip()]
            reason = output[-1] if output else f"exit status {result.returncode}"
            raise InputError(f"{self.folder / script}: {reason}; try a newer llama.cpp with --llama-cpp DIR")


def find_converter(given: Path | None) -> LlamaCppConverter:
    """Find the converter in the given checkout, or on PATH. Raises InputError if there is none."""
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
            f"GGUF: llama.cpp's {MODEL_SCRIPT} isn't on PATH; git clone https://github.com/ggml-org/llama.cpp, or "
            "unpack the package that docs/export.md names, and name that folder with --llama-cpp"
        )
    return LlamaCppConverter(folder.absolute())


def find_pre_tokenizer(file: Path) -> str | None:
    """Return llama.cpp's name of a tokenizer.json's pre-tokenizer, or None if it isn't one of those known here.

    The converter recognises a tokenizer by the ids of a sample text, so it does not know one with its own vocabulary,
    which is recognised here by its rules."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    if tree["model"].get("ignore_merges") or set(_normalizers(tree)) - {"NFC"}:
        return None
    split = tree.get("pre_tokenizer") or {}
    parts = split["pretokenizers"] if split.get("type") == "Sequence" else [split]
    rules = tuple(rule for part in parts for rule in _split_rules(part))
    return next((name for name, known in SPLITTINGS.items() if rules == known.rules), None)


def is_composed_first(file: Path) -> bool:
    """Return whether a tokenizer.json brings text to Unicode's form NFC before it splits it, as llama.cpp doesn't."""
    return "NFC" in _normalizers(json.loads(file.read_text(encoding="utf-8")))


def _normalizers(tree: dict[str, Any]) -> list[str]:
    normalizer = tree.get("normalizer") or {"normalizers": []}
    return [one["type"] for one in normalizer.get("normalizers", [normalizer])]


def _split_rules(part: dict[str, Any]) -> list[str | None]:
    """Return the rules of one part of a pre-tokenizer; None stands for one that llama.cpp doesn't have."""
    kind = part.get("type")
    if kind == "ByteLevel" and not part["add_prefix_space"]:
        return [GPT2_WORDS] if part.get("use_regex", True) else []
    if kind == "Digits" and part["individual_digits"]:
        return [DIGIT]
    if kind == "Split" and (part["behavior"], part["invert"]) == ("Isolated", False):
        return [part["pattern"].get("Regex")]
    return [None]


def main() -> None:
    script, pre, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    if pre:
        _register_pre_tokenizer(pre)
    _score_by_merges()
    runpy.run_path(script, run_name="__main__")


def _register_pre_tokenizer(pre: str) -> None:
    text_model: Any = import_module("conversion.base").TextModel
    known = text_model.get_vocab_base_pre

    def name(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            return pre

    text_model.get_vocab_base_pre = name


def _score_by_merges() -> None:
    """Give the tokens of a sentencepiece-like tokenizer.json the order of its merges as scores.

    Without tokenizer.model the converter gives each token the same score, and llama.cpp then splits text otherwise.
    """
    vocabulary: Any = getattr(getattr(import_module("conversion.base"), "gguf", None), "LlamaHfVocab", None)
    if vocabulary is None:  # a version that has no such class
        return

    def score(self: Any, id: int) -> float:
        if not hasattr(self, "merge_ranks"):
            merges = json.loads(self.fname_tokenizer.read_text(encoding="utf-8"))["model"]["merges"]
            pieces = ["".join(merge) if isinstance(merge, list) else merge.replace(" ", "") for merge in merges]
            self.merge_ranks = {piece: rank for rank, piece in reversed([*enumerate(pieces)])}
        return -float(self.merge_ranks.get(self.tokenizer.convert_ids_to_tokens(id), len(self.merge_ranks)))

    vocabulary.get_token_score = score


if __name__ == "__main__":
    main()
