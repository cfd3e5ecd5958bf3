"""The MLX models compute what transformers computes from the same folder, past a window and through a cache too."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from families import CASES, FAMILIES, LINEAR, LONGROPE, MIXED, VOCABULARY, WINDOW, YARN, published

from longrepo import embedded
from longrepo.config.schema import ModelSettings
from longrepo.engines.mlx.load import load_base
from longrepo.errors import InputError

TOLERANCE = 1e-4


def load(folder: Path) -> Any:
    tokenizer: Any = SimpleNamespace(vocabulary_size=VOCABULARY, initial_from={})
    return load_base(ModelSettings(name=str(folder), quantization="none"), tokenizer, mx.float32)[0]


def logits(model: Any, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with torch.no_grad():
        return model(torch.tensor(ids), use_cache=False).logits.numpy()


def tokens(length: int, below: int = VOCABULARY) -> npt.NDArray[Any]:
    return np.random.default_rng(length).integers(0, below, (2, length))


def assert_close(ours: Any, theirs: Any) -> None:
    assert np.abs(np.array(ours) - theirs).max() <= TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs = published(tmp_path, *CASES[case])
    ours = load(tmp_path)
    for length in (3 * WINDOW,) if "longrope" in case else (WINDOW - 4, 3 * WINDOW):  # one length's frequencies for all
        ids = tokens(length)
        expected = logits(theirs, ids)
        assert np.abs(expected).max() > 3
        assert_close(ours(mx.array(ids)), expected)


@pytest.mark.parametrize("case", FAMILIES)
def test_generation_s_cache_gives_the_same(case: str, tmp_path: Path) -> None:
    """A prompt in two parts, then a token at a time, past the window."""
    expected = logits(published(tmp_path, *CASES[case]), ids := tokens(3 * WINDOW))
    ours = load(tmp_path)
    cache = ours.make_cache()
    bounds = [0, 10, 40, *range(41, 3 * WINDOW + 1)]
    parts = [ours(mx.array(ids[:, start:end]), cache) for start, end in itertools.pairwise(bounds)]
    assert_close(mx.concatenate(parts, axis=1), expected)


def test_transformers_4_s_spelling_of_rope_is_read(tmp_path: Path) -> None:
    expected = logits(published(tmp_path, "Starcoder2", {"rope_parameters": LINEAR | {"rope_theta": 5e5}}), tokens(40))
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["rope_parameters"]
    file.write_text(json.dumps(config | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}))
    assert_close(load(tmp_path)(mx.array(tokens(40))), expected)


def test_what_config_json_leaves_out_is_what_transformers_takes(tmp_path: Path) -> None:
    """mlx-lm's StarCoder2 would take a theta of 100,000, its Llama tied embeddings."""
    for name, left_out in (("Starcoder2", "rope_parameters"), ("Llama", "tie_word_embeddings")):
        expected = logits(published(tmp_path / name, name, {}), tokens(40))
        file = tmp_path / name / "config.json"
        config = json.loads(file.read_text())
        del config[left_out]
        file.write_text(json.dumps(config))
        assert_close(load(tmp_path / name)(mx.array(tokens(40))), expected)


def test_the_embedded_base_past_a_window_of_512(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(embedded.path() / name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"sliding_window": 512}))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = tokens(700, 4096)[:1]
    assert_close(load(tmp_path)(mx.array(ids)), logits(theirs, ids))


HYBRID = {"model_type": "granitemoehybrid", "hidden_act": "silu", "num_local_experts": 4, "mamba_n_heads": 8}
LONG_FULL = {"full_attention": LONGROPE | {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown type": ({"model_type": "nonsense"}, "not model type nonsense"),
    "type it doesn't hold": ({"model_type": "gpt2"}, "not model type gpt2"),
    "no type": ({"model_type": None}, "not model type None"),
    "activation": ({"hidden_act": "mish"}, "no hidden_act mish"),
    "angles it doesn't know": ({"rope_parameters": LINEAR | {"rope_type": "nosuch"}}, "no rope_type nosuch"),
    "untruncated yarn": ({"rope_parameters": YARN | {"truncate": False}}, "truncate: false"),
    "heads of another size": ({"head_dim": 32}, "head_dim of 16"),
    "layers of another kind": (
        {"model_type": "qwen2", "rms_norm_eps": 1e-6, "hidden_act": "silu", "layer_types": ["chunked_attention"] * 3},
        "no layer type chunked_attention",
    ),
    "Granite 4 with experts": (
        HYBRID | {"layer_types": ["attention"] * 3},
        "granitemoehybrid with num_local_experts: 0 only",
    ),
    "capped logits": (
        {"model_type": "gemma3_text", "final_logit_softcapping": 30.0},
        "gemma3_text with final_logit_softcapping: null only",
    ),
    "longrope by layer type": (
        {
            "model_type": "olmo3",
            "hidden_act": "silu",
            "layer_types": MIXED,
            "rope_parameters": {"sliding_attention": LINEAR, **LONG_FULL},
        },
        "no rope_type longrope for one of several layer types",
    ),
    "untied gemma": (
        {"model_type": "gemma", "rms_norm_eps": 1e-6, "head_dim": 16, "tie_word_embeddings": False},
        "gemma with tie_word_embeddings: true only",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_computed_as_configured_is_one_line(case: str, tmp_path: Path) -> None:
    changes, expected = REFUSED[case]
    published(tmp_path, "Starcoder2", {})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=expected) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"model {tmp_path}: ")
    assert "--engine torch" in str(caught.value) and "\n" not in str(caught.value)
