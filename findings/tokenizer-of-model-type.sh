#!/usr/bin/env bash
# The model type in config.json decides which token ids a tokenizer.json gives.
#
# transformers 5.23.0, tokenizers 0.23.3, Python 3.11. One and the same tokenizer.json (byte-level BPE whose pre-tokenizer
# sets apart numbers of up to three digits, and nothing else) is loaded by AutoTokenizer, beside a tokenizer_config.json
# that names a class and a config.json that holds a model type and nothing else. Seen:
# - GPT2Tokenizer is named: its own pre-tokenizer takes the place of the file's for llama, starcoder2, qwen3 and
#   deepseek_v3, but not for mistral, phi3, granite and olmo2, where the named class is ignored and the file is kept.
# - PreTrainedTokenizerFast or TokenizersBackend is named: the file is kept, but for qwen2, which takes Qwen2's
#   pre-tokenizer whatever is named.
# - save_pretrained then writes the other pre-tokenizer into tokenizer.json: who reads only that file gets it, too.
# No error and no warning. Exits 1 if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
"$work/venv/bin/python" - "$work" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, logging

logging.set_verbosity_error()
LINE = "rows = [1, 22, 345]\n"
REPLACED = {
    "GPT2Tokenizer": {"llama", "starcoder2", "qwen3", "deepseek_v3", "qwen2"},
    "PreTrainedTokenizerFast": {"qwen2"},
    "TokenizersBackend": {"qwen2"},
}
TYPES = ("llama", "starcoder2", "qwen2", "qwen3", "deepseek_v3", "mistral", "phi3", "granite", "olmo2")

source = Tokenizer(models.BPE())
numbers = pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated")
source.pre_tokenizer = pre_tokenizers.Sequence([numbers, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
source.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
source.train_from_iterator([LINE, "def f(x):\n    return x + 345\n"] * 50, trainer)
expected = source.encode(LINE).ids

wrong = False
for named, replaced in REPLACED.items():
    for model_type in TYPES:
        folder = Path(sys.argv[1], named, model_type)
        folder.mkdir(parents=True)
        source.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        loaded = AutoTokenizer.from_pretrained(folder)
        loaded.save_pretrained(folder / "saved")
        saved = Tokenizer.from_file(str(folder / "saved" / "tokenizer.json")).encode(LINE, add_special_tokens=False).ids
        ids = loaded(LINE, add_special_tokens=False).input_ids
        changed = ids != expected
        note = f"{len(expected)} -> {len(ids)} tokens, saved {len(saved)}" if changed else "as in the file"
        print(f"{named:24} {model_type:12} {type(loaded).__name__:18} {note}")
        wrong |= changed != (model_type in replaced) or saved != ids
sys.exit(wrong)
PYTHON
