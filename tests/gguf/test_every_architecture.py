"""A model read from its GGUF file computes what the model did that was written into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_gguf import SETTINGS, VOCABULARY, tiny_model, write_gguf
from transformers import AutoModelForCausalLM

from longrepo.gguf.architectures import ARCHITECTURES
from longrepo.gguf.folder import GgufConversion

TOKENS = torch.arange(80)[None] * 7 % VOCABULARY


def written(tmp_path: Path, file: Path) -> Path:
    (tmp_path / "model").mkdir()
    GgufConversion.of(file).write(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("case", SETTINGS)
def test_the_logits_are_the_model_s_own(case: str, tmp_path: Path) -> None:
    model = tiny_model(case)
    folder = written(tmp_path, write_gguf(tmp_path / "tiny.gguf", case, model))
    found = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert type(found) is type(model)
    assert found.config.rope_parameters == model.config.rope_parameters
    with torch.no_grad():
        torch.testing.assert_close(found(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)


def test_every_architecture_is_tried() -> None:
    assert {name for name, *_ in SETTINGS.values()} == ARCHITECTURES.keys()
