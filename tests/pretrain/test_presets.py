"""What models are made of: exact for models everybody knows, and for the presets near what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longrepo.config.loader import load_settings
from longrepo.engines.model_shape import read_config, read_shape
from longrepo.errors import InputError
from longrepo.pretrain.presets import LEARNING_RATES, PRESET_CONTEXTS, find_preset, preset_names, size_files
from longrepo.pretrain.requirements import count_parameters, lora_settings

KNOWN = Path(__file__).parent / "known"
# As published: the sum of the elements of the released safetensors files.
PUBLISHED = {
    "starcoder2-3b": 3_030_371_328,
    "llama-3.2-1b": 1_235_814_400,
    "qwen2.5-coder-1.5b": 1_543_714_304,
    "mistral-7b-v0.1": 7_241_732_096,
    "gpt2": 124_439_808,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_known_model_is_counted_exactly(name: str) -> None:
    config = AutoConfig.from_pretrained(KNOWN / name)
    parts = count_parameters(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert parts.total == sum(p.numel() for p in model.parameters()) == PUBLISHED[name]
    assert parts.by_part["other"] == 0
    assert parts.by_part["embedding"] == config.vocab_size * config.hidden_size
    assert parts.tied == (parts.by_part["head"] == 0) == (name != "mistral-7b-v0.1")


def test_positions_have_parameters_only_where_they_are_learnt() -> None:
    parts = {name: count_parameters(AutoConfig.from_pretrained(KNOWN / name)) for name in ("gpt2", "llama-3.2-1b")}
    assert parts["gpt2"].by_part["positions"] == 1024 * 768 and not parts["gpt2"].rotary
    assert parts["gpt2"].position_share == pytest.approx(0.00632, abs=1e-5)
    assert parts["llama-3.2-1b"].by_part["positions"] == 0 and parts["llama-3.2-1b"].rotary


def test_lora_is_counted_at_the_configured_rank_on_the_modules_that_are_there() -> None:
    """By hand, of Llama-3.2-1B: q and o 2048 → 2048, k and v 2048 → 512, three of the MLP 2048 ↔ 8192."""
    shape = read_shape(AutoConfig.from_pretrained(KNOWN / "llama-3.2-1b"))
    of = lora_settings(load_settings(None, ["lora.r=8"]), shape)
    assert of is not None and "gate_proj" in of.lora.target_modules
    a_layer = 2 * (2048 + 2048) + 2 * (2048 + 512) + 3 * (2048 + 8192)
    assert shape.lora_parameters(8, of.lora.target_modules) == 8 * 16 * a_layer


@pytest.mark.parametrize("size", [size for size in size_files() if size != "embedded"])
def test_a_preset_is_as_large_as_it_is_called_whatever_its_context(size: str, tmp_path: Path) -> None:
    counts = set()
    for context in (256, 4096):
        find_preset(f"{size}_{context}").write_config(tmp_path)
        config = read_config(str(tmp_path))
        assert config.max_position_embeddings == context and config.vocab_size == 49152
        counts.add(count_parameters(config).total)
    (count,) = counts
    assert count == pytest.approx(int(size.removesuffix("M")) * 1e6, rel=0.01)


def test_every_name_is_a_preset_of_its_context() -> None:
    assert {"150M_256", "150M_1024", "500M_4096", "embedded_2048"} <= set(preset_names())
    assert all(find_preset(name).name == name for name in preset_names())
    assert find_preset("150M").name == "150M_1024" and find_preset("embedded").name == "embedded_2048"
    assert LEARNING_RATES.keys() == size_files().keys()
    assert find_preset("200M_512").tokenizer == "bigcode/starcoder2-3b"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("160M_1024", "the nearest name is 150M_1024"),
        ("150m", "the nearest name is 150M"),
        ("350M_1000", "350M_1024"),
        ("", "names are a size and a context"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=nearest):
        find_preset(name)


def test_contexts_go_from_a_paragraph_to_starcoder2s() -> None:
    assert (
        PRESET_CONTEXTS[0] == 256 and PRESET_CONTEXTS[-1] == 16384 and list(PRESET_CONTEXTS) == sorted(PRESET_CONTEXTS)
    )
