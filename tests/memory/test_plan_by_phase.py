"""Each phase is planned at its own positions. Needs are made up and follow the window; positions are real."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import Starcoder2Config

from longrepo.config.loader import load_settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.engines.base import StepMethod
from longrepo.engines.model_shape import read_config
from longrepo.errors import InputError
from longrepo.memory import planner as planner_module
from longrepo.memory.budget import GIB, Budget
from longrepo.memory.estimate import StepMemory
from longrepo.memory.planner import MemoryPlanner, PhaseMemoryPlan, plan_run


@dataclass
class MadeUp:
    """A MiB for each token that a token sees."""

    config: Any
    settings: Any
    device: str
    dtype: str
    added: int
    engine: str = "torch"
    chunked_unsupported_reason: str | None = None
    model_bytes: tuple[int, int] = (0, 0)

    def step(self, method: StepMethod, tokens: int) -> StepMemory:
        return StepMemory(0, 0, 0, 0, 0, min(self.config.sliding_window or tokens, tokens) << 20, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StarCoder2 of 128 positions with a window of 16."""
    folder = tmp_path_factory.mktemp("model")
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Starcoder2Config(**shape, num_key_value_heads=2, vocab_size=96, sliding_window=16,
                              max_position_embeddings=128)  # fmt: skip
    config.save_pretrained(folder)
    return folder


def planned(model: Path, context: str, length: int = 160, budget: float = 64) -> PhaseMemoryPlan:
    """Phase 4 of `length` tokens with these positions."""
    phase = f"{{min_length: 140, max_length: {length}, epochs: 1{context}}}"
    settings = load_settings(None, [
        f"model.name={model}", "model.quantization=none", "long_context.phase1_max_length=64", "data.overlap=0",
        "long_context.phase2_min_length=80", "long_context.phase2_max_length=96", "long_context.phase3_min_length=100",
        "long_context.phase3_max_length=128", f"long_context.further_phases=[{phase}]",
    ])  # fmt: skip
    planner = MemoryPlanner.of(settings, "mps", "float32")
    return plan_run(planner, make_schedule(settings)[-1:], Budget(int(budget * GIB), "made up", limit=True)).phases[4]


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_module, "Estimator", MadeUp)


def test_windows_of_a_phase_change_what_it_needs(model: Path) -> None:
    full, kept = (
        planned(model, ", context: {method: linear, window: full}"),
        planned(model, ", context: {target_length: 160}"),
    )
    assert (full.chosen.peak, kept.chosen.peak) == (160 << 20, 16 << 20)
    line = full.line(Budget(GIB, "made up", limit=True))
    assert "phase 4 (160 tokens, positions linear to 160 tokens, window full)" in line
    assert full.as_dict()["context"] == {"method": "linear", "target_length": 160, "window": "full"}
    assert json.dumps(kept.as_dict()["context"]) == '{"target_length": 160}'


def test_a_phase_that_does_not_fit_names_its_own_settings(model: Path) -> None:
    with pytest.raises(InputError) as caught:
        planned(model, ", context: {method: linear, window: full}", 512, 0.3)
    said = str(caught.value)
    assert "memory.budget_gb: phase 4 (512 tokens) needs at least 0.50 GiB" in said
    assert "long_context.further_phases[0].max_length=256;" in said
    assert said.endswith("or long_context.further_phases[0].enabled=false")


def test_positions_that_cannot_be_are_refused_by_the_phases_own_settings(model: Path) -> None:
    def refused(context: str) -> str:
        with pytest.raises(InputError) as caught:
            planned(model, context)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    first = "long_context.further_phases[0]"
    assert f"{first}.context.method: linear to 160 tokens with an attention window of 16" in (
        said := refused(", context: {method: linear}")
    )
    assert f"Use {first}.context.window=full" in said
    assert f"{first}.max_length: 160 tokens, and the positions of" in (said := refused(", context: {window: full}"))
    assert f"{first}.context.target_length=160 and a {first}.context.method" in said
    assert f"{first}.max_length: 160 tokens" in refused("")
    assert f"{first}.context.factor: " in refused(", context: {method: linear, factor: 1.1, window: full}")
    assert f"{first}.context.target_length: 160 is below the 16,384 tokens" in (
        refused_by_native(model, ", context: {target_length: 160, window: full}")
    )


def refused_by_native(model: Path, context: str) -> str:
    """The same with a model that reaches farther than the phase's target."""
    config = read_config(str(model))
    folder = model / "farther"
    config.max_position_embeddings = 16384
    config.save_pretrained(folder)
    with pytest.raises(InputError) as caught:
        planned(folder, context)
    return str(caught.value)
