"""Which method is chosen, and what is said where none fits. Needs are made up: dry runs have tests of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.curriculum.schedule import Phase, make_schedule
from longrepo.engines.base import StepMethod
from longrepo.engines.model_shape import ModelShape
from longrepo.engines.registry import EngineSelection
from longrepo.errors import InputError
from longrepo.memory import planner as planner_module
from longrepo.memory.budget import GIB, Budget, find_budget
from longrepo.memory.calibration import with_calibration
from longrepo.memory.disk_writes import DiskWrites, PhaseWork
from longrepo.memory.estimate import StepMemory
from longrepo.memory.planner import MemoryPlanner, allowed_methods, disk_allowance, plan_run

SHAPE = ModelShape(
    30, 3072, 24, 49152, 2_878_341_120, 152_030_208,
    {"q_proj": 184320, "k_proj": 99840, "v_proj": 99840, "o_proj": 184320, "c_fc": 460800, "c_proj": 460800}, 16384,
    ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
)  # fmt: skip


@dataclass
class MadeUp:
    """A GiB of weights; plain work grows fast, kept inputs slowly, a chunk's work with its size."""

    config: Any
    settings: Settings
    device: str
    dtype: str
    added: int
    engine: str = "torch"
    chunked_unsupported_reason: str | None = None
    model_bytes: tuple[int, int] = (GIB, 0)

    def step(self, method: StepMethod, tokens: int) -> StepMemory:
        kept = tokens * 2**18
        rank = self.settings.lora.r * 2**22
        if method.step == "plain":
            return StepMemory(GIB, rank, 0, 0, kept, tokens * 2**20, 0)
        disk = kept if method.store == "disk" else 0
        kept = 0 if disk else kept // method.every
        return StepMemory(GIB, rank, 0, 0, kept, method.chunk * 2**20, 0, disk, disk)


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_module, "Estimator", MadeUp)


def planner(*overrides: str, disk: float = 100.0, overhead: int = 0) -> MemoryPlanner:
    settings = load_settings(None, overrides)
    return MemoryPlanner(settings, SHAPE, MadeUp(None, settings, "mps", "bfloat16", 20), overhead, int(disk * GIB))  # type: ignore[arg-type]


def phase(number: int, length: int) -> Phase:
    settings = load_settings(None, ["long_context.phase3_enabled=true"])
    return replace(make_schedule(settings)[number - 1], max_length=length)


def budget(gib: float) -> Budget:
    return Budget(int(gib * GIB), "memory.budget_gb", limit=True)


def chosen(gib: float, length: int = 4096, **given: Any) -> StepMethod:
    return (
        plan_run(planner(*given.pop("settings", ()), **given), [phase(3, length)], budget(gib)).phases[3].chosen.method
    )


def test_the_cheapest_that_fits_is_chosen_and_recomputing_comes_before_the_disk() -> None:
    assert chosen(8) == StepMethod()
    assert chosen(3.2) == StepMethod("chunked", 1024)
    assert chosen(2.4) == StepMethod("chunked", 256)
    assert chosen(2.2) == StepMethod("chunked", 512, "recompute", 2)
    assert chosen(1.7) == StepMethod("chunked", 256, "recompute", 4)
    assert chosen(1.5) == StepMethod("chunked", 256, "disk")
    assert chosen(1.3) == StepMethod("chunked", 128, "disk")


def test_what_the_settings_say_is_kept_to() -> None:
    assert chosen(8, settings=["memory.step=chunked"]) == StepMethod("chunked", 1024)
    assert chosen(8, settings=["memory.store=disk"]) == StepMethod("chunked", 512, "disk")
    assert chosen(8, settings=["memory.chunk_tokens=96"]) == StepMethod("chunked", 96)
    assert list(allowed_methods(load_settings(None, ["memory.step=plain"]), 4096, 30)) == [StepMethod()]


def test_a_chunk_is_shorter_than_the_sequence_where_one_is() -> None:
    assert {m.chunk for m in allowed_methods(load_settings(None), 300, 30)} == {0, 256, 128}
    assert {m.chunk for m in allowed_methods(load_settings(None), 100, 30)} == {0, 128}


def test_an_architecture_that_cannot_be_walked_in_chunks_is_trained_plainly() -> None:
    one = planner()
    one.estimator.chunked_unsupported_reason = "a layer did not ask its cache"  # type: ignore[misc]
    assert [rung.method for rung in one.estimates(4096)] == [StepMethod()]
    asked = planner("memory.store=disk")
    asked.estimator.chunked_unsupported_reason = "a layer did not ask its cache"  # type: ignore[misc]
    with pytest.raises(InputError, match="can't be trained in chunks: a layer did not ask its cache; leave step"):
        asked.estimates(4096)


def test_weights_above_the_budget_have_a_line_of_their_own() -> None:
    with pytest.raises(InputError, match=r"the weights alone need 1\.00 GiB, the budget is 0\.50 GiB .*raise it"):
        plan_run(planner(), [phase(1, 1024)], budget(0.5))
    with pytest.raises(InputError, match=r"1\.00 GiB and 0\.50 GiB of libraries"):
        plan_run(planner(overhead=GIB // 2), [phase(1, 1024)], budget(1.2))


def test_what_may_be_written_decides_between_a_disk_and_a_refusal() -> None:
    """1.5 GiB fit phase 3 only with a store on disk, 1.7 GiB also with layers computed again."""
    work = {3: PhaseWork(4096 * 10, 0)}
    one = plan_run(planner(), [phase(3, 4096)], budget(1.5)).phases[3].chosen
    enough = 10 * one.disk_written

    def method(gib: float, limit: int) -> StepMethod:
        writes = DiskWrites(limit, 0, 1, 0, lambda: work)
        return plan_run(planner(), [phase(3, 4096)], budget(gib), writes).phases[3].chosen.method

    assert one.disk_written > 0 and method(1.5, enough) == one.method
    assert method(1.7, enough - 1) == StepMethod("chunked", 256, "recompute", 4)
    with pytest.raises(InputError, match=r"^memory.disk_write_gb: phase 3 fits 1.50 GiB .* only with a store on disk"):
        method(1.5, enough - 1)
    with pytest.raises(InputError, match=r"^memory.budget_gb: phase 3"):  # no store would help
        method(1.05, enough)


def test_a_refusal_names_settings_that_do_fit() -> None:
    with pytest.raises(InputError, match="phase 3") as caught:
        plan_run(planner("memory.store=memory", "lora.r=64"), [phase(3, 4096)], budget(2.2))
    said = str(caught.value)
    assert "\n" not in said
    length = int(said.split("phase3_max_length=")[1].split(";")[0])
    assert chosen(2.2, length, settings=["memory.store=memory", "lora.r=64"]).chunk == 128
    with pytest.raises(InputError):
        chosen(2.2, length + 128, settings=["memory.store=memory", "lora.r=64"])
    assert "lora.r=16;" in said and chosen(2.2, settings=["memory.store=memory", "lora.r=16"])
    assert "store and chunk_tokens = auto (chunks of 256, 1 layer in 2)" in said
    assert "memory.budget_gb=2.4" in said
    assert "long_context.phase3_enabled=false" in said


def test_a_disk_too_small_for_the_store_is_known_before_the_start() -> None:
    with pytest.raises(InputError, match=r"memory\.max_disk_gb: phase 3 .* only with 1\.0 GiB on disk, and 0\.5 GiB"):
        plan_run(planner(disk=0.5), [phase(3, 4096)], budget(1.3))
    assert disk_allowance(load_settings(None, ["memory.max_disk_gb=0.001"]), None) == int(0.001 * GIB)


def test_a_length_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(InputError, match="starcoder2-3b reach 16,384"):
        plan_run(planner(), [phase(3, 32768)], budget(80))


def test_the_longest_length_fits_and_the_next_does_not() -> None:
    one = planner("memory.store=memory")
    longest = one.longest(int(2.2 * GIB))
    assert one.first_fit(longest, int(2.2 * GIB)) is not None
    assert one.first_fit(longest + 128, int(2.2 * GIB)) is None
    assert one.longest(GIB) == 0


def test_a_plan_says_its_phases_and_their_parts() -> None:
    plan = plan_run(planner(), [phase(1, 1024), phase(3, 4096)], budget(2.2))
    short, long = plan.lines()
    assert "phase 1 (1,024 tokens) needs 1.88 GiB of 2.20 GiB (memory.budget_gb): chunks of 512, memory" in short
    assert "1 layer in 2" in long
    assert plan.peak == plan.phases[3].chosen.peak and not plan.has_headroom
    assert plan_run(planner(), [phase(1, 1024), phase(3, 4096)], budget(80)).has_headroom
    written = json.loads(plan.as_json())["phases"]["3"]
    assert written["method"] == {"step": "chunked", "chunk": 512, "store": "recompute", "every": 2}
    assert written["peak"] == sum(written["parts"][p] for p in ("weights", "adapter", "kept", "working"))


def test_a_run_is_planned_with_the_budget_of_its_device() -> None:
    torch = EngineSelection("torch", "as asked")
    settings = load_settings(None, ["model.name=embedded", "memory.budget_gb=1.5"])
    here = MemoryPlanner.for_run(settings, torch, "cpu")
    assert (here.estimator.device, here.here) == ("cpu", True)
    assert here.budget == find_budget("cpu", 1.5) and here.budget.bytes <= 1.5 * GIB
    assert any(what.startswith("device: cpu") for what, _ in here.choices)
    named = MemoryPlanner.for_run(settings, torch, "cpu", budget_gb=0.5)
    assert named.here and named.budget == Budget(GIB // 2, "--budget-gb", limit=True)


def test_with_a_budget_given_a_run_is_planned_for_a_device_that_is_not_here() -> None:
    settings = load_settings(None, ["model.name=embedded"])
    cuda = MemoryPlanner.for_run(settings, EngineSelection("torch", "as asked"), "cuda", budget_gb=24)
    assert (cuda.estimator.device, cuda.estimator.dtype, cuda.here, cuda.overhead) == ("cuda", "bfloat16", False, 0)
    assert cuda.budget.bytes == 24 * GIB and cuda.choices == ()
    metal = MemoryPlanner.for_run(settings, EngineSelection("mlx", "as asked"), "mps", budget_gb=5.33)
    assert (metal.estimator.device, metal.estimator.engine) == ("metal", "mlx")
    with pytest.raises(InputError, match="--calibrate times this machine, and --device cuda with --budget-gb plans"):
        with_calibration(cuda, remeasure=True)
