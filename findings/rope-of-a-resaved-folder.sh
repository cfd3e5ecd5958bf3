#!/usr/bin/env bash
# A folder that transformers 5 has opened and saved again is another model in mlx-lm, mostly without a word.
#
# transformers 5.23.0, mlx-lm 0.32.2, mlx 0.32.4 (CPU), Python 3.11. A config.json as models are published has rope_theta
# (and partial_rotary_factor, rope_scaling) at its top. AutoConfig.from_pretrained(…).save_pretrained(…), which every
# fine-tuning or merge ends with, moves them into rope_parameters, where mlx-lm looks for few model types only. Both
# folders are opened by mlx-lm, with the same weights. Seen:
# - llama, mistral, olmo2, phi3, seed_oss, smollm3, starcoder2: mlx-lm's default base (and whole heads in phi3) take the
#   place of the model's: other logits, no warning. gemma3_text loses the scaling of its full layers in the same way.
# - granite, olmo3, stablelm: refused, since their classes have no default.
# - granitemoehybrid reads rope_parameters, but is refused: its layer type "attention" was renamed to "full_attention".
# - ministral3 and qwen3 read rope_parameters: the same model.
# Exits 1 if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 mlx-lm==0.32.2 "mlx[cpu]==0.32.4"
"$work/venv/bin/python" - "$work" <<'PYTHON'
import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm.utils import _get_classes
from transformers import AutoConfig, logging

logging.set_verbosity_error()
SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "rope_theta": 500000.0, "head_dim": 16, "rms_norm_eps": 1e-5,
}
YARN = {"type": "yarn", "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
OWN = {
    "gemma3_text": {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window": 512},
    "granite": {name: 1.0 for name in ("logits_scaling", "attention_multiplier", "embedding_multiplier", "residual_multiplier")},
    "ministral3": {"rope_parameters": {**YARN, "rope_theta": 500000.0, "llama_4_scaling_beta": 0.1}},
    "olmo3": {"sliding_window": 512},
    "phi3": {"partial_rotary_factor": 0.75},
    "stablelm": {"partial_rotary_factor": 0.25, "use_qkv_bias": False, "layer_norm_eps": 1e-5},
    "starcoder2": {"sliding_window": None, "hidden_act": "gelu"},
}
OWN["granite"] |= {"attention_bias": False, "mlp_bias": False}
OWN["granitemoehybrid"] = OWN["granite"] | {
    "layer_types": ["attention"] * 6, "num_local_experts": 0, "shared_intermediate_size": 128, "position_embedding_type": "rope",
}
SILENT = {"gemma3_text", "llama", "mistral", "olmo2", "phi3", "seed_oss", "smollm3", "starcoder2"}
REFUSED = {"granite", "granitemoehybrid", "olmo3", "stablelm"}
SAME = {"ministral3", "qwen3"}


def logits(folder):
    config = json.loads((folder / "config.json").read_text())
    model, arguments = _get_classes(config)
    mx.random.seed(0)
    made = model(arguments.from_dict(config))
    for layer in made.layers:  # attention that counts
        layer.self_attn.o_proj.weight = layer.self_attn.o_proj.weight * 20
    return made(mx.arange(100)[None])


wrong = False
for kind in sorted(SILENT | REFUSED | SAME):
    published, again = (Path(sys.argv[1], kind, name) for name in ("published", "again"))
    published.mkdir(parents=True)
    (published / "config.json").write_text(json.dumps({"model_type": kind, **SHAPE, **OWN.get(kind, {})}))
    AutoConfig.from_pretrained(published).save_pretrained(again)
    expected = logits(published)
    try:
        off = mx.abs(logits(again) - expected).max().item()
        seen = "SILENT" if off > 0.01 else "SAME"
        note = f"logits differ by {off:.2g}, of {mx.abs(expected).max().item():.2g}" if off else "the same logits"
    except (TypeError, ValueError) as error:
        seen, note = "REFUSED", str(error)
    print(f"{kind:18} {seen:8} {note}")
    wrong |= kind not in globals()[seen]
sys.exit(wrong)
PYTHON
