#!/usr/bin/env bash
# transformers reads a GGUF file's positions otherwise than they are written, without a word.
#
# transformers 5.23.0, gguf 0.19.0, torch 2.13.0, Python 3.11. Tiny random models are written with gguf's own writer, with
# llama.cpp's keys for the base of the rotary positions (`ARCH.rope.freq_base`) and their scaling (`ARCH.rope.scaling.*`),
# then read by AutoConfig.from_pretrained(folder, gguf_file=...). Seen:
# - starcoder2: the base is dropped: 10,000 in place of the file's 999,999 (what StarCoder2-3B was published with).
# - llama, qwen2 and qwen3: the base is kept, linear and YaRN scaling are dropped: rope_type is "default".
# The model then computes other logits than llama.cpp does on the same file. No error and no warning. Exits 1 if this
# changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 gguf==0.19.0 torch==2.13.0
"$work/venv/bin/python" - "$work" <<'PYTHON'
import sys
from pathlib import Path

import gguf
import numpy as np
from transformers import AutoConfig, logging

logging.set_verbosity_error()
BASE, SEEN = 999_999.0, {"starcoder2": 10_000.0, "llama": 999_999.0, "qwen2": 999_999.0, "qwen3": 999_999.0}
wrong = False
for architecture, base in SEEN.items():
    for kind in ("none", "linear", "yarn"):
        file = Path(sys.argv[1], f"{architecture}-{kind}.gguf")
        writer = gguf.GGUFWriter(str(file), architecture)
        writer.add_block_count(1)
        writer.add_context_length(256)
        writer.add_embedding_length(64)
        writer.add_feed_forward_length(128)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_layer_norm_eps(1e-5)
        writer.add_rope_freq_base(BASE)
        if kind != "none":
            writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
            writer.add_rope_scaling_factor(4.0)
            writer.add_rope_scaling_orig_ctx_len(64)
        writer.add_token_list(["a", "b"])
        writer.add_tensor("token_embd.weight", np.zeros((2, 64), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        rope = AutoConfig.from_pretrained(file.parent, gguf_file=file.name).rope_parameters
        print(f"{architecture:11} {kind:6} in the file: base {BASE:,.0f}   read: {rope}")
        wrong |= rope != {"rope_theta": base, "rope_type": "default"}
sys.exit(wrong)
PYTHON
