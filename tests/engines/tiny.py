"""A tiny StarCoder2 in a folder, and what the engine needs of a tokenizer: enough to test steps in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Starcoder2Config, Starcoder2ForCausalLM

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings

VOCABULARY, ADDED = 96, 4


@dataclass
class TinyTokenizer:
    vocabulary_size: int = VOCABULARY + ADDED
    initial_from: dict[int, int] = field(default_factory=lambda: {VOCABULARY + k: 3 + k for k in range(ADDED)})


def model_folder(folder: Path, **changes: Any) -> Path:
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "sliding_window": 16,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    torch.manual_seed(7)
    Starcoder2ForCausalLM(Starcoder2Config(**shape | changes)).save_pretrained(folder)
    return folder


def settings(folder: Path, *overrides: str) -> Settings:
    exact = ("lora.r=4", "lora.dropout=0", "training.precision=float32")
    return load_settings(None, [f"model.name={folder}", *exact, *overrides])


def trained_rows_folder(folder: Path) -> Path:
    """The embedded model as one that was trained with structure tokens: rows of theirs, and a tokenizer with them."""
    from longrepo.config.schema import ModelSettings
    from longrepo.data.tokenizer_loading import load_tokenizer
    from longrepo.engines.torch.device import select_torch_device
    from longrepo.engines.torch.load import load_base

    tokenizer = load_tokenizer("embedded")
    model: Any = load_base(
        ModelSettings(name="embedded", quantization="none"), tokenizer, select_torch_device("cpu", "float32")
    )[0]
    with torch.no_grad():
        for place_, id in enumerate(tokenizer.structure_ids.values()):
            model.get_input_embeddings().weight[id] = place_ / 64
    model.save_pretrained(folder)
    tokenizer.write(folder)
    return folder
