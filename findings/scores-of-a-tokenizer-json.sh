#!/usr/bin/env bash
# A sentencepiece-like vocabulary that is in tokenizer.json alone is split otherwise in llama.cpp.
#
# gguf 0.19.0, xllamacpp 2026.10.11549 (llama.cpp), transformers 5.23.0, tokenizers 0.23.3, Python 3.11. Without
# tokenizer.model, llama.cpp's converter takes such a vocabulary (BPE over U+2581 and bytes, as Code Llama's) through
# gguf's LlamaHfVocab, which gives every token the score -1000. llama.cpp merges by score, so the order of the merges is
# lost. Seen: 4,906 tokens of Python's json/decoder.py, where tokenizer.json gives 4,557. With the rank of its merge as
# each token's score, llama.cpp gives tokenizer.json's ids. No error and no warning. Exits 1 if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 xllamacpp==2026.10.11549 \
    transformers==5.23.0 tokenizers==0.23.3
"$work/venv/bin/python" - "$work" 2>"$work/log" <<'PYTHON'
import inspect
import json
import json.decoder
import sys
import urllib.request
from pathlib import Path

import gguf
import numpy as np
import xllamacpp
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

TEXT = inspect.getsource(json.decoder)
folder = Path(sys.argv[1])

# A tokenizer by sentencepiece's rules: spaces are U+2581, what is unknown becomes bytes, merges make the rest.
trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
trained.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
trained.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
trained.train_from_iterator(TEXT.splitlines(), trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
tree = json.loads(trained.to_str())
tree["model"]["byte_fallback"] = True
tree["added_tokens"] = tree["added_tokens"][:3]
(folder / "tokenizer.json").write_text(json.dumps(tree))
about = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
(folder / "tokenizer_config.json").write_text(json.dumps(about))
expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids


def ids_in_llama_cpp(scores: list[float] | None) -> list[int]:
    """Write a model of zeros with this vocabulary and ask llama.cpp for the text's ids."""
    texts, given, kinds = zip(*gguf.LlamaHfVocab(folder).all_tokens())
    print("scores from gguf:", {*given}, flush=True)
    file = folder / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores(scores or given)
    writer.add_token_types(kinds)
    names = [f"blk.0.{name}.weight" for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")]
    norms = ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"]
    shapes = {"token_embd.weight": (len(texts), 32)} | dict.fromkeys(names, (32, 32)) | dict.fromkeys(norms, (32,))
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    options = xllamacpp.CommonParams()
    options.model.path, options.n_ctx, options.warmup = str(file), 128, False
    server = xllamacpp.Server(options)
    asked = json.dumps({"content": TEXT, "add_special": False}).encode()
    request = urllib.request.Request(f"{server.listening_address}/tokenize", asked, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        ids: list[int] = json.load(answer)["tokens"]
    return ids


ranks = {"".join(merge): rank for rank, merge in reversed([*enumerate(tree["model"]["merges"])])}
by_merges = [-float(ranks.get(token, len(ranks))) for token, _ in sorted(tree["model"]["vocab"].items(), key=lambda one: one[1])]
as_converted, as_merged = ids_in_llama_cpp(None), ids_in_llama_cpp(by_merges)
for what, ids in (("tokenizer.json", expected), ("converted", as_converted), ("scores by merges", as_merged)):
    print(f"{what:17} {len(ids)} tokens: {[trained.id_to_token(id) for id in ids[:12]]}")
sys.exit(as_converted == expected or as_merged != expected)
PYTHON
