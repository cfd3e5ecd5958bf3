"""A tiny StarCoder2 in a folder, and what the engine needs of a tokenizer: enough to test steps in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Starcoder2Config, Starcoder2ForCausalLM

from longrepo.config.load import load_settings
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
