"""MLX's chunked step against the plain one: loss and every gradient, for several architectures, lengths and stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import llama

from longrepo.config.loader import load_settings
from longrepo.engines.base import Batch, StepMethod
from longrepo.engines.mlx.device import select_mlx_device
from longrepo.engines.mlx.engine import MlxEngine
from longrepo.engines.mlx.load import quantize_linear
from longrepo.engines.mlx.lora import add_trained_tokens
from longrepo.engines.mlx.models import build
from longrepo.errors import InputError, RunError

VOCABULARY, LAYERS, WINDOW = 100, 4, 13
TRAINED_ROWS = (7, 50, 98, 99)
SHAPE: dict[str, Any] = {
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rms_norm_eps": 1e-5,
    "norm_epsilon": 1e-5,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "starcoder2": {"hidden_act": "gelu_pytorch_tanh", "use_bias": True, "sliding_window": None},
    "starcoder2 windowed": {"hidden_act": "gelu_pytorch_tanh", "use_bias": True, "sliding_window": WINDOW},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    "qwen2": {
        "hidden_act": "silu",
        "sliding_window": WINDOW,
        "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2,
    },
    "mistral": {"hidden_act": "silu", "sliding_window": WINDOW},
    "gemma": {"hidden_act": "gelu_pytorch_tanh", "head_dim": 16, "attention_bias": False},
}
ARCHITECTURES = (
    "starcoder2",
    "starcoder2 windowed",
    "starcoder2 windowed untied",
    "llama",
    "llama mixed",
    "llama mixed untied",
    "qwen2",
    "mistral untied",
    "gemma",
)
STORES = (
    StepMethod("chunked", 16),
    StepMethod("chunked", 16, "recompute", 2),
    StepMethod("chunked", 16, "recompute", 3),
    StepMethod("chunked", 16, "disk"),
)
Named = dict[str, mx.array]


def model_of(kind: str, quantized: bool = False) -> Any:
    """Frozen, float32, with random weights that make every part count."""
    name, tied = kind.removesuffix(" untied"), not kind.endswith(" untied")
    shape = SHAPE | {"tie_word_embeddings": tied, "hidden_size": 64 if quantized else 32}  # groups of 64
    if name == "llama mixed":
        mixed = {"layer_types": ["full_attention", "sliding_attention"] * 2}
        asked = shape | mixed | {"model_type": "llama", "sliding_window": WINDOW}
        model: Any = llama.Model(llama.ModelArgs.from_dict(asked))
    else:
        model = build(shape | {"model_type": name.split()[0]} | CONFIGS[name])
    mx.random.seed(7)
    values = [
        (
            path,
            array + 0.15 * mx.random.normal(array.shape) if array.ndim == 1 else 0.15 * mx.random.normal(array.shape),
        )
        for path, array in tree_flatten(model.parameters())
    ]
    model.update(tree_unflatten(values))
    for path, module in [*model.named_modules()] if quantized else ():
        if isinstance(module, nn.Linear) and ".layers." in path:
            packed = quantize_linear(module)
            assert packed is not None
            model.update_modules(tree_unflatten([(path, packed)]))
    model.freeze()
    return model


def engine_of(model: Any, *overrides: str) -> MlxEngine:
    """With trained rows and an adapter that counts: LoRA's B starts at zero, which would hide A's gradient."""
    modules = [name for name in ("c_fc", "c_proj", "gate_proj", "up_proj", "down_proj") if name in model.layers[0].mlp]
    asked = [
        "model.quantization=none",
        "training.precision=float32",
        "training.use_gradient_checkpointing=false",
        "lora.r=4",
        "lora.dropout=0",
        f"lora.target_modules=[{', '.join(('q_proj', 'k_proj', 'v_proj', 'o_proj', *modules))}]",
    ]
    settings = load_settings(None, [*asked, *overrides])
    rows = add_trained_tokens(model, TRAINED_ROWS, VOCABULARY)
    engine = MlxEngine(model, rows, settings, select_mlx_device("cpu", settings.training.precision))
    for slot in engine.slots:
        if slot.attribute == "lora_b":
            slot.value = 0.05 * mx.random.normal(slot.value.shape)
    rows.weight = rows.weight + 0.05 * mx.random.normal(rows.weight.shape)
    mx.eval([slot.value for slot in engine.slots])
    return engine


@pytest.fixture(scope="module")
def engine() -> MlxEngine:
    return engine_of(model_of("starcoder2 windowed"))


def random_batch(*lengths: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        weights = rng.random(length) * (rng.random(length) > 0.3)
        weights[-1] = 1.0
        rows.append((rng.integers(0, VOCABULARY, length), weights))
    return Batch.of(rows, 0)


def gradients(engine: MlxEngine, method: StepMethod, *batches: Batch) -> tuple[float, Named]:
    engine.use(method)
    engine.drop_gradients()
    weight = sum(batch.weight for batch in batches)
    loss = sum(engine.accumulate(batch, weight, key) for key, batch in enumerate(batches)) / weight
    return loss, dict(engine._gradients.by_name)


def norm(array: mx.array) -> float:
    return mx.linalg.norm(array.astype(mx.float32)).item()  # type: ignore[return-value]


def assert_same(ours: Named, plain: Named, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of each gradient's own norm. What vanishes exactly (queries that see one key) is noise in
    the plain step: there the norm of all gradients counts, forty times finer."""
    assert ours.keys() == plain.keys()
    whole = float(np.linalg.norm([norm(gradient) for gradient in plain.values()]))
    assert whole > 0
    for name, gradient in plain.items():
        assert ours[name].dtype == mx.float32, name
        assert norm(ours[name] - gradient) <= tolerance * max(norm(gradient), whole / 40), name


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_loss_and_every_gradient_are_the_plain_step_s(kind: str) -> None:
    engine = engine_of(model_of(kind))
    assert engine.chunked_unsupported_reason() is None
    for length in (2, 16, 33, 70):
        batch = random_batch(length, seed=length)
        loss, plain = gradients(engine, StepMethod(), batch)
        assert plain.keys() == {slot.name for slot in engine.slots}
        ours, chunked = gradients(engine, STORES[1 if length == 70 else 0], batch)
        assert ours == pytest.approx(loss, rel=1e-5)
        assert_same(chunked, plain)


@pytest.mark.parametrize("chunk", [7, 16, 64, 70, 128])
def test_any_chunk_size_with_dropout_padding_and_accumulation(chunk: int) -> None:
    engine = engine_of(model_of("llama mixed"), "lora.dropout=0.3")
    batches = [random_batch(33, 70, 7), random_batch(20, seed=1)]
    loss, plain = gradients(engine, StepMethod(), *batches)
    ours, chunked = gradients(engine, StepMethod("chunked", chunk), *batches)
    assert ours == pytest.approx(loss, rel=1e-5)
    assert_same(chunked, plain)


def test_dropout_changes_with_the_key_alone() -> None:
    engine = engine_of(model_of("starcoder2 windowed"), "lora.dropout=0.3")
    batch = random_batch(60)
    engine.use(StepMethod("chunked", 16))
    first, other, again = (engine.accumulate(batch, 1.0, key) for key in (1, 2, 1))
    assert first == again != other


def test_chunks_without_a_scored_token(engine: MlxEngine) -> None:
    ids = np.random.default_rng(3).integers(0, VOCABULARY, 80)
    for scored in ([70], [1], [30, 31, 79], [20, 60]):
        weights = np.zeros(80)
        weights[scored] = 0.5
        batch = Batch.of([(ids, weights)], 0)
        loss, plain = gradients(engine, StepMethod(), batch)
        ours, chunked = gradients(engine, StepMethod("chunked", 16), batch)
        assert ours == pytest.approx(loss, rel=1e-5)
        assert_same(chunked, plain)
    engine.drop_gradients()
    assert engine.accumulate(Batch.of([(ids, np.zeros(80))], 0), 1.0, 0) == 0.0
    assert not engine._gradients.by_name


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_store_never_changes_a_bit(quantised: bool, precision: str) -> None:
    model = model_of("starcoder2 windowed", quantised)
    if precision == "bfloat16":
        model.set_dtype(mx.bfloat16)
    engine = engine_of(model, f"training.precision={precision}", "lora.dropout=0.1")
    batch = random_batch(40)
    loss, memory = gradients(engine, STORES[0], batch)
    for method in (*STORES[1:], StepMethod("chunked", 16, "recompute", 9)):
        again, other = gradients(engine, method, batch)
        assert again == loss
        assert all(mx.array_equal(other[name], gradient) for name, gradient in memory.items()), method


def test_a_quantised_base_gives_the_plain_step_s_gradients() -> None:
    engine = engine_of(model_of("llama", quantized=True))
    assert isinstance(engine.model.layers[0].mlp.down_proj.linear, nn.QuantizedLinear)
    batch = random_batch(100, 60)
    loss, plain = gradients(engine, StepMethod(), batch)
    ours, chunked = gradients(engine, STORES[0], batch)
    assert ours == pytest.approx(loss, rel=1e-5)
    assert_same(chunked, plain)


@pytest.mark.parametrize("quantised", [False, True])
def test_bfloat16_is_about_as_far_from_the_truth_as_the_plain_step(quantised: bool) -> None:
    batch = random_batch(70, 50)
    rounded, full = model_of("starcoder2 windowed", quantised), model_of("starcoder2 windowed", quantised)
    rounded.set_dtype(mx.bfloat16)
    full.update(rounded.parameters())
    full.set_dtype(mx.float32)
    engine, exact = engine_of(rounded, "training.precision=bfloat16"), engine_of(full)
    for slot, truth in zip(engine.slots, exact.slots, strict=True):
        truth.value = slot.value
    _, truth = gradients(exact, StepMethod(), batch)
    _, plain = gradients(engine, StepMethod(), batch)
    _, chunked = gradients(engine, STORES[0], batch)

    def error(of: Named) -> float:
        return float(np.linalg.norm([norm(of[name] - gradient) for name, gradient in truth.items()]))

    assert 0 < error(chunked) <= 1.5 * error(plain)


@pytest.mark.parametrize("method", STORES, ids=str)
def test_a_step_leaves_the_model_as_it_was(engine: MlxEngine, method: StepMethod) -> None:
    """The very arrays: a tracer left behind would keep a chunk's graph alive, or fail at the next evaluation."""
    layers = list(engine.model.model.layers)
    held = dict(tree_flatten(engine.model.parameters()))
    values = {name: np.array(array) for name, array in held.items()}
    gradients(engine, method, random_batch(60))
    after = dict(tree_flatten(engine.model.parameters()))
    assert after.keys() == held.keys()
    assert all(after[name] is array for name, array in held.items())
    assert all(np.array_equal(np.array(array), values[name]) for name, array in after.items())
    assert all(one is other for one, other in zip(engine.model.model.layers, layers, strict=True))


def test_what_is_frozen_keeps_its_values_and_gets_no_gradient() -> None:
    engine = engine_of(model_of("starcoder2 windowed"))
    batch = random_batch(60)
    _, everything = gradients(engine, STORES[0], batch)
    engine.apply_update(1e-3, 1.0)
    count = engine.freeze(["c_fc", "c_proj"])
    before = {slot.name: slot.value for slot in engine.slots}
    frozen = {name for name in before if "c_fc" in name or "c_proj" in name}
    assert count == sum(before[name].size for name in frozen) > 0
    _, found = gradients(engine, STORES[0], batch)
    assert found.keys() == everything.keys() - frozen
    engine.apply_update(1e-3, 1.0)
    assert {slot.name for slot in engine.slots if mx.array_equal(slot.value, before[slot.name])} == frozen


def test_the_disk_s_file_has_no_name_and_needs_a_folder(engine: MlxEngine, tmp_path: Path) -> None:
    engine.use(StepMethod("chunked", 16, "disk"), tmp_path)
    engine.accumulate(random_batch(60), 1.0, 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="can't create a file for the step's store"):
        engine.use(StepMethod("chunked", 16, "disk"), tmp_path / "missing")


def test_an_architecture_that_does_not_ask_its_cache_is_refused() -> None:
    model = model_of("starcoder2")

    class Deaf(type(model.layers[0])):  # type: ignore[misc]
        def __call__(self, hidden: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
            return super().__call__(hidden, mask, None)

    for layer in model.layers:
        layer.__class__ = Deaf
    engine = engine_of(model)
    with pytest.raises(InputError, match="can't be trained in chunks"):
        engine.use(StepMethod("chunked", 16))
    assert engine.method == StepMethod()


def test_a_kind_of_layer_that_comes_late_is_tried() -> None:
    """Two layers of full attention, then two with a window: the first of these ignores its cache."""
    model = model_of("qwen2")
    engine = engine_of(model)
    assert engine.chunked_unsupported_reason() is None
    attention = model.model.layers[2].self_attn
    base = type(attention)
    attention.__class__ = type(
        "Forgetful", (base,), {"__call__": lambda self, x, mask, _: base.__call__(self, x, mask)}
    )
    again = MlxEngine(model, engine.rows, engine._settings, select_mlx_device("cpu", "float32"))
    assert "a layer did not ask its cache" in str(again.chunked_unsupported_reason())
    assert len(model.model.layers) == LAYERS
