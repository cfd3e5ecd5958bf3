"""The table of known bases: what it says of each can be read, counted and planned, without a network."""

from __future__ import annotations

import pytest

from longrepo.config.loader import load_settings
from longrepo.data.dialects import DIALECTS
from longrepo.engines.base import StepMethod
from longrepo.engines.known_bases import PLANNED_LENGTHS, USES, PlannedBase, best_fit, known_bases
from longrepo.engines.mlx.models import FAMILIES
from longrepo.engines.model_shape import read_config, read_shape
from longrepo.memory.planner import MemoryPlanner
from longrepo.memory.report import known_machines

BASES = known_bases()
WITH_SHAPE = [name for name, base in BASES.items() if base.config is not None]
PUBLISHED = {  # parameters, as their authors or the hub give them
    "bigcode/starcoder2-3b": 3_030_371_328,
    "Qwen/Qwen2.5-Coder-0.5B": 494_032_768,
    "Qwen/Qwen2.5-Coder-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-Coder-7B": 7_615_616_512,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "google/codegemma-2b": 2_506_172_416,
}
GIB = 2**30


@pytest.mark.parametrize("name", BASES)
def test_every_base_has_a_source_a_license_and_a_known_dialect(name: str) -> None:
    base = BASES[name]
    assert base.source and base.license and base.use in USES and name.count("/") == 1
    assert base.dialect is None or base.dialect in {row.name for row in DIALECTS}
    assert (base.config is None) == ("shape" in base.unverified) == (base.planned is None)


@pytest.mark.parametrize("name", WITH_SHAPE)
def test_a_shape_is_read_as_published_and_the_engines_are_as_they_are(name: str) -> None:
    base, config = BASES[name], read_config(name)
    assert base.config is not None and base.planned is not None
    same = ("hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size", "max_position_embeddings")
    assert {key: getattr(config, key) for key in same} == {key: base.config[key] for key in same}
    assert base.planned.mlx == (config.model_type in FAMILIES), "run benchmarks/memory/bases.py --engines"
    assert base.planned.steps.keys() in ({"mps", "cuda"}, set())  # of recurrent layers, minutes are needed


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name: str) -> None:
    shape, planned = read_shape(read_config(name)), BASES[name].planned
    assert planned is not None and shape.linear + shape.other == planned.parameters == PUBLISHED[name]


def test_figures_are_the_planners() -> None:
    """One of them, planned again: benchmarks/memory/bases.py makes all (minutes)."""
    name, tokens = "HuggingFaceTB/SmolLM2-135M", PLANNED_LENGTHS[0]
    planned, settings = BASES[name].planned, load_settings(None, [f"model.name={name}"])
    peak = MemoryPlanner.of(settings, "cuda", "bfloat16").estimator.step(StepMethod(), tokens).peak
    assert planned is not None and planned.steps["cuda"][str(tokens)] == (("plain", pytest.approx(peak, rel=0.02)),)


def test_the_fastest_method_within_the_budget_is_found() -> None:
    methods = (("plain", 8 * GIB), ("chunks of 1024, memory", 4 * GIB))
    planned = PlannedBase(1, True, None, {"mps": {"2048": methods}})
    assert [planned.first_fit("mps", 2048, size * GIB) for size in (9, 8, 5, 3)] == [*methods[:1] * 2, methods[1], None]
    assert planned.first_fit("mps", 4096, 9 * GIB) is None


def test_the_best_fit_grows_with_the_machine_and_is_free_to_use() -> None:
    usable = {machine.name: machine.usable for machine in known_machines()}
    found = [best_fit("mps", 2048, usable[f"Mac {size} GB"]) for size in (8, 16, 64)]
    sizes = [base.planned.parameters for base in found if base is not None and base.planned is not None]
    assert len(sizes) == 3 and sizes == sorted(sizes) and sizes[0] < sizes[1]
    assert all(base is not None and base.use == "free" and base.fim and base.code for base in found)
    assert best_fit("cuda", 2048, GIB // 2) is None


def test_on_a_cpu_the_smallest_is_the_best() -> None:
    found = best_fit("cpu", 2048, 0)
    assert found is not None and found.name == "Qwen/Qwen2.5-Coder-0.5B"
