"""MLX's plan against MLX's own counter, and the parts that it is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.engines.base import Batch, Placement, StepBytes, StepMethod
from longrepo.engines.mlx.allocator import Allocator
from longrepo.engines.mlx.device import MIN_CACHE, mlx_dtype_name, set_memory_limits
from longrepo.engines.mlx.dry_run import MlxDryRun
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.fake import FakeArrays
from longrepo.engines.mlx.kv_cache import cache_bytes
from longrepo.engines.mlx.lazy_graph import trace
from longrepo.engines.mlx.load import meta_model
from longrepo.engines.mlx.lora import add_trained_tokens
from longrepo.engines.model_shape import read_config, read_shape

STARCODER: dict[str, Any] = {
    "model_type": "starcoder2",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "max_position_embeddings": 4096,
    "sliding_window": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA = STARCODER | {"model_type": "llama", "tie_word_embeddings": False, "sliding_window": None}
OF_LLAMA = "lora.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]"
CHUNKS = StepMethod("chunked", 32)


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.Device(mx.DeviceType.cpu))
    yield
    mx.set_default_device(before)


def config_of(folder: Path, tree: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(tree))
    return read_config(str(folder))


def settings_of(*overrides: str) -> Settings:
    return load_settings(None, ("lora.r=4", "model.quantization=none", *overrides))


def highest(measured: StepBytes) -> int:
    return max(value for name, value in measured.items() if name.startswith("peak "))


def measured_peak(
    config: Any, settings: Settings, method: StepMethod, dtype: mx.Dtype, tokens: int, scored: int | None = None
) -> int:
    """Of a second micro-batch and the update after it, by MLX's counter; `scored`: of the last tokens, None: all."""
    mx.clear_cache()
    before = mx.get_active_memory()
    tree = config.to_dict() | {"vocab_size": config.vocab_size + 2}
    model = meta_model(tree, settings, dtype)
    mx.eval(model.parameters())
    rows = add_trained_tokens(model, range(tree["vocab_size"] - 2, tree["vocab_size"]), tree["vocab_size"])
    engine = MlxEngine(model, rows, settings, Placement("cpu", mlx_dtype_name(dtype)))
    engine.use(method)
    left = tokens - (scored or tokens)
    batch = Batch.of([([1] * tokens, [0.0] * left + [1.0] * (tokens - left))], 0)
    engine.accumulate(batch, 1.0, 0)
    engine.apply_update(1e-4, 1.0)
    engine.accumulate(batch, 1.0, 0)
    peaks = []
    for _ in range(3):  # how far MLX dispatches ahead depends on the machine's load
        mx.reset_peak_memory()
        engine.accumulate(batch, 1.0, 0)
        engine.apply_update(1e-4, 1.0)
        peaks.append(mx.get_peak_memory() - before)
        engine.accumulate(batch, 1.0, 0)
    return max(peaks)


CASES = {
    "starcoder2": (STARCODER, CHUNKS, mx.float32, ()),
    "starcoder2, 4-bit": (STARCODER, CHUNKS, mx.float32, ("model.quantization=nf4",)),
    "starcoder2, recomputed": (STARCODER, StepMethod("chunked", 32, "recompute", 2), mx.float32, ()),
    "starcoder2, plain": (STARCODER, StepMethod(), mx.float32, ("training.use_gradient_checkpointing=false",)),
    "llama, bfloat16": (LLAMA, CHUNKS, mx.bfloat16, (OF_LLAMA,)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_planned_as_mlx_counts_it(tmp_path: Path, case: str) -> None:
    tree, method, dtype, overrides = CASES[case]
    config, settings = config_of(tmp_path, tree), settings_of(*overrides)
    planned = MlxDryRun(config, settings, method, "cpu", dtype, 2).at(2, 100)
    measured = measured_peak(config, settings, method, dtype, 100)
    assert 0.98 * measured <= highest(planned) <= 1.08 * measured  # on a busy machine MLX dispatches less far ahead


def test_a_batch_of_which_little_is_scored_needs_less(tmp_path: Path) -> None:
    config, settings = config_of(tmp_path, STARCODER), settings_of()
    run = MlxDryRun(config, settings, CHUNKS, "cpu", mx.float32, 2)
    planned = highest(run.at(2, 230, every_chunk=True, scored=32))
    measured = measured_peak(config, settings, CHUNKS, mx.float32, 230, 32)
    assert 0.98 * measured <= planned <= 1.08 * measured
    assert planned < 0.99 * highest(run.at(2, 230))


def test_nothing_of_a_large_model_is_computed_or_allocated(tmp_path: Path) -> None:
    large = {"hidden_size": 3072, "intermediate_size": 12288, "num_attention_heads": 24, "vocab_size": 49152}
    config = config_of(tmp_path, STARCODER | large | {"num_hidden_layers": 30, "sliding_window": 4096})
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    found = MlxDryRun(
        config, settings_of("model.quantization=nf4"), StepMethod("chunked", 256), "cpu", mx.bfloat16, 2
    ).whole(600)
    assert mx.get_peak_memory() - before < 16 * 2**20
    assert found["weights"] > 1.5 * 2**30
    assert highest(found) > found["weights"] + 200 * 2**20


def test_chunks_that_are_left_out_would_not_be_the_highest(tmp_path: Path) -> None:
    run = MlxDryRun(config_of(tmp_path, STARCODER), settings_of(), CHUNKS, "cpu", mx.float32, 2)
    full, sampled = run.at(1, 230, every_chunk=True), run.at(1, 230)
    assert highest(sampled) == pytest.approx(highest(full), rel=0.02)
    assert sampled["kept"] == full["kept"]


def test_layers_grow_evenly_and_a_disk_store_is_counted(tmp_path: Path) -> None:
    config = config_of(tmp_path, STARCODER | {"num_hidden_layers": 4})
    for method in (CHUNKS, StepMethod("chunked", 32, "disk")):
        run = MlxDryRun(config, settings_of(), method, "cpu", mx.float32, 2)
        direct, extrapolated = run.at(4, 70), run.whole(70)
        for name, value in direct.items():
            assert extrapolated[name] == pytest.approx(value, rel=0.01), name
        assert (direct["disk_written"] > 0) == (method.store == "disk")
        assert run.chunked_unsupported_reason() is None


def test_an_operation_takes_over_the_buffer_of_what_nobody_needs_any_more() -> None:
    def peak(*needed: str) -> int:
        allocator = Allocator()
        fakes = FakeArrays(allocator)
        with fakes.evaluating():
            x = fakes.like(mx.zeros((1000, 1000)))
            y = mx.exp(x)
            z = mx.square(y)
            mx.eval(*({"y": y, "z": z}[name] for name in needed))
        return allocator.peaks["other"] - 4_000_000

    assert peak("z") == 4_000_000
    assert peak("y", "z") == 8_000_000


def test_what_is_held_is_counted_until_it_is_dropped() -> None:
    allocator = Allocator()
    fakes = FakeArrays(allocator)
    with fakes.evaluating():
        x = fakes.like(mx.zeros((1000, 1000)))
        y = x + 1
        mx.eval(y)
        assert allocator.live == 8_000_000
        del x
        fakes.settle()
        assert allocator.live == 4_000_000
        half = y[:500]
        mx.eval(half)
        del y
        fakes.settle()
        assert allocator.live == 4_000_000, "a slice holds the whole"


def test_a_graph_is_in_the_order_in_which_mlx_evaluates() -> None:
    x = mx.ones((2, 2))
    mx.eval(x)
    graph, given = trace([nn.softmax(x @ x, axis=-1) + (x * 2)])
    order = [op.name for op in graph.evaluation_order()]
    assert order.index("Matmul") < order.index("Softmax") < order.index("Add") == len(order) - 1
    assert any(array.shape == (2, 2) for array in given.values())


@pytest.mark.parametrize("tree", [STARCODER, LLAMA], ids=["starcoder2", "llama"])
def test_the_shape_is_counted_as_torch_counts_it(tmp_path: Path, tree: dict[str, Any]) -> None:
    config = config_of(tmp_path, tree)
    assert read_shape(config, "mlx") == read_shape(config, "torch")


def test_answers_hold_a_windows_keys_or_all(tmp_path: Path) -> None:
    a_token = 2 * 2 * 2 * 32 * 2  # layers, keys and values, heads, width, bytes
    assert cache_bytes(config_of(tmp_path, LLAMA), 1024, "bfloat16") == 1024 * a_token
    windowed = config_of(tmp_path, STARCODER)
    assert cache_bytes(windowed, 4096, "bfloat16") < cache_bytes(config_of(tmp_path, LLAMA), 4096, "bfloat16")


def test_limits_are_metals_and_come_from_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, int] = {}
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 5 * 2**30})
    for name in ("memory", "cache", "wired"):
        monkeypatch.setattr(mx, f"set_{name}_limit", lambda value, name=name: told.update({name: value}))
    set_memory_limits("cpu", 2**30, 2**31)
    assert told == {"cache": MIN_CACHE}, "the others are Metal's"
    choices = set_memory_limits("metal", 4 * 2**30, 5 * 2**30)
    assert len(choices) == 3
    assert told["memory"] == int(4 * 2**30 * 1.05)
    assert told["memory"] + told["cache"] == 5 * 2**30
    assert told["wired"] == 4 * 2**30
    set_memory_limits("metal", 6 * 2**30, 8 * 2**30)
    assert told["wired"] == 5 * 2**30, "no more than macOS recommends"
