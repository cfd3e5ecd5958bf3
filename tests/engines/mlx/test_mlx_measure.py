"""MLX's plan, measured on one and two layers, against a step of the whole model; shapes, caches and limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from longrepo.config.loader import load_settings
from longrepo.config.schema import Settings
from longrepo.engines.base import Batch, Placement, StepBytes, StepMethod
from longrepo.engines.mlx.device import MIN_CACHE, mlx_dtype_name, set_memory_limits
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.kv_cache import cache_bytes
from longrepo.engines.mlx.load import meta_model
from longrepo.engines.mlx.lora import add_trained_tokens
from longrepo.engines.mlx.measure import MlxMeasurement, model_bytes
from longrepo.engines.model_shape import read_config, read_shape
from longrepo.memory.estimate import Estimator, extrapolate_square

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
QWEN = STARCODER | {
    "model_type": "qwen3_5_text",
    "layer_types": ["linear_attention", "full_attention"] * 3,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "sliding_window": None,
}
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
    "qwen3.5, on disk": (QWEN, StepMethod("chunked", 32, "disk"), mx.float32, ("lora.target_modules=auto",)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_many_layers_is_planned_from_a_few(tmp_path: Path, case: str) -> None:
    tree, method, dtype, overrides = CASES[case]
    config, settings = config_of(tmp_path, tree | {"num_hidden_layers": 6}), settings_of(*overrides)
    planned = MlxMeasurement(config, settings, method, "cpu", dtype, 2).whole(100)
    measured = measured_peak(config, settings, method, dtype, 100)
    assert 0.95 * measured <= highest(planned) <= 1.15 * measured  # how far MLX dispatches ahead differs


def test_a_batch_of_which_little_is_scored_needs_less(tmp_path: Path) -> None:
    run = MlxMeasurement(config_of(tmp_path, STARCODER), settings_of(), CHUNKS, "cpu", mx.float32, 2)
    little = run.at(2, 230, every_chunk=True, scored=32)
    assert little["peak head"] < run.at(2, 230, every_chunk=True)["peak head"]


@pytest.mark.parametrize("method", [CHUNKS, StepMethod("chunked", 32, "disk"), StepMethod()], ids=str)
def test_four_bit_layers_are_planned_for_every_store(tmp_path: Path, method: StepMethod) -> None:
    settings = settings_of("model.quantization=nf4")
    wide = STARCODER | {"hidden_size": 256, "intermediate_size": 1024}
    config = config_of(tmp_path, wide)
    planned = MlxMeasurement(config, settings, method, "cpu", mx.float32, 2).at(2, 100)
    measured = measured_peak(config, settings, method, mx.float32, 100)
    assert 0.95 * measured <= highest(planned) <= 1.15 * measured


def test_nothing_of_a_measurement_stays(tmp_path: Path) -> None:
    run = MlxMeasurement(config_of(tmp_path, STARCODER), settings_of(), CHUNKS, "cpu", mx.float32, 2)
    before = mx.get_active_memory()
    assert run.at(2, 70)["weights"] > 1.5 * 2**20
    assert run.chunked_unsupported_reason() is None
    assert mx.get_active_memory() - before < 1024  # bytes: a scalar or two that MLX keeps


def test_chunks_that_are_skipped_would_not_be_the_highest(tmp_path: Path) -> None:
    run = MlxMeasurement(config_of(tmp_path, STARCODER), settings_of(), CHUNKS, "cpu", mx.float32, 2)
    full, sampled = run.at(1, 230, every_chunk=True), run.at(1, 230)
    assert highest(sampled) == pytest.approx(highest(full), rel=0.05)
    assert sampled["kept"] == full["kept"]


def test_layers_grow_evenly_and_a_disk_store_is_counted(tmp_path: Path) -> None:
    config = config_of(tmp_path, STARCODER | {"num_hidden_layers": 4})
    for method in (CHUNKS, StepMethod("chunked", 32, "disk")):
        run = MlxMeasurement(config, settings_of(), method, "cpu", mx.float32, 2)
        direct, extrapolated = run.at(4, 70), run.whole(70)
        for name in ("weights", "adapter", "gradients", "moments", "kept", "disk_written", "disk_held"):
            assert extrapolated[name] == pytest.approx(direct[name], rel=0.01), name
        assert (direct["disk_written"] > 0) == (method.store == "disk")


@pytest.mark.parametrize("store", ["memory", "disk"])
@pytest.mark.parametrize("window", [None, 64, 1000], ids=["no window", "a short window", "a long window"])
def test_long_sequences_are_planned_from_short_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int | None, store: Any
) -> None:
    monkeypatch.setenv("LONGREPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("longrepo.memory.estimate.MLX_CHUNKED_TOKENS", 256)
    method, settings = StepMethod("chunked", 32, store), settings_of(*(() if window else (OF_LLAMA,)))
    tree = STARCODER | {"num_hidden_layers": 1, "sliding_window": window or 4096}
    config = config_of(tmp_path, tree if window else LLAMA | {"num_hidden_layers": 1})
    one = Estimator(config, settings, "cpu", "float32", 2, "mlx")
    lengths: list[int] = []
    measured = MlxMeasurement.whole
    monkeypatch.setattr(MlxMeasurement, "whole", lambda run, tokens: lengths.append(tokens) or measured(run, tokens))
    planned = one.step(method, 960).peak
    assert lengths == ([128] if window == 64 else [288, 544])
    direct = highest(MlxMeasurement(config, settings, method, "cpu", mx.float32, 2).at(1, 960, every_chunk=True))
    assert 0.95 * direct <= planned <= 1.1 * direct


def test_what_grows_with_the_square_of_the_length_is_planned_so() -> None:
    def step(tokens: int) -> StepBytes:
        parts = {"weights": 100, "adapter": 10, "gradients": 10, "moments": 20, "kept": 3 * tokens}
        return parts | {"peak forward": 140 + 2 * tokens + tokens * tokens, "peak head": 0}

    assert extrapolate_square(512, step(512), 1024, step(1024), 3000) == step(3000)


@pytest.mark.parametrize("tree", [STARCODER, LLAMA], ids=["starcoder2", "llama"])
def test_a_models_bytes_are_counted_without_evaluating_it(tmp_path: Path, tree: dict[str, Any]) -> None:
    overrides = (OF_LLAMA,) if tree is LLAMA else ()
    config, settings = config_of(tmp_path, tree), settings_of("model.quantization=nf4", *overrides)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    weights, adapter = model_bytes(config, settings, mx.bfloat16, 2)
    assert mx.get_peak_memory() - before < 2**16
    assert adapter == MlxMeasurement(config, settings, CHUNKS, "cpu", mx.bfloat16, 2).at(2, 40)["adapter"]
    before = mx.get_active_memory()
    model = meta_model(config.to_dict() | {"vocab_size": config.vocab_size + 2}, settings, mx.bfloat16)
    mx.eval(model.parameters())
    assert weights == pytest.approx(mx.get_active_memory() - before, rel=0.01)


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
